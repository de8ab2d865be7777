"""A proxy in the environment, as containers have one: what is on this machine is never reached through it."""

from pathlib import Path

import pytest

from app.sandbox.process import SandboxProcess
from tests.e2e.house import open_house
from tests.fixtures.scripted import scripted

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFUSED = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


async def test_an_authorization_sends_nothing_through_the_environments_proxy(
    sandbox: SandboxProcess, folder: Path, account: str
):
    async with scripted(REFUSED) as proxy:
        async with open_house(sandbox, folder, **dict.fromkeys(VARIABLES, proxy.url)) as house:
            assert (await house.authorize(account))["status"] == "completed"
            await house.nothing_left(account)
        assert [(heard.method, heard.path) for heard in proxy.heard] == []
