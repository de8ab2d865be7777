"""Two services on one PostgreSQL: the plan's limit holds for both together, and a worker's turn comes once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import select

from app.database import Database
from app.models import AuthorizationSession, ProfileSync, SyncStatus
from sandbox.process import SandboxProcess
from tests.e2e.fleet import another_service
from tests.e2e.harness import APP, ServiceHarness, open_harness
from tests.e2e.watcher import watched_browsers
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

LIMIT, SESSIONS = 2, 6
INTERVAL = 1.5
RETRY = 0.4


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def quiet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SandboxProcess]:
    """A sandbox that only these tests' services ask: its requests are counted."""
    data_dir: Path = tmp_path_factory.mktemp("quiet")
    async with SandboxProcess(accounts=20, data_dir=data_dir) as sandbox:
        yield sandbox


async def rows(url: str, query: Any) -> list[Any]:
    database = Database(url, pool_size=1)
    try:
        async with database.reading() as db:
            return list(await db.scalars(query))
    finally:
        await database.close()


async def ask(url: str, key: str, account: str) -> str:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as http:
        body = {"account_id": account, "api_app": APP}
        answer = await http.post("/authorize", json=body, headers={"X-API-Key": key})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["data"]["session_id"])


@pytest.mark.long
async def test_two_services_never_run_more_profiles_than_the_plan_allows(
    quiet: SandboxProcess, folder: Path, postgresql_url: str
):
    accounts = quiet.info.accounts[:SESSIONS]
    limits = {"fleet_max_running_profiles": LIMIT, "lease_seconds": 6}
    async with (
        open_harness(quiet, folder, database_url=postgresql_url, **limits) as harness,
        another_service(harness) as second,
        watched_browsers(quiet.pid, str(quiet.data_dir)) as seen,
    ):
        for account in accounts:  # long enough that the places are taken when others ask
            await harness.admin.set_fault("provider.consent", "delay", account=account, seconds=0.5)
        urls = [harness.service.url, second.url] * (SESSIONS // 2)
        session_ids = await asyncio.gather(
            *(ask(url, harness.key, account) for url, account in zip(urls, accounts, strict=True))
        )
        ended = await asyncio.gather(*map(harness.ended, session_ids))
        assert [(one["status"], one["attempts"]) for one in ended] == [("completed", 1)] * SESSIONS
        for account in accounts:
            await harness.nothing_left(account)
    assert seen.most == LIMIT
    await quiet.admin.clear_faults()


async def passes(url: str) -> list[ProfileSync]:
    return await rows(url, select(ProfileSync).order_by(ProfileSync.id))


@pytest.mark.long
async def test_two_services_make_one_pass_per_interval_together(
    quiet: SandboxProcess, folder: Path, postgresql_url: str
):
    await quiet.admin.clear_stats()
    changes = {"database_url": postgresql_url, "sync_interval": INTERVAL}
    async with open_harness(quiet, folder, **changes) as harness, another_service(harness) as second:

        async def made(count: int) -> bool:
            return len(await passes(postgresql_url)) >= count

        await eventually(lambda: made(4), 60)
        await harness.service.stop()
        known = len(await passes(postgresql_url))
        await eventually(lambda: made(known + 2), 60)
        assert any(line["event"] == "profiles.synced" for line in second.log_lines())
    every = await passes(postgresql_url)
    assert {sync.status for sync in every} == {SyncStatus.COMPLETED}
    gaps = [later.started_at - earlier.completed_at for earlier, later in pairwise(every)]
    assert min(gaps) >= timedelta(seconds=INTERVAL)
    asked = await quiet.admin.requests(endpoint="gologin.list")
    assert len(asked) == 2 * len(every), "each pass asks for one page and the empty one after it"


async def sync_health(harness: ServiceHarness) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=harness.service.url, trust_env=False, timeout=10) as http:
        answer = await http.get("/health/ready", headers={"X-API-Key": harness.key})
    assert answer.status_code == 200, "a worker that fails is not dead"
    (found,) = [each for each in answer.json()["data"]["workers"] if each["name"] == "sync"]
    return dict(found)


async def test_a_failing_worker_comes_back_later_each_time_and_recovers(
    quiet: SandboxProcess, folder: Path, postgresql_url: str
):
    changes = {"database_url": postgresql_url, "sync_interval": 4 * RETRY, "sync_retry_interval": RETRY}
    async with open_harness(quiet, folder, **changes) as harness:
        await quiet.admin.set_fault("gologin.list", "status", status=403)

        async def failed_often() -> bool:
            return (await sync_health(harness))["consecutive_failures"] >= 4

        await eventually(failed_often, 40)
        health = await sync_health(harness)
        assert (health["alive"], health["last_error"]) == (True, "GOLOGIN_API_ERROR")
        last_success = health["last_success"]
        await quiet.admin.clear_faults()

        async def recovered() -> bool:
            found = await sync_health(harness)
            return found["consecutive_failures"] == 0 and found["last_success"] > last_success

        await eventually(recovered, 20)
    failed = [sync for sync in await passes(postgresql_url) if sync.status is SyncStatus.FAILED]
    gaps = [later.started_at - earlier.completed_at for earlier, later in pairwise(failed)]
    for gap, factor in zip(gaps, (1, 2, 4), strict=False):
        assert gap >= timedelta(seconds=factor * RETRY)
    assert {sync.error_code for sync in failed} == {"GOLOGIN_API_ERROR"}


async def test_a_sync_asked_of_one_service_is_made_once(
    quiet: SandboxProcess, folder: Path, postgresql_url: str
):
    async with open_harness(quiet, folder, database_url=postgresql_url) as harness, another_service(harness):

        async def all_done() -> bool:
            made = await passes(postgresql_url)
            return bool(made) and all(sync.status is SyncStatus.COMPLETED for sync in made)

        await eventually(all_done)  # the first pass of the two may still run
        known = len(await passes(postgresql_url))
        asked = await harness.call("POST", "/profiles/sync")
        assert asked.status_code == 202
        await eventually(all_done)
        made = await passes(postgresql_url)
        assert len(made) == known + 1
        assert asked.json()["data"]["sync_id"] in {sync.sync_id for sync in made}
    assert await rows(postgresql_url, select(AuthorizationSession)) == []
