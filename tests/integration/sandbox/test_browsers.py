import asyncio
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import pytest_asyncio

from sandbox.admin import BrowserInfo, ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from sandbox.devtools import command
from sandbox.process import SandboxProcess
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Local:
    """The local API, for one profile."""

    def __init__(
        self, http: httpx.AsyncClient, info: SandboxInfo, admin: SandboxAdmin, profile_id: str
    ) -> None:
        self._http, self._info, self._admin, self._profile_id = http, info, admin, profile_id

    async def start(self, *, sync: bool = True) -> httpx.Response:
        return await self._post("start", {"profileId": self._profile_id, "sync": sync})

    async def stop(self) -> httpx.Response:
        return await self._post("stop", {"profileId": self._profile_id})

    async def browsers(self) -> list[BrowserInfo]:
        return [found for found in await self._admin.browsers() if found.profile_id == self._profile_id]

    async def _post(self, action: str, body: dict) -> httpx.Response:
        return await self._http.post(f"{self._info.gologin_local_url}/browser/{action}-profile", json=body)


@pytest_asyncio.fixture(loop_scope="session")
async def local(http, info, admin, profile: ProfileInfo):
    local = Local(http, info, admin, profile.id)
    yield local
    await admin.clear_faults()
    await local.stop()


def group_members(pgid: int) -> list[psutil.Process]:
    """The group's living processes; a dead helper is init's to reap."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pgid and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


async def test_simultaneous_starts_share_one_browser_and_stop_leaves_nothing(
    local: Local, http, sandbox: SandboxProcess
):
    answers = [answer.json() for answer in await asyncio.gather(*(local.start() for _ in range(4)))]
    assert {answer["status"] for answer in answers} == {"success"}
    (ws_url,) = {answer["wsUrl"] for answer in answers}
    assert "Chrom" in (await http.get(f"http://{urlsplit(ws_url).netloc}/json/version")).json()["Browser"]
    (browser,) = await local.browsers()
    assert len(group_members(browser.pgid)) > 2
    folder = Path(psutil.Process(browser.pid).environ()["TMPDIR"])
    assert folder.is_dir()

    stopped = await local.stop()
    assert (stopped.status_code, stopped.content) == (204, b"")
    assert group_members(browser.pgid) == []
    assert await local.browsers() == []
    assert not folder.exists()
    left = psutil.Process(sandbox.pid).children()
    assert [child for child in left if child.pid == browser.pid or child.status() == "zombie"] == []


async def test_cookies_are_kept_and_the_account_is_signed_in(local: Local, info: SandboxInfo):
    cookie = {"name": "mine", "value": "kept", "url": info.provider_url, "expires": time.time() + 3600}
    first = (await local.start()).json()["wsUrl"]
    await command(first, "Storage.setCookies", {"cookies": [cookie]})
    await local.stop()
    second = (await local.start()).json()["wsUrl"]
    cookies = (await command(second, "Storage.getCookies"))["cookies"]
    assert second != first
    assert {found["name"] for found in cookies} == {"mine", "auth_token"}


async def test_a_browser_that_dies_is_reaped_and_can_be_started_again(local: Local, admin: SandboxAdmin):
    first = (await local.start()).json()["wsUrl"]
    (browser,) = await local.browsers()
    psutil.Process(browser.pid).kill()

    async def gone() -> bool:
        return not await local.browsers()

    await eventually(gone)
    assert not psutil.pid_exists(browser.pid), "a zombie is left"
    assert (await local.stop()).status_code == 204
    assert (await local.start()).json()["wsUrl"] != first


async def test_stop_of_a_profile_that_never_ran_succeeds(local: Local):
    assert (await local.stop()).status_code == 204


async def test_start_of_an_unknown_profile_is_refused(http, info):
    body = {"profileId": "0" * 24, "sync": True}
    answer = await http.post(f"{info.gologin_local_url}/browser/start-profile", json=body)
    assert (answer.status_code, answer.text) == (404, "Profile deleted or not found")


async def test_start_without_sync_does_not_wait(local: Local):
    assert (await local.start(sync=False)).json() == {"status": "success"}

    async def up() -> bool:
        return any(browser.ws_url for browser in await local.browsers())

    await eventually(up)


async def test_stop_during_a_start_wins(local: Local):
    start = asyncio.create_task(local.start())
    await eventually(local.browsers)
    await local.stop()
    await start
    assert await local.browsers() == []


async def test_fault_no_ws_url_answers_without_an_address(local: Local, admin: SandboxAdmin, profile):
    await admin.set_fault("local.start", "no_ws_url", account=profile.account)
    assert (await local.start()).json() == {"status": "success"}
    assert await local.browsers() == []


async def test_fault_start_then_kill_ends_the_browser(local: Local, admin: SandboxAdmin, profile):
    await admin.set_fault("local.start", "start_then_kill", account=profile.account)
    assert (await local.start()).json()["wsUrl"]
    assert await local.browsers() == []


async def test_fault_start_hang_running_leaves_a_browser(local: Local, admin: SandboxAdmin, profile):
    await admin.set_fault("local.start", "start_hang_running", account=profile.account)
    waiting = asyncio.create_task(local.start())
    (browser,) = await eventually(local.browsers)
    assert not waiting.done()
    waiting.cancel()
    await local.stop()
    assert group_members(browser.pgid) == []


@pytest.mark.parametrize(
    "endpoint", [pytest.param("provider.authorize", marks=pytest.mark.long), "provider.consent"]
)
async def test_fault_kill_browser_ends_the_browser(
    local: Local, admin: SandboxAdmin, profile, authorize_url, endpoint
):
    await local.start()
    await admin.set_fault(endpoint, "kill_browser", account=profile.account)
    await admin.give_consent(authorize_url("AIOTT1"), profile.account)
    assert await local.browsers() == []
