"""Machines whose clocks differ take nothing of each other: leases go by the database's clock."""

import sys
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select

from app import models
from app.database import Database, database_time
from app.models import AuthorizationSession, Profile, SessionStatus, utc_now
from app.services.operations.worker_runs import PeriodicRuns
from tests.fixtures.factories import AddRow
from tests.fixtures.services import OpenContext

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

MINUTE = timedelta(seconds=60)

SetClock = Callable[[timedelta], None]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """From now on this process's own clock is so far ahead."""
    right = models.utc_now

    def set_ahead(by: timedelta) -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith("app.") and hasattr(module, "utc_now"):
                monkeypatch.setattr(module, "utc_now", lambda: right() + by)

    return set_ahead


async def seconds_left(database: Database, table: type[AuthorizationSession] | type[Profile]) -> float:
    async with database.reading() as db:
        expiry = await db.scalar(select(table.lease_expires_at))
    assert expiry is not None
    return (expiry - utc_now()).total_seconds()


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("plus", [0.0, 20.0, -0.00001, 90_000.5])
async def test_database_clock_decides(database: Database, add_session: AddRow, plus: float):
    await add_session(not_before=utc_now() + timedelta(seconds=plus))
    of_row = AuthorizationSession.not_before
    async with database.reading() as db:
        for sooner, later in (
            (of_row, database_time(plus=plus + 5)),
            (database_time(plus=plus - 5), of_row),
        ):
            assert await db.scalar(select(sooner < later))
            assert not await db.scalar(select(later < sooner))


@pytest.mark.parametrize("ahead", [MINUTE, -MINUTE])
async def test_a_claim_lives_in_the_eyes_of_a_clock_that_differs(
    open_services: OpenContext, database: Database, add_session: AddRow, set_clock: SetClock, ahead: timedelta
):
    row = await add_session()
    async with open_services() as here, open_services() as there:
        job = await here.sessions.runs.claim(row.session_id)
        assert job is not None
        set_clock(ahead)
        assert await there.sessions.runs.recover_lost() == 0
        assert await there.sessions.runs.end_overdue() == 0
        assert await there.sessions.runs.claim(row.session_id) is None
        assert await here.sessions.runs.renew(job)
    async with database.reading() as db:
        read = (await db.scalars(select(AuthorizationSession))).one()
    assert (read.status, read.attempts) == (SessionStatus.IN_PROGRESS, 1)
    assert 10 < await seconds_left(database, AuthorizationSession) <= 20


async def test_claim_made_by_a_clock_behind_is_not_lost(
    open_services: OpenContext, database: Database, add_session: AddRow, set_clock: SetClock
):
    row = await add_session()
    async with open_services() as here, open_services() as there:
        set_clock(-MINUTE)
        assert await here.sessions.runs.claim(row.session_id) is not None
        set_clock(timedelta())
        assert await there.sessions.runs.recover_lost() == 0
    assert 10 < await seconds_left(database, AuthorizationSession) <= 20


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_profile_is_not_taken_over_by_a_clock_ahead(
    open_services: OpenContext, database: Database, add_profile: AddRow, set_clock: SetClock
):
    profile = await add_profile()
    async with open_services(profile_start_timeout=1) as here, open_services() as there:
        leases = here.fleet.leases
        async with leases.hold(profile.profile_id) as token:
            await leases.note_browser(profile.profile_id, token, "ws://127.0.0.1:1/devtools/browser/x")
            set_clock(MINUTE)
            assert await there.fleet.leases.take_over_expired() == []
            assert await leases._renew(profile.profile_id, token)
            assert 10 < await seconds_left(database, Profile) <= 20


async def test_a_workers_turn_is_not_taken_over_by_a_clock_ahead(
    open_services: OpenContext, database: Database, set_clock: SetClock
):
    async with open_services() as here, open_services() as there:
        turns, others = (
            PeriodicRuns(database=each.database, owner=owner, lease_seconds=20)
            for each, owner in ((here, "here"), (there, "there"))
        )
        held = await turns.claim("sync")
        assert held is not None
        set_clock(MINUTE)
        assert await others.claim("sync", force=True) is None
        await turns.finish("sync", held, succeeded=True, next_in=30)
        assert await others.claim("sync") is None, "not due yet"


async def test_a_jump_of_the_clock_is_set_right_by_the_next_heartbeat(
    open_services: OpenContext, database: Database, add_session: AddRow
):
    """As after a clock that was an hour ahead when the lease was taken."""
    row = await add_session()
    async with open_services() as here:
        job = await here.sessions.runs.claim(row.session_id)
        assert job is not None
        async with database.transaction() as db:
            read = (await db.scalars(select(AuthorizationSession))).one()
            read.lease_expires_at = utc_now() + timedelta(hours=1)
        assert await here.sessions.runs.renew(job)
    assert 10 < await seconds_left(database, AuthorizationSession) <= 20
