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
from tests.e2e.house import House, open_house
from tests.e2e.processes import children_named, is_alive
from tests.e2e.watcher import watched_browsers
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

GRACE = 10
EXIT_MARGIN = 2
"""Seconds for a loaded machine, on top of the grace period."""


async def end(house: House, number: signal.Signals) -> tuple[int, float]:
    """Sends the signal to the service alone; its exit code, and the seconds it took."""
    process = house.service._process
    assert process is not None
    began = time.monotonic()
    process.send_signal(number)
    code = await asyncio.wait_for(process.wait(), 30)
    return code, time.monotonic() - began


@asynccontextmanager
async def hanging(
    sandbox: SandboxProcess, folder: Path, account: str, *, where: str = "provider.consent", **changes
) -> AsyncIterator[tuple[House, str]]:
    """A service with one authorization that hangs where the fault is, and its id."""
    stage = {"provider.consent": "consent_given", "provider.authorize": "browser_attached"}.get(where)
    async with open_house(
        sandbox, folder, **({"shutdown_grace": GRACE, "max_attempts": 3} | changes)
    ) as house:
        await house.admin.set_fault(where, "hang", account=account)
        session_id = await house.ask(account)
        await house.reached(session_id, stage or "profile_starting")
        yield house, session_id


def assert_no_traces(house: House, drivers: list[int]) -> None:
    assert [pid for pid in drivers if is_alive(pid)] == []
    assert list(house.temp_dir.iterdir()) == []
    assert [
        line["event"] for line in house.service.log_lines() if line["level"] in ("error", "critical")
    ] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_idle_it_exits_at_once(sandbox: SandboxProcess, folder: Path, number: signal.Signals):
    async with open_house(sandbox, folder) as house:
        code, seconds = await end(house, number)
        assert code == 0
        assert seconds < 3
        assert_no_traces(house, [])


async def test_a_caller_who_waits_is_answered(sandbox: SandboxProcess, folder: Path, account: str):
    async with hanging(sandbox, folder, account) as (house, session_id):
        waiting = asyncio.create_task(house.session(session_id, wait=50))
        await eventually(lambda: _logged(house, "provider.consent", account))
        await asyncio.wait([waiting], timeout=0.3)
        assert not waiting.done()
        stopping = asyncio.create_task(end(house, signal.SIGTERM))
        assert (await asyncio.wait_for(waiting, GRACE))["status"] == "in_progress"
        assert (await stopping)[0] == 0


async def _logged(house: House, endpoint: str, account: str) -> bool:
    return bool(await house.admin.requests(endpoint=endpoint, account=account))


async def test_what_can_finish_in_the_grace_period_finishes(
    sandbox: SandboxProcess, folder: Path, account: str
):
    async with open_house(sandbox, folder) as house:
        await house.admin.set_fault("provider.consent", "delay", account=account, seconds=1.5)
        session_id = await house.ask(account)
        await house.reached(session_id, "consent_given")
        drivers = children_named(house.service.pid, "chromedriver")
        code, seconds = await end(house, signal.SIGTERM)
        assert (code, len(drivers)) == (0, 1)
        assert seconds < 10
        assert (await house.row(session_id)).status == "completed"
        assert await house.credential(account) is not None
        await house.nothing_left(account)
        assert_no_traces(house, drivers)


@pytest.mark.parametrize(
    ("number", "where"),
    [
        pytest.param(signal.SIGTERM, "local.start", marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, "provider.authorize", marks=pytest.mark.long),
        (signal.SIGTERM, "provider.consent"),
        pytest.param(signal.SIGINT, "provider.consent", marks=pytest.mark.long),
    ],
)
async def test_what_hangs_is_put_back_and_goes_on_after_the_restart(
    sandbox: SandboxProcess, folder: Path, account: str, number: signal.Signals, where: str
):
    """A profile whose start was not answered is free when its browser cannot come up any more, all others at once."""
    changes = {"profile_start_timeout": 10} if where == "local.start" else {}
    async with hanging(sandbox, folder, account, where=where, **changes) as (house, session_id):
        drivers = children_named(house.service.pid, "chromedriver")
        code, seconds = await end(house, number)
        assert code == 0
        assert seconds < GRACE + EXIT_MARGIN
        row = await house.row(session_id)
        assert (row.status, row.stage, row.lease_token, row.error_code) == ("pending", None, None, None)
        profile_id = await house.profile_id(account)
        assert await house.browser_is_gone(profile_id)
        assert await house.profile_is_free(profile_id) is (where != "local.start")
        assert_no_traces(house, drivers)

        await house.admin.clear_faults(account)
        await house.service.start()
        session = await house.ended(session_id)
        assert (session["status"], session["attempts"]) == ("completed", 1)
        await house.nothing_left(account)


@pytest.mark.long
async def test_waiting_sessions_survive_a_stop(sandbox: SandboxProcess, folder: Path, unused_accounts):
    first, second = next(unused_accounts), next(unused_accounts)
    async with hanging(sandbox, folder, first, max_concurrent_profiles=1) as (house, _):
        waiting = await house.ask(second)
        assert (await end(house, signal.SIGTERM))[0] == 0
        assert ((await house.row(waiting)).status, (await house.row(waiting)).attempts) == ("pending", 0)
        await house.admin.clear_faults(first)
        await house.service.start()
        assert (await house.ended(waiting))["status"] == "completed"


async def test_killed_in_the_middle_the_session_is_completed_by_the_next_process(
    sandbox: SandboxProcess, folder: Path, account: str
):
    async with hanging(sandbox, folder, account, lease_seconds=3) as (house, session_id):
        profile_id = await house.profile_id(account)
        orphans = children_named(house.service.pid, "chromedriver")
        try:
            async with watched_browsers(sandbox.pid, house.profile_folder(profile_id)) as seen:
                await house.service.kill()
                assert (await house.row(session_id)).status == "in_progress"
                await house.admin.clear_faults(account)
                await house.service.start()
                session = await house.ended(session_id)
                await house.nothing_left(account)
            assert (session["status"], session["attempts"]) == ("completed", 2)
            assert seen.most_of_one_profile == 1
        finally:
            for pid in filter(is_alive, orphans):
                os.kill(pid, signal.SIGKILL)


async def test_interrupted_too_often_it_is_not_tried_again(
    sandbox: SandboxProcess, folder: Path, account: str
):
    changes = {"lease_seconds": 2, "max_attempts": 1}
    async with hanging(sandbox, folder, account, **changes) as (house, session_id):
        orphans = children_named(house.service.pid, "chromedriver")
        await house.service.kill()
        for pid in filter(is_alive, orphans):
            os.kill(pid, signal.SIGKILL)
        await house.service.start()
        session = await house.ended(session_id)
        assert (session["status"], session["error_code"]) == ("failed", "ATTEMPTS_EXHAUSTED")


@pytest.mark.parametrize(
    "where", ["provider.authorize", pytest.param("provider.consent", marks=pytest.mark.long)]
)
async def test_a_killed_chromedriver_fails_its_session_and_is_replaced(
    sandbox: SandboxProcess, folder: Path, account: str, unused_accounts, where: str
):
    async with hanging(sandbox, folder, account, where=where, max_attempts=1) as (house, session_id):
        (driver,) = children_named(house.service.pid, "chromedriver")
        os.kill(driver, signal.SIGKILL)
        session = await house.ended(session_id)
        assert (session["status"], session["error_code"]) == ("failed", "BROWSER_CRASHED")
        await house.nothing_left(account)
        assert (await house.authorize(next(unused_accounts)))["status"] == "completed"
        (replacement,) = children_named(house.service.pid, "chromedriver")
        assert replacement != driver
