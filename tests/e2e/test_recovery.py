"""One authorization, and what is killed at each point of it: the work goes on, once, or ends with the truth."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.models import utc_now
from sandbox.process import SandboxProcess
from tests.e2e.harness import ServiceHarness, open_harness
from tests.e2e.own_postgresql import OwnPostgresql, own_postgresql, runtime_folder
from tests.e2e.watcher import watched_browsers
from tests.fixtures.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

SHORT: dict[str, Any] = {"lease_seconds": 3, "max_attempts": 3, "retry_wait": 0.1}
UNHEARD_START = {"profile_start_timeout": 6}
"""For a start that nobody has heard of: the next process waits that long for its browser."""
RECOVERY = 60.0
"""Seconds: with these settings ten are enough; a busy machine needs more."""


@dataclass(frozen=True)
class Point:
    """Where the authorization hangs when its process is killed."""

    name: str
    endpoint: str
    kind: str
    stage: str
    attempts: int = 2
    is_long: bool = False

    def __str__(self) -> str:
        return self.name


POINTS = [
    Point("profile_starting", "local.start", "hang", "profile_starting", is_long=True),
    Point("profile_started_unheard", "local.start", "start_hang_running", "profile_starting", is_long=True),
    Point("browser_attached", "provider.authorize", "hang", "browser_attached", is_long=True),
    Point("consent_given", "provider.consent", "hang", "consent_given", is_long=True),
    Point("code_received", "provider.token", "hang", "code_received", is_long=True),
    Point("code_spent_unheard", "provider.token", "hang_after", "code_received"),
    Point("exchanged_not_stored", "provider.me", "hang", "code_received", is_long=True),
    Point("stored_not_stopped", "local.stop", "hang", "tokens_stored", attempts=1, is_long=True),
]


async def asked_at(harness: ServiceHarness, endpoint: str, account: str, *, times: int = 1) -> None:
    """The service has called there, and perhaps waits for the answer."""

    async def seen() -> bool:
        return len(await harness.admin.requests(endpoint=endpoint, account=account)) >= times

    await eventually(seen, RECOVERY)


async def assert_done(
    harness: ServiceHarness, session_id: str, account: str, *, attempts: int | None = None
) -> None:
    """Completed, by that many attempts, one set of tokens, which work; nothing runs on."""
    async with asyncio.timeout(RECOVERY):
        session = await harness.ended(session_id)
    assert session["status"] == "completed", session
    assert attempts in (None, session["attempts"])
    await harness.nothing_left(account)
    credential = await harness.credential(account)
    assert credential is not None
    assert credential.version == 1
    tokens = await harness.tokens(account)
    assert await harness.owner(tokens.access_token.get_secret_value()) == account
    assert [grant.usable for grant in await harness.admin.grants(account)].count(True) == 1
    types = [event.event_type for event in await harness.events(session_id)]
    assert types.count("authorization.completed") == 1


@pytest.mark.parametrize(
    "point",
    [pytest.param(point, marks=[pytest.mark.long] if point.is_long else []) for point in POINTS],
    ids=str,
)
async def test_session_of_a_service_killed_at_any_point_is_completed_once(
    sandbox: SandboxProcess, folder: Path, account: str, point: Point
):
    changes = SHORT | (UNHEARD_START if point.endpoint == "local.start" else {})
    async with open_harness(sandbox, folder, **changes) as harness:
        reused = (await harness.admin.stats()).codes_reused
        profile_id = await harness.profile_id(account)
        await harness.admin.set_fault(point.endpoint, point.kind, account=account)
        async with watched_browsers(sandbox.pid, harness.profile_folder(profile_id)) as seen:
            session_id = await harness.ask(account)
            await harness.reached(session_id, point.stage)
            await asked_at(harness, point.endpoint, account)
            await harness.service.kill()
            await harness.admin.clear_faults(account)
            await harness.service.start()
            await assert_done(harness, session_id, account, attempts=point.attempts)
        assert seen.most_of_one_profile == 1
        assert (await harness.admin.stats()).codes_reused == reused


# The database goes away


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def postgresql() -> AsyncIterator[OwnPostgresql]:
    async with own_postgresql(runtime_folder() / f"recovery-{os.getpid()}") as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def over_postgresql(
    sandbox: SandboxProcess, tmp_path_factory: pytest.TempPathFactory, postgresql: OwnPostgresql
) -> AsyncIterator[ServiceHarness]:
    parent = tmp_path_factory.mktemp("recovery")
    async with open_harness(
        sandbox, parent, database_url=postgresql.url, max_attempts=3, retry_wait=0.1
    ) as harness:
        yield harness


@asynccontextmanager
async def away(harness: ServiceHarness, postgresql: OwnPostgresql) -> AsyncIterator[None]:
    """The database is killed, and started again at the end, but not before the service has met its absence."""
    known = len(harness.service.log_lines())
    await postgresql.kill()
    try:
        yield

        async def met() -> bool:
            words = ("database.unavailable", "call.retried", "authorization.stage_not_recorded")
            return any(line["event"] in words for line in harness.service.log_lines()[known:])

        await eventually(met, RECOVERY)
    finally:
        await postgresql.start()


@pytest.mark.long
async def test_session_that_is_due_survives_a_database_outage(
    over_postgresql: ServiceHarness, postgresql: OwnPostgresql, account: str
):
    harness = over_postgresql
    due = utc_now() + timedelta(seconds=1.5)
    session_id = await harness.ask(account, not_before=due.isoformat())
    async with away(harness, postgresql):
        refused = await harness.post(account)
        assert (refused.status_code, refused.json()["error_code"]) == (503, "DATABASE_UNAVAILABLE")
        assert int(refused.headers["Retry-After"]) > 0
        await asyncio.sleep((due - utc_now()).total_seconds())
    await assert_done(harness, session_id, account, attempts=1)


@pytest.mark.long
async def test_stages_survive_a_database_outage(
    over_postgresql: ServiceHarness, postgresql: OwnPostgresql, account: str
):
    harness = over_postgresql
    await harness.admin.set_fault("provider.consent", "delay", account=account, seconds=1)
    session_id = await harness.ask(account)
    await asked_at(harness, "provider.consent", account)
    async with away(harness, postgresql):
        await asked_at(harness, "provider.token", account)
    await assert_done(harness, session_id, account, attempts=1)


async def test_tokens_survive_a_database_outage(
    over_postgresql: ServiceHarness, postgresql: OwnPostgresql, account: str
):
    """They are in memory only, and the code is spent: they are kept until they can be stored."""
    harness = over_postgresql
    await harness.admin.set_fault("provider.me", "delay", account=account, seconds=1)
    session_id = await harness.ask(account)
    await asked_at(harness, "provider.me", account)
    async with away(harness, postgresql):
        pass
    await assert_done(harness, session_id, account, attempts=1)
    assert await harness.admin.requests(endpoint="provider.revoke", account=account) == []
    assert len(await harness.admin.requests(endpoint="provider.token", account=account)) == 1
