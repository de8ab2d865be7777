"""One profile runs once at a time over all processes, and a process that dies keeps neither profile nor browser."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from app.database import Database
from app.models import Profile
from sandbox.demo.service_process import settings_for
from sandbox.process import SandboxProcess
from tests.e2e.children import Child, child
from tests.e2e.fleet import another_service
from tests.e2e.harness import ServiceHarness, open_harness
from tests.e2e.processes import children_named, is_alive, processes_with
from tests.e2e.watcher import watched_browsers
from tests.fixtures.factories import new_profile
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

LEASE = 3.0
LOOK = LEASE / 4
"""A worker looks four times a lease for what the dead have left."""
STOPPING = 6.0
"""Seconds to stop a left-over browser on a busy machine; it takes 0.1 on an idle one."""
START = 8.0
"""Seconds in which a browser may still come up after its process has died."""


@asynccontextmanager
async def rivals(
    how: str, sandbox: SandboxProcess, folder: Path, url: str, profile_id: str
) -> AsyncIterator[list[Child]]:
    """Two processes that can be asked to run the profile."""
    environment = settings_for(sandbox.info, folder=folder, database_url=url)
    async with (
        child("profile_child", how, profile_id, environment=environment) as one,
        child("profile_child", how, profile_id, environment=environment) as other,
    ):
        for each in (one, other):
            await each.until("ready")
        yield [one, other]


async def ask_both(rivals: list[Child]) -> None:
    """At the same moment, before either of them lets go: exactly one may have it."""
    for each in rivals:
        each.tell()
    answers = await asyncio.gather(*(each.line() for each in rivals))
    assert sorted(answers) == ["held", "refused"]
    holder = rivals[answers.index("held")]
    holder.tell()
    assert await holder.line() == "left"


async def add_profile(url: str, profile_id: str) -> None:
    database = Database(url, pool_size=1)
    try:
        async with database.transaction() as db:
            db.add(new_profile(profile_id=profile_id))
    finally:
        await database.close()


async def test_two_processes_asked_a_hundred_times_never_both_hold_the_profile(
    sandbox: SandboxProcess, tmp_path: Path, database_url: str
):
    await add_profile(database_url, "contended")
    async with rivals("lease", sandbox, tmp_path, database_url, "contended") as asked:
        for _ in range(100):
            await ask_both(asked)


@pytest.mark.parametrize(
    "database_url", [pytest.param("sqlite", marks=pytest.mark.long), "postgresql"], indirect=True
)
async def test_two_processes_asked_four_times_never_both_run_its_browser(
    sandbox: SandboxProcess, tmp_path: Path, database_url: str, account: str
):
    profile_id = (await sandbox.admin.profile(account)).id
    await add_profile(database_url, profile_id)
    async with (
        rivals("browser", sandbox, tmp_path, database_url, profile_id) as asked,
        watched_browsers(sandbox.pid, str(sandbox.data_dir / profile_id)) as seen,
    ):
        for _ in range(4):
            await ask_both(asked)
    starts = await sandbox.admin.requests(endpoint="local.start", account=account)
    assert (len(starts), seen.most_of_one_profile) == (4, 1)
    assert processes_with(str(sandbox.data_dir / profile_id)) == []


# A service that is killed


async def row(harness: ServiceHarness, profile_id: str) -> Profile:
    database = Database(harness.environment["DATABASE_URL"], pool_size=1)
    try:
        async with database.reading() as db:
            return (await db.scalars(select(Profile).where(Profile.profile_id == profile_id))).one()
    finally:
        await database.close()


async def kill_while_it_runs(
    harness: ServiceHarness, account: str, fault: tuple[str, str]
) -> tuple[str, list[int]]:
    """The profile, and the processes of its browser that outlive the service."""
    endpoint, kind = fault
    await harness.admin.set_fault(endpoint, kind, account=account)
    await harness.ask(account)
    profile_id = await harness.profile_id(account)

    async def browser_is_up() -> bool:
        asked = await harness.admin.requests(endpoint=endpoint, account=account)
        up = [b for b in await harness.admin.browsers() if b.profile_id == profile_id and b.ws_url]
        return bool(asked and up)

    await eventually(browser_is_up)
    drivers = children_named(harness.service.pid, "chromedriver")
    await harness.service.kill()
    left = processes_with(harness.profile_folder(profile_id))
    assert left
    assert not await harness.profile_is_free(profile_id)

    async def drivers_are_gone() -> bool:
        return not any(map(is_alive, drivers))

    await eventually(drivers_are_gone)
    return profile_id, left


async def freed(harness: ServiceHarness, profile_id: str, left: list[int], *, start: float = 0.0) -> None:
    """Within the lease's time and one look, after a start that was under way; the service was killed just now."""

    async def free() -> bool:
        return await harness.profile_is_free(profile_id) and not any(map(is_alive, left))

    await eventually(free, LEASE + LOOK + STOPPING + start)
    assert await harness.browser_is_gone(profile_id)
    assert (await row(harness, profile_id)).quarantined_at is None


def driver_folders(harness: ServiceHarness) -> list[str]:
    return [path.name for path in harness.temp_dir.iterdir() if path.name.startswith("gologin-chromedriver-")]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(("provider.consent", "hang"), id="in the middle", marks=pytest.mark.long),
        pytest.param(("local.start", "start_hang_running"), id="during the start"),
    ],
)
async def test_restarted_service_stops_and_frees_the_profile_of_its_killed_predecessor(
    sandbox: SandboxProcess, folder: Path, account: str, fault: tuple[str, str]
):
    changes = {"lease_seconds": LEASE, "profile_start_timeout": START, "max_attempts": 1}
    async with open_harness(sandbox, folder, **changes) as harness:
        (of_the_dead,) = driver_folders(harness)
        profile_id, left = await kill_while_it_runs(harness, account, fault)
        await harness.service.start()
        await freed(harness, profile_id, left, start=START if fault[0] == "local.start" else 0.0)
        assert of_the_dead in driver_folders(harness)
        await harness.service.run("worker", "run-once", "cleanup")
        (of_the_living,) = driver_folders(harness)
        assert of_the_living != of_the_dead
        await harness.admin.clear_faults(account)
        assert (await harness.authorize(account))["status"] == "completed"
        assert driver_folders(harness) == [of_the_living]


@pytest.mark.long
async def test_another_process_of_the_machine_frees_the_profile_of_a_killed_one(
    sandbox: SandboxProcess, folder: Path, account: str
):
    async with open_harness(sandbox, folder, lease_seconds=LEASE, max_attempts=1) as harness:
        (of_the_dead,) = driver_folders(harness)
        profile_id, left = await kill_while_it_runs(harness, account, ("provider.consent", "hang"))
        async with another_service(harness):
            await freed(harness, profile_id, left)
            assert of_the_dead in driver_folders(harness)
            await harness.service.run("worker", "run-once", "cleanup")
            assert of_the_dead not in driver_folders(harness)
            assert len(driver_folders(harness)) == 1, "the living one's own is kept"


@pytest.mark.long
async def test_another_machine_leaves_the_profile_alone_until_its_own_process_is_back(
    sandbox: SandboxProcess, folder: Path, account: str, postgresql_url: str
):
    async with open_harness(
        sandbox, folder, lease_seconds=LEASE, machine_name="first", database_url=postgresql_url
    ) as harness:
        profile_id, left = await kill_while_it_runs(harness, account, ("provider.consent", "hang"))
        async with another_service(harness, machine_name="second") as second:

            async def session_was_put_back() -> bool:
                return any(line["event"] == "authorization.recovered" for line in second.log_lines())

            await eventually(session_was_put_back)
            assert any(map(is_alive, left))
            assert (await row(harness, profile_id)).in_use
            await harness.admin.clear_faults(account)
            await harness.service.start()
            await eventually(lambda: gone(left))
            await harness.nothing_left(account)


async def gone(pids: list[int]) -> bool:
    return not any(map(is_alive, pids))


# Quarantine


async def call(harness: ServiceHarness, method: str, path: str) -> dict[str, object]:
    answer = await harness.call(method, path)
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()["data"]
    return found


async def check_quarantine(harness: ServiceHarness, account: str, reason: str) -> None:
    """It is shown and refused; once its browser is gone and it is released, it is authorised."""
    profile_id = await harness.profile_id(account)

    async def is_quarantined() -> bool:
        return (await call(harness, "GET", f"/profiles/{profile_id}"))["quarantined_at"] is not None

    await eventually(is_quarantined, 30)
    assert reason in str((await call(harness, "GET", f"/profiles/{profile_id}"))["quarantine_reason"])
    refused = await harness.post(account)
    assert (refused.status_code, refused.json()["error_code"]) == (409, "PROFILE_QUARANTINED")

    await harness.admin.clear_faults(account)
    await harness.admin.kill_browser(profile_id)
    released = await call(harness, "POST", f"/profiles/{profile_id}/release")
    assert (released["quarantined_at"], released["quarantine_reason"]) == (None, None)
    assert (await harness.authorize(account))["status"] == "completed"
    await harness.nothing_left(account)


async def test_a_profile_whose_start_failed_and_whose_stop_is_refused_is_quarantined(
    sandbox: SandboxProcess, folder: Path, account: str
):
    # The release at the end starts it for real, which takes a busy machine more than a second or two.
    async with open_harness(sandbox, folder, profile_start_timeout=8) as harness:
        await harness.admin.set_fault("local.start", "start_hang_running", account=account)
        await harness.admin.set_fault("local.stop", "status", account=account, status=500)
        session = await harness.authorize(account)
        assert (session["status"], session["error_code"]) == ("failed", "GOLOGIN_API_ERROR")
        await check_quarantine(harness, account, "Its start failed, and it could not be stopped")


@pytest.mark.long
async def test_a_profile_whose_browser_ignores_the_close_and_whose_stop_is_refused_is_quarantined(
    harness: ServiceHarness, account: str
):
    await harness.admin.set_fault("local.stop", "status", account=account, status=500)
    session_id = await freeze_browser_at_the_end(harness, account)
    assert (await harness.ended(session_id))["status"] == "completed", "the result is not lost"
    await check_quarantine(harness, account, "did not close, and it could not be stopped")


@pytest.mark.long
async def test_a_browser_that_ignores_the_close_is_stopped_by_gologin(harness: ServiceHarness, account: str):
    session_id = await freeze_browser_at_the_end(harness, account)
    assert (await harness.ended(session_id))["status"] == "completed"
    profile_id = await harness.profile_id(account)
    await eventually(lambda: harness.browser_is_gone(profile_id), 30)
    await harness.nothing_left(account)
    profile = await call(harness, "GET", f"/profiles/{profile_id}")
    assert profile["quarantined_at"] is None


async def freeze_browser_at_the_end(harness: ServiceHarness, account: str) -> str:
    """The session's id; its browser answers nothing any more once the code is there."""
    await harness.admin.set_fault("provider.token", "delay", account=account, seconds=2)
    session_id = await harness.ask(account)
    profile_id = await harness.profile_id(account)

    async def exchanging() -> bool:
        return bool(await harness.admin.requests(endpoint="provider.token", account=account))

    await eventually(exchanging)
    (browser,) = [each for each in await harness.admin.browsers() if each.profile_id == profile_id]
    os.kill(browser.pid, signal.SIGSTOP)
    return session_id
