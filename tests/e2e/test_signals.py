"""The process is asked to stop, or dies, at every point of its work."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sandbox.process import SandboxProcess
from tests.e2e.harness import ServiceHarness, open_harness
from tests.e2e.processes import children_named, is_alive
from tests.e2e.watcher import watched_browsers
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

GRACE = 10
EXIT_MARGIN = 2
"""Seconds for a loaded machine, on top of the grace period."""


async def end(harness: ServiceHarness, number: signal.Signals) -> tuple[int, float]:
    """Sends the signal to the service alone; its exit code, and the seconds it took."""
    process = harness.service.process
    assert process is not None
    began = time.monotonic()
    process.send_signal(number)
    async with asyncio.timeout(30):
        code = await process.wait()
    return code, time.monotonic() - began


@asynccontextmanager
async def hanging(
    sandbox: SandboxProcess, folder: Path, account: str, *, where: str = "provider.consent", **changes
) -> AsyncIterator[tuple[ServiceHarness, str]]:
    """A service with one authorization that hangs where the fault is, and its id."""
    stage = {"provider.consent": "consent_given", "provider.authorize": "browser_attached"}.get(where)
    async with open_harness(
        sandbox, folder, **({"shutdown_grace": GRACE, "max_attempts": 3} | changes)
    ) as harness:
        await harness.admin.set_fault(where, "hang", account=account)
        session_id = await harness.ask(account)
        await harness.reached(session_id, stage or "profile_starting")
        yield harness, session_id


def assert_no_traces(harness: ServiceHarness, drivers: list[int]) -> None:
    assert [pid for pid in drivers if is_alive(pid)] == []
    assert list(harness.temp_dir.iterdir()) == []
    assert [
        line["event"] for line in harness.service.log_lines() if line["level"] in ("error", "critical")
    ] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
async def test_idle_service_exits_at_once(sandbox: SandboxProcess, folder: Path, number: signal.Signals):
    async with open_harness(sandbox, folder) as harness:
        code, seconds = await end(harness, number)
        assert code == 0
        assert seconds < 3
        assert_no_traces(harness, [])


async def test_session_that_can_finish_in_the_grace_period_finishes(
    sandbox: SandboxProcess, folder: Path, account: str
):
    async with open_harness(sandbox, folder) as harness:
        await harness.admin.set_fault("provider.consent", "delay", account=account, seconds=1.5)
        session_id = await harness.ask(account)
        await harness.reached(session_id, "consent_given")
        drivers = children_named(harness.service.pid, "chromedriver")
        code, seconds = await end(harness, signal.SIGTERM)
        assert (code, len(drivers)) == (0, 1)
        assert seconds < 10
        assert (await harness.row(session_id)).status == "completed"
        assert await harness.credential(account) is not None
        await harness.nothing_left(account)
        assert_no_traces(harness, drivers)


@pytest.mark.parametrize(
    ("number", "where"),
    [
        pytest.param(signal.SIGTERM, "local.start", marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, "provider.authorize", marks=pytest.mark.long),
        (signal.SIGTERM, "provider.consent"),
        pytest.param(signal.SIGINT, "provider.consent", marks=pytest.mark.long),
    ],
)
async def test_hanging_session_is_released_and_continues_after_the_restart(
    sandbox: SandboxProcess, folder: Path, account: str, number: signal.Signals, where: str
):
    """A profile whose start was not answered is free when its browser cannot come up any more, all others at once."""
    changes = {"profile_start_timeout": 10} if where == "local.start" else {}
    async with hanging(sandbox, folder, account, where=where, **changes) as (harness, session_id):
        drivers = children_named(harness.service.pid, "chromedriver")
        waiting = asyncio.create_task(harness.session(session_id, wait=50))
        await eventually(lambda: _logged(harness, where, account))
        await asyncio.wait([waiting], timeout=0.3)
        assert not waiting.done()
        stopping = asyncio.create_task(end(harness, number))
        async with asyncio.timeout(GRACE):
            assert (await waiting)["status"] == "in_progress", "a waiting caller is answered at the stop"
        code, seconds = await stopping
        assert code == 0
        assert seconds < GRACE + EXIT_MARGIN
        row = await harness.row(session_id)
        assert (row.status, row.stage, row.lease_token, row.error_code) == ("pending", None, None, None)
        profile_id = await harness.profile_id(account)
        assert await harness.browser_is_gone(profile_id)
        assert await harness.profile_is_free(profile_id) is (where != "local.start")
        assert_no_traces(harness, drivers)

        await harness.admin.clear_faults(account)
        await harness.service.start()
        session = await harness.ended(session_id)
        assert (session["status"], session["attempts"]) == ("completed", 1)
        await harness.nothing_left(account)


async def _logged(harness: ServiceHarness, endpoint: str, account: str) -> bool:
    return bool(await harness.admin.requests(endpoint=endpoint, account=account))


@pytest.mark.long
async def test_waiting_sessions_survive_a_stop(sandbox: SandboxProcess, folder: Path, unused_accounts):
    first, second = next(unused_accounts), next(unused_accounts)
    async with hanging(sandbox, folder, first, max_concurrent_profiles=1) as (harness, _):
        waiting = await harness.ask(second)
        assert (await end(harness, signal.SIGTERM))[0] == 0
        assert ((await harness.row(waiting)).status, (await harness.row(waiting)).attempts) == ("pending", 0)
        await harness.admin.clear_faults(first)
        await harness.service.start()
        assert (await harness.ended(waiting))["status"] == "completed"


@pytest.mark.long
async def test_session_of_a_killed_process_is_completed_by_the_next_one(
    sandbox: SandboxProcess, folder: Path, account: str
):
    async with hanging(sandbox, folder, account, lease_seconds=3) as (harness, session_id):
        profile_id = await harness.profile_id(account)
        orphans = children_named(harness.service.pid, "chromedriver")
        try:
            async with watched_browsers(sandbox.pid, harness.profile_folder(profile_id)) as seen:
                await harness.service.kill()
                assert (await harness.row(session_id)).status == "in_progress"
                await harness.admin.clear_faults(account)
                await harness.service.start()
                session = await harness.ended(session_id)
                await harness.nothing_left(account)
            assert (session["status"], session["attempts"]) == ("completed", 2)
            assert seen.most_of_one_profile == 1
        finally:
            for pid in filter(is_alive, orphans):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.long
async def test_session_that_was_interrupted_too_often_is_not_tried_again(
    sandbox: SandboxProcess, folder: Path, account: str
):
    changes = {"lease_seconds": 2, "max_attempts": 1}
    async with hanging(sandbox, folder, account, **changes) as (harness, session_id):
        orphans = children_named(harness.service.pid, "chromedriver")
        await harness.service.kill()
        for pid in filter(is_alive, orphans):
            os.kill(pid, signal.SIGKILL)
        await harness.service.start()
        session = await harness.ended(session_id)
        assert (session["status"], session["error_code"]) == ("failed", "ATTEMPTS_EXHAUSTED")


@pytest.mark.long
@pytest.mark.parametrize("where", ["provider.authorize", "provider.consent"])
async def test_a_killed_chromedriver_fails_its_session_and_is_replaced(
    sandbox: SandboxProcess, folder: Path, account: str, unused_accounts, where: str
):
    async with hanging(sandbox, folder, account, where=where, max_attempts=1) as (harness, session_id):
        (driver,) = children_named(harness.service.pid, "chromedriver")
        os.kill(driver, signal.SIGKILL)
        session = await harness.ended(session_id)
        assert (session["status"], session["error_code"]) == ("failed", "BROWSER_CRASHED")
        await harness.nothing_left(account)
        assert (await harness.authorize(next(unused_accounts)))["status"] == "completed"
        (replacement,) = children_named(harness.service.pid, "chromedriver")
        assert replacement != driver
