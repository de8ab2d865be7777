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
from tests.e2e.house import House, open_house
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
    Point("profile_started_unheard", "local.start", "start_hang_running", "profile_starting"),
    Point("browser_attached", "provider.authorize", "hang", "browser_attached", is_long=True),
    Point("consent_given", "provider.consent", "hang", "consent_given", is_long=True),
    Point("code_received", "provider.token", "hang", "code_received", is_long=True),
    Point("code_spent_unheard", "provider.token", "hang_after", "code_received"),
    Point("exchanged_not_stored", "provider.me", "hang", "code_received", is_long=True),
    Point("stored_not_stopped", "local.stop", "hang", "tokens_stored", attempts=1, is_long=True),
]


async def asked_at(house: House, endpoint: str, account: str, *, times: int = 1) -> None:
    """The service has called there, and perhaps waits for the answer."""

    async def seen() -> bool:
        return len(await house.admin.requests(endpoint=endpoint, account=account)) >= times

    await eventually(seen, RECOVERY)


async def assert_done(house: House, session_id: str, account: str, *, attempts: int | None = None) -> None:
    """Completed, by that many attempts, one set of tokens, which work; nothing runs on."""
    async with asyncio.timeout(RECOVERY):
        session = await house.ended(session_id)
    assert session["status"] == "completed", session
    assert attempts in (None, session["attempts"])
    await house.nothing_left(account)
    credential = await house.credential(account)
    assert credential is not None
    assert credential.version == 1
    tokens = await house.tokens(account)
    assert await house.whose(tokens.access_token.get_secret_value()) == account
    assert [grant.usable for grant in await house.admin.grants(account)].count(True) == 1
    types = [event.event_type for event in await house.events(session_id)]
    assert types.count("authorization.completed") == 1


@pytest.mark.parametrize(
    "point",
    [pytest.param(point, marks=[pytest.mark.long] if point.is_long else []) for point in POINTS],
    ids=str,
)
async def test_killed_at_any_point_it_is_completed_once(
    sandbox: SandboxProcess, folder: Path, account: str, point: Point
):
    changes = SHORT | (UNHEARD_START if point.endpoint == "local.start" else {})
    async with open_house(sandbox, folder, **changes) as house:
        reused = (await house.admin.stats()).codes_reused
        profile_id = await house.profile_id(account)
        await house.admin.set_fault(point.endpoint, point.kind, account=account)
        async with watched_browsers(sandbox.pid, house.profile_folder(profile_id)) as seen:
            session_id = await house.ask(account)
            await house.reached(session_id, point.stage)
            await asked_at(house, point.endpoint, account)
            await house.service.kill()
            await house.admin.clear_faults(account)
            await house.service.start()
            await assert_done(house, session_id, account, attempts=point.attempts)
        assert seen.most_of_one_profile == 1
        assert (await house.admin.stats()).codes_reused == reused


# The database goes away


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def postgresql() -> AsyncIterator[OwnPostgresql]:
    async with own_postgresql(runtime_folder() / f"recovery-{os.getpid()}") as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def over_postgresql(
    sandbox: SandboxProcess, tmp_path_factory: pytest.TempPathFactory, postgresql: OwnPostgresql
) -> AsyncIterator[House]:
    parent = tmp_path_factory.mktemp("recovery")
    async with open_house(
        sandbox, parent, database_url=postgresql.url, max_attempts=3, retry_wait=0.1
    ) as house:
        yield house


@asynccontextmanager
async def away(house: House, postgresql: OwnPostgresql) -> AsyncIterator[None]:
    """The database is killed, and started again at the end, but not before the service has met its absence."""
    known = len(house.service.log_lines())
    await postgresql.kill()
    try:
        yield

        async def met() -> bool:
            words = ("database.unavailable", "call.retried", "authorization.stage_not_recorded")
            return any(line["event"] in words for line in house.service.log_lines()[known:])

        await eventually(met, RECOVERY)
    finally:
        await postgresql.start()


async def test_the_database_is_away_when_a_session_is_due(
    over_postgresql: House, postgresql: OwnPostgresql, account: str
):
    house = over_postgresql
    due = utc_now() + timedelta(seconds=1.5)
    session_id = await house.ask(account, not_before=due.isoformat())
    async with away(house, postgresql):
        refused = await house.post(account)
        assert (refused.status_code, refused.json()["error_code"]) == (503, "DATABASE_UNAVAILABLE")
        assert int(refused.headers["Retry-After"]) > 0
        await asyncio.sleep((due - utc_now()).total_seconds())
    await assert_done(house, session_id, account, attempts=1)


async def test_the_database_is_away_while_stages_are_reached(
    over_postgresql: House, postgresql: OwnPostgresql, account: str
):
    house = over_postgresql
    await house.admin.set_fault("provider.consent", "delay", account=account, seconds=1)
    session_id = await house.ask(account)
    await asked_at(house, "provider.consent", account)
    async with away(house, postgresql):
        await asked_at(house, "provider.token", account)
    await assert_done(house, session_id, account, attempts=1)


async def test_the_database_is_away_when_the_tokens_are_to_be_stored(
    over_postgresql: House, postgresql: OwnPostgresql, account: str
):
    """They are in memory only, and the code is spent: they are kept until they can be stored."""
    house = over_postgresql
    await house.admin.set_fault("provider.me", "delay", account=account, seconds=1)
    session_id = await house.ask(account)
    await asked_at(house, "provider.me", account)
    async with away(house, postgresql):
        pass
    await assert_done(house, session_id, account, attempts=1)
    assert await house.admin.requests(endpoint="provider.revoke", account=account) == []
    assert len(await house.admin.requests(endpoint="provider.token", account=account)) == 1
