"""The browser's own protocol, spoken with a real one."""

import asyncio
import json
from collections.abc import Callable
from time import monotonic
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import connect

from app.clients.browsers.devtools import DevToolsClient, RedirectWatcher
from app.utils.exceptions import SeleniumConnectionException
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.sandbox import running
from tests.fixtures.waiting import eventually

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def client(http: httpx.AsyncClient) -> DevToolsClient:
    return DevToolsClient(http=http)


async def test_browser_reports_its_version_and_its_process(client: DevToolsClient, shared_browser: str):
    version = await client.version(urlsplit(shared_browser).netloc)
    assert version.major > 100
    assert urlsplit(version.ws_url).path == urlsplit(shared_browser).path


async def test_closed_port_is_no_browser(client: DevToolsClient):
    with pytest.raises(SeleniumConnectionException, match=r"on port 1$"):
        await client.version(NOWHERE)


async def test_server_that_is_no_browser_is_refused(client: DevToolsClient, info: SandboxInfo):
    with pytest.raises(SeleniumConnectionException):
        await client.version(urlsplit(info.provider_url).netloc)


async def test_server_that_never_answers_is_given_up():
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    gone = asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with httpx.AsyncClient(trust_env=False) as http:
        client = DevToolsClient(http=http)
        with pytest.raises(SeleniumConnectionException, match=f"on port {port}$"):
            await client.version(f"127.0.0.1:{port}")
        assert not await client.close_browser(f"ws://127.0.0.1:{port}/devtools/browser/x", timeout=0.05)
    gone.set()
    server.close()
    await server.wait_closed()


async def test_a_closed_browser_is_gone(
    http: httpx.AsyncClient,
    client: DevToolsClient,
    info: SandboxInfo,
    admin: SandboxAdmin,
    profile: ProfileInfo,
):
    body = {"profileId": profile.id, "sync": True}
    answer = await http.post(f"{info.gologin_local_url}/browser/start-profile", json=body)
    ws_url = answer.json()["wsUrl"]
    assert await client.close_browser(ws_url, timeout=10)
    with pytest.raises(SeleniumConnectionException):
        await client.version(urlsplit(ws_url).netloc)

    async def is_gone() -> bool:
        return not await running(admin, profile.id)

    await eventually(is_gone)


async def test_close_of_a_gone_browser_succeeds(client: DevToolsClient):
    assert await client.close_browser(f"ws://{NOWHERE}/devtools/browser/x", timeout=20)


async def test_the_redirect_is_caught_and_never_leaves_the_browser(
    http: httpx.AsyncClient, shared_browser: str, info: SandboxInfo
):
    """Two visits: the first goes through, the second is the redirect, where nobody listens."""
    address = urlsplit(shared_browser).netloc
    redirect = f"http://{NOWHERE}/callback"

    def watch() -> tuple[str | None, str | None]:
        with RedirectWatcher(ws_url=shared_browser, redirect_uri=redirect, timeout=10) as watcher:
            _go(address, watcher.target_id, f"{info.provider_url}/somewhere")
            other = watcher.wait(0)
            _go(address, watcher.target_id, f"{redirect}?code=1&state=2")
            return other, watcher.wait(10)

    assert await asyncio.to_thread(watch) == (None, f"{redirect}?code=1&state=2")

    async def is_shown() -> bool:
        return "Authorization" in (await http.get(f"http://{address}/json/list")).text

    await eventually(is_shown)


async def test_a_redirect_in_an_iframe_is_no_callback_and_never_leaves_the_browser(shared_browser: str):
    address = urlsplit(shared_browser).netloc
    page = b"<iframe src='/callback?code=of-frame' onload=\"document.title='framed'\"></iframe>"
    asked: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        if line := await reader.readline():  # empty: a connection that the browser opens in advance
            asked.append(line.split()[1])
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n" + page)
            await writer.drain()
        writer.close()

    def watch(url: str) -> tuple[str | None, str | None]:
        with RedirectWatcher(ws_url=shared_browser, redirect_uri=f"{url}/callback", timeout=10) as watcher:
            _go(address, watcher.target_id, f"{url}/page")
            _until(lambda: "framed" in httpx.get(f"http://{address}/json/list", trust_env=False).text)
            of_frame = watcher.wait(0)
            _go(address, watcher.target_id, f"{url}/callback?code=of-tab")
            return of_frame, watcher.wait(10)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await asyncio.to_thread(watch, url) == (None, f"{url}/callback?code=of-tab")
    for writer in writers:
        writer.close()
    assert b"/page" in asked
    assert not [path for path in asked if path.startswith(b"/callback")]


async def test_a_windows_redirect_is_caught_after_its_tab_has_gone(shared_browser: str, info: SandboxInfo):
    """Each page has its own network error; the windows are closed with the tab, before or after it."""
    address = urlsplit(shared_browser).netloc
    redirect = f"{info.provider_url}/callback"

    def pages() -> set[str]:
        targets = httpx.get(f"http://{address}/json/list", trust_env=False, timeout=10).json()
        return {target["id"] for target in targets if target["type"] == "page"}

    def watch() -> str | None:
        before = pages()
        with RedirectWatcher(ws_url=shared_browser, redirect_uri=redirect, timeout=10) as watcher:
            _go(address, watcher.target_id, f"{info.provider_url}/somewhere")
            _do(
                address,
                watcher.target_id,
                "Runtime.evaluate",
                expression="open('about:blank')",
                userGesture=True,
            )
            _until(lambda: len(pages() - before) == 2)
            (window,) = pages() - before - {watcher.target_id}
            _go(address, window, f"http://{NOWHERE}/")
            _until(lambda: watcher.find_network_error(window) is not None)
            assert watcher.find_network_error(watcher.target_id) is None
            _do(address, watcher.target_id, "Page.close")
            with pytest.raises(ConnectionError):
                watcher.wait(60)
            assert pages() - before == {window}
            _go(address, window, f"{redirect}?code=1")
            _until(lambda: watcher.redirect is not None)
            watcher.close_tab()
            _until(lambda: pages() == before)
        return watcher.redirect

    assert await asyncio.to_thread(watch) == f"{redirect}?code=1"


def _until(is_so: Callable[[], bool]) -> None:
    """Blocking, as a thread that watches is."""
    ends = monotonic() + 60
    while not is_so():
        assert monotonic() < ends


def _go(address: str, target: str, url: str) -> None:
    _do(address, target, "Page.navigate", url=url)


def _do(address: str, target: str, method: str, **params: object) -> None:
    with connect(f"ws://{address}/devtools/page/{target}", compression=None) as socket:
        socket.send(json.dumps({"id": 1, "method": method, "params": params}))
        socket.recv(timeout=10)
