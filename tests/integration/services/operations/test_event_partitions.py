"""Partitions of the events on PostgreSQL: made ahead of time, dropped as a whole, and in nobody's way."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text

from app.database import Database
from app.models import Event, EventClass, EventDeletions, utc_now
from app.services.operations import event_partitions
from app.services.operations.event_partitions import EventPartitions, Partition, partition_at
from app.services.operations.event_retention import EventLimits
from tests.fixtures.costs import statements_of
from tests.fixtures.events import add_events
from tests.fixtures.retention import event_retention

pytestmark = pytest.mark.databases("postgresql")

READ, COMPLETED, REFRESHED = "token.read", "authorization.completed", "credential.refreshed"


@pytest.fixture
def partitions(database: Database) -> EventPartitions:
    return EventPartitions(database=database)


async def names(partitions: EventPartitions, event_class: EventClass) -> list[str]:
    return [each.name for each in (await partitions.find(event_class)).rows]


async def ids(database: Database) -> list[int]:
    query = select(Event.id).where(Event.event_type != "events.evicted").order_by(Event.id)
    async with database.reading() as db:
        return list(await db.scalars(query))


@pytest.mark.parametrize(
    ("event_class", "moment", "name", "end"),
    [
        (EventClass.AUDIT, datetime(2026, 12, 31, 23, 59, tzinfo=UTC), "events_audit_2026_12", (2027, 1, 1)),
        (EventClass.LIFECYCLE, datetime(2028, 2, 29, tzinfo=UTC), "events_lifecycle_2028_02", (2028, 3, 1)),
        (EventClass.ROUTINE, datetime(2026, 2, 28, tzinfo=UTC), "events_routine_2026_02_28", (2026, 3, 1)),
    ],
)
def test_partition_is_a_month_or_a_day(
    event_class: EventClass, moment: datetime, name: str, end: tuple[int, int, int]
):
    partition = partition_at(event_class, moment)
    assert (partition.name, partition.end) == (name, datetime(*end, tzinfo=UTC))
    assert partition.begin <= moment < partition.end


async def test_partitions_are_made_before_their_time(
    partitions: EventPartitions, monkeypatch: pytest.MonkeyPatch
):
    """The migration has made the first ones."""
    assert await partitions.make_ahead() == 0
    before = {each: await names(partitions, each) for each in EventClass}
    assert {each: len(found) for each, found in before.items()} == {
        EventClass.AUDIT: 2,
        EventClass.LIFECYCLE: 2,
        EventClass.ROUTINE: 4,
    }
    later = partition_at(EventClass.AUDIT, utc_now()).end + timedelta(days=3)
    monkeypatch.setattr(event_partitions, "utc_now", lambda: later)
    assert await partitions.make_ahead() > 2
    assert await partitions.make_ahead() == 0
    for each in EventClass:
        assert partition_at(each, later).name in await names(partitions, each)
        assert set(before[each]) < set(await names(partitions, each))


async def test_old_months_are_dropped_and_not_deleted(database: Database, partitions: EventPartitions):
    limits = {EventClass.AUDIT: EventLimits(days=100, count=1000)}
    edge = partition_at(EventClass.AUDIT, utc_now() - timedelta(days=100))
    old = partition_at(EventClass.AUDIT, edge.begin - timedelta(days=1))
    for partition in (old, edge):
        assert await partitions.make(partition)
    times = [old.begin, old.end - timedelta(seconds=1), edge.begin, utc_now()]
    await add_events(database, *({"event_type": READ, "occurred_at": at} for at in times))
    with statements_of(database) as statements:
        assert await event_retention(database, limits=limits).delete_old() == 2
    assert [each for each, _ in statements if each.startswith("DELETE FROM events")] == []
    assert old.name not in await names(partitions, EventClass.AUDIT)
    assert await ids(database) == [3, 4], "the rest of the month in which the limit is stays"
    async with database.reading() as db:
        assert await db.scalar(select(EventDeletions.deleted_to_id)) == 2


async def test_oldest_months_are_dropped_when_there_are_too_many_events(
    database: Database, partitions: EventPartitions, monkeypatch: pytest.MonkeyPatch
):
    """Of large partitions the planner's estimate is taken."""
    monkeypatch.setattr(event_partitions, "_COUNTED_BYTES", 0)
    months = [partition_at(EventClass.AUDIT, utc_now() - timedelta(days=days)) for days in (150, 100, 50)]
    for partition in months:
        assert await partitions.make(partition)
    rows = [{"event_type": READ, "occurred_at": each.begin} for each in months for _ in range(10)]
    await add_events(database, *rows, {"event_type": COMPLETED})
    async with database.transaction() as db:
        await db.execute(text("ANALYZE events"))
    few = {EventClass.AUDIT: EventLimits(days=1000, count=12)}
    assert await event_retention(database, limits=few).delete_old() == 18
    found = await names(partitions, EventClass.AUDIT)
    assert [each.name in found for each in months] == [False, True, True]
    assert await ids(database) == list(range(19, 32))


async def test_event_without_a_partition_is_kept_as_long_as_others(
    database: Database, partitions: EventPartitions
):
    """Of a time before and after all partitions; the next period has its partition again."""
    far = partition_at(EventClass.ROUTINE, utc_now() + timedelta(days=30))
    times = [utc_now() - timedelta(days=30), utc_now() - timedelta(days=5), far.begin]
    await add_events(database, *({"event_type": REFRESHED, "occurred_at": at} for at in times), {})
    assert (await partitions.find(EventClass.ROUTINE)).rows_of_default == 3
    assert not await partitions.make(far), "its events are in the default partition"
    assert await partitions.make(Partition(EventClass.ROUTINE, far.end))
    limits = {EventClass.ROUTINE: EventLimits(days=7, count=100)}
    assert await event_retention(database, limits=limits).delete_old() == 1
    assert await ids(database) == [2, 3, 4]


async def test_partition_with_the_last_event_stays(database: Database, partitions: EventPartitions):
    old = partition_at(EventClass.AUDIT, utc_now() - timedelta(days=100))
    assert await partitions.make(old)
    await add_events(database, {"event_type": READ, "occurred_at": old.begin})
    assert not await partitions.drop(old)
    await add_events(database, {})
    assert await partitions.drop(old)
    assert not await partitions.drop(old), "another process has dropped it"


async def test_partition_that_is_read_is_dropped_later(database: Database, partitions: EventPartitions):
    """A reader that takes its time neither fails nor keeps those waiting who write."""
    old = partition_at(EventClass.AUDIT, utc_now() - timedelta(days=100))
    assert await partitions.make(old)
    async with asyncio.timeout(30), database.transaction() as db:
        assert (await db.scalars(select(Event.id))).all() == []
        assert not await partitions.drop(old)
        await add_events(database, {"event_type": READ})
    assert await partitions.drop(old)


async def test_open_write_keeps_no_partition_from_being_made(database: Database, partitions: EventPartitions):
    new = partition_at(EventClass.AUDIT, utc_now() + timedelta(days=100))
    async with asyncio.timeout(30), database.transaction() as db:
        db.add(Event(event_type=READ, event_class=EventClass.AUDIT, actor="tests"))
        await db.flush()
        assert await partitions.make(new)
        db.add(Event(event_type=READ, event_class=EventClass.AUDIT, actor="tests", occurred_at=new.begin))
    assert (await partitions.find(EventClass.AUDIT)).rows[new] == 1


async def test_processes_that_change_partitions_at_once_change_each_once(
    database: Database, partitions: EventPartitions
):
    days = [partition_at(EventClass.ROUTINE, utc_now() + timedelta(days=20 + n)) for n in range(5)]
    for change in (partitions.make, partitions.drop):
        done = await asyncio.gather(*(change(each) for each in days for _ in range(3)))
        assert sum(done) <= len(days)
        for each in days:  # one that was in the way of another is left to the next cleanup
            await change(each)
        found = await names(partitions, EventClass.ROUTINE)
        assert [each.name in found for each in days] == [change == partitions.make] * len(days)
