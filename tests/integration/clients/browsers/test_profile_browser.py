"""`BROWSER_HOSTS` of the settings reaches the client of each profile browser."""

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from app.utils.exceptions import GoLoginAPIException
from tests.fixtures.scripted import scripted
from tests.fixtures.services import OpenContext

HOST = "0.0.0.0"
"""Another name of this machine, which the service does not know for one."""
PRODUCTS = pytest.mark.parametrize(
    ("product", "setting"), [("gologin", "gologin_local_url"), ("adspower", "adspower_url")]
)

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
async def app_url() -> AsyncIterator[str]:
    """Answers every call as the local API of both products and as the browser, which it says is on `HOST`."""
    async with scripted(b"") as server:
        port = urlsplit(server.url).port
        ws_url = f"ws://{HOST}:{port}/devtools/browser/x"
        started = {"code": 0, "data": {"ws": {"selenium": f"{HOST}:{port}"}}}
        body = json.dumps({**started, "status": "success", "wsUrl": ws_url, "webSocketDebuggerUrl": ws_url})
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        server.answers = [f"{head}Connection: close\r\n\r\n{body}".encode()]
        yield server.url


@PRODUCTS
async def test_a_browser_runs_on_a_host_of_the_settings(
    open_services: OpenContext, app_url: str, product: str, setting: str
):
    settings = {"profile_browser": product, setting: app_url}
    async with asyncio.timeout(60), open_services(**settings, browser_hosts=(HOST,)) as context:
        ws_url = await context.fleet.client.start_profile("id", timeout=30)
        assert urlsplit(ws_url).hostname == HOST


@PRODUCTS
async def test_a_browser_runs_on_no_other_host(
    open_services: OpenContext, app_url: str, product: str, setting: str
):
    settings = {"profile_browser": product, setting: app_url}
    async with asyncio.timeout(60), open_services(**settings) as context:
        with pytest.raises(
            GoLoginAPIException, match=r"another host, 0\.0\.0\.0; BROWSER_HOSTS can allow it"
        ):
            await context.fleet.client.start_profile("id", timeout=30)
