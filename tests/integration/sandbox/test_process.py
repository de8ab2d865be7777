import asyncio
import os
import shutil
import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest

from sandbox.modules import start_module
from sandbox.process import SandboxProcess, SandboxStartError

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(autouse=True)
def _cold_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox starts as a person's does, also after end-to-end tests in the same process."""
    monkeypatch.setattr(SandboxProcess, "start_module", staticmethod(start_module))


async def start_all(http: httpx.AsyncClient, sandbox: SandboxProcess) -> list[psutil.Process]:
    """Starts every account's browser and returns the browsers' processes with all their children."""
    profiles = [await sandbox.admin.profile(account) for account in sandbox.info.accounts]
    url = f"{sandbox.info.gologin_local_url}/browser/start-profile"
    await asyncio.gather(*(http.post(url, json={"profileId": profile.id}) for profile in profiles))
    roots = [psutil.Process(browser.pid) for browser in await sandbox.admin.browsers()]
    assert len(roots) == len(profiles)
    return [*roots, *(child for root in roots for child in root.children(recursive=True))]


async def all_gone(processes: list[psutil.Process], seconds: float = 5.0) -> bool:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


async def test_a_stop_with_running_browsers_and_a_hanging_call_leaves_nothing(http):
    async with SandboxProcess(accounts=2) as sandbox:
        processes = await start_all(http, sandbox)
        await sandbox.admin.set_fault("gologin.user", "hang")
        hanging = asyncio.create_task(http.get(f"{sandbox.info.gologin_api_url}/user"))
        temp_dir = psutil.Process(sandbox.pid).environ()["TMPDIR"]
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert await all_gone(processes)
    assert not Path(temp_dir).exists()
    with pytest.raises(httpx.TransportError):
        await hanging


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs Linux's parent-death signal")
async def test_killed_sandbox_takes_its_browsers_along(http):
    async with SandboxProcess(accounts=2) as sandbox:
        processes = await start_all(http, sandbox)
        os.kill(sandbox.pid, signal.SIGKILL)
        assert await all_gone(processes)


async def test_child_that_cannot_start_names_the_reason():
    with pytest.raises(SandboxStartError, match="--no-such-option"):
        async with SandboxProcess(arguments=("--no-such-option",)):
            pass


async def test_sandbox_takes_fixed_values_for_a_deployment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SANDBOX_GOLOGIN_TOKEN", "fixed-token")
    monkeypatch.setenv("SANDBOX_AIOTT1_CLIENT_SECRET", "fixed-secret")
    arguments = ("--public-host", "localhost", "--aiott1-redirect-uri", "http://127.0.0.1:9/callback")
    async with SandboxProcess(arguments=arguments) as sandbox:
        assert sandbox.info.gologin_api_token == "fixed-token"
        assert sandbox.info.apps["AIOTT1"].client_secret == "fixed-secret"
        assert sandbox.info.apps["AIOTT1"].redirect_uri == "http://127.0.0.1:9/callback"
        assert sandbox.info.provider_url.startswith("http://localhost:")
