"""Events go by the age and the number that their class allows; routine events leave a count for each hour."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, func, select

from app.database import Database
from app.models import Event, EventClass, EventDeletions, EventHour, utc_now
from app.services.events import order
from app.services.operations.event_retention import EventLimits
from tests.fixtures.events import add_events
from tests.fixtures.retention import event_retention

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

AUDIT, LIFECYCLE, ROUTINE = "token.read", "authorization.completed", "credential.refreshed"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


async def kept(database: Database) -> list[int]:
    """Ids of the events, without those that tell of a deletion."""
    ids = select(Event.id).where(Event.event_type != "events.evicted").order_by(Event.id)
    async with database.reading() as db:
        return list(await db.scalars(ids))


async def test_each_class_is_kept_for_its_own_time(database: Database):
    days = (500, 100, 50, 5, 0)
    rows = [(event_type, age) for age in days for event_type in (AUDIT, LIFECYCLE, ROUTINE)]
    await add_events(
        database,
        *({"event_type": each, "occurred_at": utc_now() - timedelta(days=age)} for each, age in rows),
    )
    limits = {
        EventClass.AUDIT: EventLimits(days=400, count=100),
        EventClass.LIFECYCLE: EventLimits(days=90, count=100),
        EventClass.ROUTINE: EventLimits(days=7, count=100),
    }
    retention = event_retention(database, limits=limits, batch_size=2)
    assert await retention.delete_old() == 6
    assert await retention.delete_old() == 0
    async with database.reading() as db:
        left = (await db.scalars(select(Event.event_type).order_by(Event.id))).all()
        marks = dict(
            (await db.execute(select(EventDeletions.event_class, EventDeletions.deleted_to_id))).all()
        )
        assert await order.deleted_to(db, [EventClass.AUDIT, EventClass.LIFECYCLE]) == 5
    assert left == [AUDIT, AUDIT, LIFECYCLE] + [AUDIT, LIFECYCLE, ROUTINE] * 2
    assert marks == {EventClass.AUDIT: 1, EventClass.LIFECYCLE: 5, EventClass.ROUTINE: 9}


async def test_number_of_one_class_costs_no_other_class_an_event(database: Database):
    at = utc_now() - timedelta(hours=1)
    rows = [
        {"event_type": (AUDIT, ROUTINE)[number % 2], "occurred_at": at + timedelta(seconds=number)}
        for number in range(30)
    ]
    await add_events(database, *rows)
    few = {EventClass.ROUTINE: EventLimits(days=30, count=4)}
    retention = event_retention(database, limits=few, batch_size=3)
    assert await retention.delete_old() == 11
    audit, routine = list(range(1, 31, 2)), [24, 26, 28, 30]
    assert await kept(database) == sorted(audit + routine)
    assert await retention.delete_old() == 0
    async with database.reading() as db:
        (told,) = await db.scalars(select(Event.data).where(Event.event_type == "events.evicted"))
    assert told == {"event_class": "routine", "to_event_id": 22, "count": 11}


async def test_last_event_stays_whatever_its_age(database: Database):
    """SQLite would give its id again, and readers of the stream go by ids."""
    await add_events(database, *({"occurred_at": utc_now() - timedelta(days=40)} for _ in range(10)))
    assert await event_retention(database, batch_size=4).delete_old() == 9
    await add_events(database, *({} for _ in range(10)))
    assert await event_retention(database, days=90, count=3, batch_size=4).delete_old() == 8
    assert await kept(database) == [18, 19, 20]
    assert await event_retention(database, days=90, count=0).delete_old() >= 2


async def counts(database: Database) -> set[tuple[datetime, str, str, int]]:
    async with database.reading() as db:
        columns = select(EventHour.hour, EventHour.event_type, EventHour.api_app, EventHour.count)
        return {tuple(row) for row in await db.execute(columns)}


@pytest.mark.databases("sqlite", "postgresql")
async def test_routine_events_are_counted_by_hour_type_and_app(database: Database, frozen_noon: None):
    stage, refreshed = "authorization.stage", "credential.refreshed"
    times = [
        (-130, stage, "A"),
        (-125, stage, "B"),
        (-121, stage, "B"),
        (-61, refreshed, None),
        (-60, refreshed, "A"),
    ]
    times += [(-1, refreshed, "A"), (0, refreshed, "A"), (-90, AUDIT, "A"), (-90, LIFECYCLE, "A")]
    await add_events(
        database,
        *(
            {"occurred_at": NOON + timedelta(minutes=minutes), "event_type": event_type, "api_app": app}
            for minutes, event_type, app in times
        ),
    )
    expected = {
        (NOON - timedelta(hours=3), stage, "A", 1),
        (NOON - timedelta(hours=3), stage, "B", 2),
        (NOON - timedelta(hours=2), refreshed, "", 1),
        (NOON - timedelta(hours=1), refreshed, "A", 2),
    }
    retention = event_retention(database)
    assert await retention.count_hours() == 3
    assert await counts(database) == expected
    late = {"occurred_at": NOON - timedelta(minutes=5), "event_type": refreshed, "api_app": "A"}
    await add_events(database, late)
    assert await retention.count_hours() == 1, "the last hour again"
    expected = {row if row[3] != 2 or row[1] == stage else (*row[:3], 3) for row in expected}
    assert await counts(database) == expected
    async with database.transaction() as db:
        await db.execute(delete(Event).where(Event.event_type == refreshed, Event.id < 7))
    await retention.count_hours()
    assert await counts(database) == expected, "a count does not shrink when its events are deleted"


async def test_counting_goes_on_after_a_kill(
    database: Database, frozen_noon: None, monkeypatch: pytest.MonkeyPatch
):
    hours = [NOON - timedelta(hours=number) for number in (5, 4, 2, 1)]
    await add_events(database, *({"occurred_at": hour, "event_type": ROUTINE} for hour in hours))
    retention = event_retention(database)
    count_hour = retention._count_hour

    async def count_until_killed(hour: datetime) -> None:
        await count_hour(hour)
        if hour == hours[1]:
            raise RuntimeError("killed")

    monkeypatch.setattr(retention, "_count_hour", count_until_killed)
    with pytest.raises(RuntimeError):
        await retention.count_hours()
    assert await event_retention(database).count_hours() == 3
    assert await counts(database) == {(hour, ROUTINE, "", 1) for hour in hours}


async def test_counts_are_kept_as_long_as_lifecycle_events(database: Database):
    now = utc_now().replace(minute=0, second=0, microsecond=0)
    async with database.transaction() as db:
        for days in (29, 31):
            hour = now - timedelta(days=days)
            db.add(EventHour(hour=hour, event_type=ROUTINE, api_app="", count=1))
    await event_retention(database, days=30).count_hours()
    async with database.reading() as db:
        assert await db.scalar(select(func.count()).select_from(EventHour)) == 1


@pytest.fixture
def frozen_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.operations.event_retention.utc_now", lambda: NOON)
