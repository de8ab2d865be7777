"""History of the fleet: a minute is stored once, whoever counts it and whatever clocks do."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from app.database import Database
from app.models import AuthorizationSession, FleetHistory, SessionStatus, utc_now
from app.services.fleet.history import HistoryPoint, HistoryRange, count_minutes, fetch_points, store_minutes
from app.services.operations.history_retention import GAUGES, begin_of
from app.utils.exceptions import InvalidRequestException
from tests.fixtures.factories import new_credential, new_profile, new_session
from tests.fixtures.services import OpenContext

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
COMPLETED, FAILED = SessionStatus.COMPLETED, SessionStatus.FAILED


async def end_sessions(database: Database, *ends: tuple[datetime, SessionStatus, str | None]) -> None:
    async with database.transaction() as db:
        for ended, status, code in ends:
            db.add(new_session(new_profile(), status=status, error_code=code, completed_at=ended))


async def count(database: Database, now: datetime, **gauges: float) -> None:
    """Do what a monitor's turn does at this time of its clock."""
    async with database.reading() as db:
        rows = await count_minutes(db, now=now, gauges=gauges)
    async with database.transaction() as db:
        await store_minutes(db, rows)


async def stored(database: Database) -> Sequence[FleetHistory]:
    async with database.reading() as db:
        return (await db.scalars(select(FleetHistory).order_by(FleetHistory.begins_at))).all()


async def ended(database: Database) -> dict[datetime, int]:
    """Sessions of the minutes in which some ended."""
    sums = {
        row.begins_at: row.completed + row.failed + row.timeout + row.cancelled + row.needs_attention
        for row in await stored(database)
    }
    return {begins_at: number for begins_at, number in sums.items() if number}


async def points(database: Database, since: datetime, until: datetime, step: int) -> list[HistoryPoint]:
    async with database.reading() as db:
        return await fetch_points(db, HistoryRange(since, until, step))


async def test_minute_has_its_ends_and_the_last_one_the_state_of_the_fleet(database: Database):
    await end_sessions(
        database,
        (NOON - 2 * MINUTE, COMPLETED, None),
        (NOON - MINUTE, COMPLETED, None),
        (NOON - MINUTE, FAILED, "BROWSER_CRASHED"),
        (NOON - timedelta(microseconds=1), SessionStatus.NEEDS_ATTENTION, "LOGIN_REQUIRED"),
        (NOON - timedelta(seconds=30), SessionStatus.TIMEOUT, "BROWSER_CRASHED"),
        (NOON, COMPLETED, None),  # of the minute that is not over
    )
    await count(database, NOON + timedelta(seconds=20), waiting=7, broken=2)
    *_, before, last = await stored(database)
    assert (before.begins_at, before.completed, before.failures, before.waiting) == (
        NOON - 2 * MINUTE, 1, {}, None,
    )  # fmt: skip
    assert (last.begins_at, last.step, last.minutes) == (NOON - MINUTE, 60, 1)
    assert (last.completed, last.failed, last.timeout, last.cancelled, last.needs_attention) == (
        1,
        1,
        1,
        0,
        1,
    )
    assert last.failures == {"BROWSER_CRASHED": 2, "LOGIN_REQUIRED": 1}
    assert (last.waiting, last.broken, last.running) == (7, 2, None)
    assert len(await stored(database)) == 60  # the hour before the first count


async def test_minutes_without_a_monitor_are_counted_afterwards(database: Database):
    await count(database, NOON)
    await end_sessions(database, (NOON + 10 * MINUTE, COMPLETED, None), (NOON + 11 * MINUTE, FAILED, "X"))
    await count(database, NOON + 30 * MINUTE)
    assert await ended(database) == {NOON + 10 * MINUTE: 1, NOON + 11 * MINUTE: 1}
    assert len(await stored(database)) == 90


async def test_minute_is_counted_again_for_an_end_that_was_stored_late(database: Database):
    await end_sessions(database, (NOON - MINUTE, COMPLETED, None))
    await count(database, NOON, waiting=1)
    await end_sessions(database, (NOON - MINUTE, FAILED, "X"))
    await count(database, NOON + MINUTE, waiting=2)
    *_, late, last = await stored(database)
    assert (late.completed, late.failed, late.failures, late.waiting) == (1, 1, {"X": 1}, 1)
    assert last.waiting == 2


async def test_session_that_is_tried_again_has_ended_all_the_same(database: Database):
    await end_sessions(database, (NOON - MINUTE, FAILED, "X"))
    await count(database, NOON)
    async with database.transaction() as db:
        await db.execute(update(AuthorizationSession).values(status=SessionStatus.PENDING, completed_at=None))
    await count(database, NOON + MINUTE)
    assert await ended(database) == {NOON - MINUTE: 1}


@pytest.mark.databases("sqlite", "postgresql")
async def test_monitors_that_count_at_once_write_one_row_a_minute(
    database: Database, open_services: OpenContext
):
    # Both find that nobody has counted yet.
    await end_sessions(database, (utc_now() - 5 * MINUTE, COMPLETED, None))
    async with open_services(machine_name="m1") as first, open_services(machine_name="m2") as second:
        reports = (first.accounts.reports, second.accounts.reports)
        for _ in range(3):
            await asyncio.gather(*(each.store_fleet() for each in reports))
    rows = await stored(database)
    assert 60 <= len(rows) <= 61  # a minute may have ended meanwhile
    assert len({row.begins_at for row in rows}) == len(rows)
    assert sum((await ended(database)).values()) == 1


async def test_turns_of_one_minute_write_one_row(database: Database):
    for seconds in (1, 20, 59):
        await count(database, NOON + timedelta(seconds=seconds), waiting=seconds)
    rows = await stored(database)
    assert (len(rows), rows[-1].waiting) == (60, 1)


async def test_clock_that_jumps_back_loses_and_doubles_nothing(database: Database):
    await end_sessions(database, (NOON - MINUTE, COMPLETED, None))
    await count(database, NOON, waiting=3)
    # An hour back: what ends now has times that were counted before.
    earlier = NOON - timedelta(hours=1)
    await end_sessions(database, (earlier + MINUTE, FAILED, "X"), (earlier + 2 * MINUTE, COMPLETED, None))
    for minutes in range(1, 62):
        await count(database, earlier + minutes * MINUTE, waiting=9)
    assert await ended(database) == {
        earlier + MINUTE: 1,
        earlier + 2 * MINUTE: 1,
        NOON - MINUTE: 1,
    }
    waiting = {row.begins_at: row.waiting for row in await stored(database)}
    assert (waiting[NOON - MINUTE], waiting[NOON]) == (3, 9)


async def test_clock_that_was_ahead_leaves_no_minute_without_its_ends(database: Database):
    ahead = NOON + timedelta(hours=5)
    await count(database, ahead)
    for minutes in range(1, 6):
        await end_sessions(database, (NOON + minutes * MINUTE, COMPLETED, None))
        await count(database, NOON + (minutes + 1) * MINUTE)
    assert await ended(database) == {NOON + minutes * MINUTE: 1 for minutes in range(1, 6)}


@pytest.mark.databases("sqlite", "postgresql")
async def test_points_are_sums_and_means_of_their_minutes(database: Database):
    await end_sessions(
        database,
        (NOON, COMPLETED, None),
        (NOON + MINUTE, COMPLETED, None),
        (NOON + MINUTE, FAILED, "X"),
        (NOON + 4 * MINUTE, SessionStatus.CANCELLED, None),
        (NOON + 5 * MINUTE, FAILED, "Y"),
    )
    for minutes in range(1, 7):
        await count(database, NOON + minutes * MINUTE, waiting=minutes)
    first, second = await points(database, NOON, NOON + 10 * MINUTE, 300)
    assert (first.begins_at, first.minutes, second.begins_at, second.minutes) == (
        NOON, 5, NOON + 5 * MINUTE, 1,
    )  # fmt: skip
    assert first.ended[COMPLETED] == 2
    assert (first.failures, second.failures) == ({"X": 1}, {"Y": 1})
    assert (first.sessions_per_minute, second.sessions_per_minute) == (4 / 5, 1)
    assert (first.success_rate, second.success_rate) == (2 / 3, 0)
    assert (first.means["waiting"], second.means["waiting"]) == (3, 6)
    assert set(first.means) == set(GAUGES)
    (minute,) = await points(database, NOON + MINUTE, NOON + 2 * MINUTE, 60)
    assert (minute.begins_at, sum(minute.ended.values())) == (NOON + MINUTE, 2)
    assert await points(database, NOON - timedelta(days=2), NOON - timedelta(days=1), 3600) == []


async def test_monitor_stores_what_the_fleet_report_says(database: Database, open_services: OpenContext):
    now = utc_now()
    async with database.transaction() as db:
        db.add_all(
            [
                new_credential("late", token_expires_at=now - timedelta(hours=1)),
                new_credential("whole", token_expires_at=now + timedelta(hours=3, minutes=30)),
                new_profile(account_id="new", in_use=True),
                waiting := new_profile(account_id="waits"),
                new_session(waiting, created_at=now - timedelta(minutes=20)),
                new_session(new_profile(), is_held=True, created_at=now - timedelta(minutes=40)),
                new_session(new_profile(), status=SessionStatus.IN_PROGRESS),
            ]
        )
    async with open_services() as context:
        assert await context.accounts.reports.store_fleet()
        async with context.database.reading() as db:
            overview = await context.accounts.overview.read(db)
    last = (await stored(database))[-1]
    assert (last.waiting, last.running, last.running_profiles) == (2, 1, 1)
    assert last.oldest_waiting_seconds == pytest.approx(1200, abs=60)
    assert (last.working, last.expiring, last.never_authorized, last.broken) == (1, 1, 2, 0)
    assert overview.fleet is not None
    assert overview.fleet.data["profiles"] == {"active": 2, "quarantined": 0, "in_use": 1}
    by_hour = overview.fleet.data["tokens"]["by_hour"]
    assert (len(by_hour), sum(by_hour), by_hour[3]) == (24, 1, 1)


def test_range_of_a_request():
    def resolve(since: datetime | None, until: datetime | None, step: int | None) -> HistoryRange:
        return HistoryRange.resolve(since, until, step, now=NOON)

    assert resolve(None, None, None) == HistoryRange(NOON - timedelta(hours=1), NOON, 60)
    day = timedelta(days=1)
    assert [resolve(NOON - each * day, None, None).step for each in (1, 7, 90, 1000)] == [
        300,
        3600,
        21600,
        86400,
    ]
    assert resolve(NOON - timedelta(seconds=90), NOON, 60).since == NOON - 2 * MINUTE  # whole steps
    assert resolve(NOON - 1500 * MINUTE, NOON, 60).step == 60
    for wrong in ((NOON - 1501 * MINUTE, NOON, 60), (NOON, NOON, 60), (NOON + MINUTE, None, 60)):
        with pytest.raises(InvalidRequestException):
            resolve(*wrong)


def test_begin_of_a_step():
    assert begin_of(NOON + timedelta(seconds=59), 60) == NOON
    assert begin_of(NOON - timedelta(microseconds=1), 3600) == NOON - timedelta(hours=1)
