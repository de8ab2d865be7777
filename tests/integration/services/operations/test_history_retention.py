"""Minutes of the fleet's history become hours with the same sums, and hours go when their time is over."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.database import Database
from app.models import FleetHistory, utc_now
from app.services.fleet.history import HistoryRange, fetch_points
from app.services.operations.history_retention import GAUGES, HistoryRetention, begin_of

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

HOUR = timedelta(hours=1)
OLD = begin_of(utc_now() - timedelta(days=10), 3600)


def minute(begins_at: datetime, **values: Any) -> FleetHistory:
    defaults: dict[str, Any] = {
        "step": 60, "minutes": 1, "completed": 0, "failed": 0, "timeout": 0, "cancelled": 0, "needs_attention": 0,
        "failures": {},
    }  # fmt: skip
    return FleetHistory(begins_at=begins_at, **defaults | values)


async def add(database: Database, *rows: FleetHistory) -> None:
    async with database.transaction() as db:
        db.add_all(rows)


async def stored(database: Database) -> Sequence[FleetHistory]:
    async with database.reading() as db:
        return (await db.scalars(select(FleetHistory).order_by(FleetHistory.begins_at))).all()


@pytest.fixture
def retention(database: Database) -> HistoryRetention:
    return HistoryRetention(database=database, minute_days=7, hour_days=90)


async def test_hour_has_the_sums_and_means_of_its_minutes(database: Database, retention: HistoryRetention):
    rows = [
        minute(
            OLD + n * timedelta(minutes=1), completed=n, failed=1, timeout=2, cancelled=3, needs_attention=4,
            failures={"X": 1, f"Y{n % 2}": 6}, waiting=n, oldest_waiting_seconds=None if n else 5.0,
        )
        for n in range(60)
    ]  # fmt: skip
    kept = minute(utc_now() - timedelta(days=6), completed=8)
    await add(database, *rows, minute(OLD + HOUR, completed=9), kept)
    whole = HistoryRange(OLD, OLD + 2 * HOUR, 3600)
    async with database.reading() as db:
        before = await fetch_points(db, whole)
    assert await retention.sum_up() == 2
    assert await retention.sum_up() == 0
    first, second, last = await stored(database)
    assert (first.begins_at, first.step, first.minutes) == (OLD, 3600, 60)
    assert (first.completed, first.failed, first.timeout, first.cancelled, first.needs_attention) == (
        sum(range(60)), 60, 120, 180, 240,
    )  # fmt: skip
    assert first.failures == {"X": 60, "Y0": 180, "Y1": 180}
    assert (first.waiting, first.oldest_waiting_seconds, first.running) == (sum(range(60)) / 60, 5, None)
    assert (second.begins_at, second.minutes, second.completed) == (OLD + HOUR, 1, 9)
    assert (last.step, last.completed) == (60, 8)
    async with database.reading() as db:
        assert await fetch_points(db, whole) == before


async def test_minutes_that_come_later_are_added_to_their_hour(
    database: Database, retention: HistoryRetention
):
    await add(database, minute(OLD, completed=1, failures={"X": 1}, waiting=4))
    await retention.sum_up()
    await add(
        database, minute(OLD, completed=2, failures={"X": 2}), minute(OLD + HOUR / 2, failed=3, waiting=1)
    )
    assert await retention.sum_up() == 1
    (hour,) = await stored(database)
    assert (hour.minutes, hour.completed, hour.failed, hour.failures) == (3, 3, 3, {"X": 3})
    assert hour.waiting == 2.5


@pytest.mark.databases("sqlite", "postgresql")
async def test_two_processes_sum_up_an_hour_once(database: Database, retention: HistoryRetention):
    await add(database, *(minute(OLD + n * timedelta(minutes=1), completed=1) for n in range(60)))
    results = await asyncio.gather(*(retention.sum_up() for _ in range(3)))
    (hour,) = await stored(database)
    assert (hour.minutes, hour.completed) == (60, 60)
    assert sum(results) >= 1


async def test_old_hours_go_a_day_at_a_time(database: Database):
    retention = HistoryRetention(database=database, minute_days=7, hour_days=90)
    now = utc_now()
    old = [minute(now - timedelta(days=90, hours=n), step=3600, minutes=60) for n in range(1, 50)]
    kept = minute(now - timedelta(days=89), step=3600, minutes=60)
    await add(database, *old, kept)
    assert await retention.delete_old() == 49
    assert await retention.delete_old() == 0
    assert [row.begins_at for row in await stored(database)] == [kept.begins_at]


async def test_minutes_stay_their_time_when_hours_have_less(database: Database):
    retention = HistoryRetention(database=database, minute_days=7, hour_days=1)
    await add(database, minute(utc_now() - timedelta(days=6)))
    assert await retention.delete_old() == 0
    assert len(await stored(database)) == 1


def test_gauges_and_sums_are_all_columns():
    names = {column.name for column in FleetHistory.__table__.columns}
    sums = {"minutes", "completed", "failed", "timeout", "cancelled", "needs_attention"}
    assert names == {"begins_at", "step", "failures", *sums, *GAUGES}
