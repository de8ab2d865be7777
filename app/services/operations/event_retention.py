"""Retention of events by class: by age, by number, and what remains of routine events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, literal, literal_column, select

from app.database import Database, affected_rows, insert_or_update
from app.models import Event, EventClass, EventHour, EventType, utc_now
from app.services.events import order, recorder
from app.services.operations.batched_deletes import BATCH_SIZE, delete_in_batches
from app.services.operations.event_partitions import EventPartitions

_HOUR: Final = timedelta(hours=1)
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class EventLimits:
    """Limits of one class."""

    days: float
    count: int


class EventRetention:
    """Deletes the events of each class that are older than its days, then the oldest above its count.

    The last event stays, whatever its age: SQLite would give its id again, and readers go by ids.

    On PostgreSQL whole partitions are dropped, so that events are kept until the last one of their month (routine: of
    their day) is too old. Single events are deleted only where partitions do not reach.
    """

    def __init__(
        self, *, database: Database, limits: Mapping[EventClass, EventLimits], batch_size: int = BATCH_SIZE
    ) -> None:
        self._database = database
        self._limits = limits
        self._batch_size = batch_size
        self._partitions = None if database.is_sqlite else EventPartitions(database=database)

    async def make_partitions(self) -> int:
        """Make what partitions are missing for the events of the next time; return their number."""
        return 0 if self._partitions is None else await self._partitions.make_ahead()

    async def delete_old(self) -> int:
        """Return the number of deleted events."""
        deleted = 0
        for event_class, limits in self._limits.items():
            deleted += await self._delete_aged(event_class, utc_now() - timedelta(days=limits.days))
            deleted += await self._delete_excess(event_class, limits.count)
        return deleted

    async def count_hours(self) -> int:
        """Count the routine events of each hour that is over and not counted yet; return how many hours were counted.

        The last hour that was counted is counted again, for events that were recorded late. Each hour is one
        statement, so that after a kill none is half counted. Deletes counts as old as deleted lifecycle events.
        """
        kept_from = utc_now() - timedelta(days=self._limits[EventClass.LIFECYCLE].days)
        async with self._database.transaction() as db:
            await db.execute(delete(EventHour).where(EventHour.hour < kept_from))
            since = await db.scalar(select(func.max(EventHour.hour))) or _BEGINNING
        end, hours = _begin_of_hour(utc_now()), 0
        while True:
            async with self._database.reading() as db:
                first = await db.scalar(select(func.min(Event.occurred_at)).where(*_is_routine(since, end)))
            if first is None:
                return hours
            since = _begin_of_hour(first) + _HOUR
            await self._count_hour(since - _HOUR)
            hours += 1

    async def _count_hour(self, hour: datetime) -> None:
        api_app = func.coalesce(Event.api_app, literal_column("''"))
        columns = (literal(hour, EventHour.hour.type), Event.event_type, api_app, func.count())
        counts = select(*columns).where(*_is_routine(hour, hour + _HOUR)).group_by(Event.event_type, api_app)
        async with self._database.transaction() as db:
            insert = insert_or_update(db, EventHour).from_select(list(EventHour.__table__.columns), counts)
            # Events that were deleted since are in the older count.
            is_higher = insert.excluded.count > EventHour.count
            update = insert.on_conflict_do_update(
                index_elements=list(EventHour.__table__.primary_key),
                set_={"count": insert.excluded.count},
                where=is_higher,
            )
            await db.execute(update)

    async def _delete_aged(self, event_class: EventClass, before: datetime) -> int:
        deleted = 0
        if self._partitions is not None:
            there = (await self._partitions.find(event_class)).rows
            for partition in [each for each in there if each.end <= before]:
                if await self._partitions.drop(partition):
                    deleted += there.pop(partition)
            # Other events of partitions go with the partition.
            before = min([before, *(each.begin for each in there)])
        return deleted + await self._delete_before(event_class, before)

    async def _delete_before(self, event_class: EventClass, before: datetime) -> int:
        is_old = (
            (Event.event_class == event_class)
            & (Event.occurred_at < before)
            & (Event.id < select(func.max(Event.id)).scalar_subquery())
        )

        async def delete_some(ids: Sequence[int]) -> int:
            return await self._delete(event_class, ids)

        return await delete_in_batches(
            self._database, Event, is_old, delete_some, batch_size=self._batch_size
        )

    async def _delete_excess(self, event_class: EventClass, max_count: int) -> int:
        deleted = 0
        if self._partitions is None:
            excess = await self._count(event_class) - max_count
        else:
            there = await self._partitions.find(event_class)
            excess = there.rows_of_default + sum(there.rows.values()) - max_count
            for partition, count in there.rows.items():
                if count > excess - deleted or partition.end > utc_now():
                    break
                if not await self._partitions.drop(partition):
                    return deleted  # not event by event what can be dropped later
                deleted += count
        deleted += await self._delete_oldest(event_class, excess - deleted)
        if deleted:
            async with self._database.transaction() as db:
                to = await order.deleted_to(db, [event_class])
                data: dict[str, Any] = {"event_class": event_class, "to_event_id": to, "count": deleted}
                recorder.record(db, EventType.EVENTS_EVICTED, **data)
        return deleted

    async def _count(self, event_class: EventClass) -> int:
        query = select(func.count()).select_from(Event).where(Event.event_class == event_class)
        async with self._database.reading() as db:
            return await db.scalar(query) or 0

    async def _delete_oldest(self, event_class: EventClass, count: int) -> int:
        deleted = 0
        events = (
            select(Event.id).where(Event.event_class == event_class).order_by(Event.occurred_at, Event.id)
        )
        while (limit := min(count - deleted, self._batch_size)) > 0:
            async with self._database.reading() as db:
                last = await db.scalar(select(func.max(Event.id)))
                ids = [each for each in await db.scalars(events.limit(limit)) if each != last]
            if not ids:
                break
            deleted += await self._delete(event_class, ids)
        return deleted

    async def _delete(self, event_class: EventClass, ids: Sequence[int]) -> int:
        async with self._database.transaction() as db:
            result = await db.execute(delete(Event).where(Event.id.in_(ids)))
            await order.note_deleted(db, event_class, max(ids))
        return affected_rows(result)


def _is_routine(begin: datetime, end: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        Event.event_class == EventClass.ROUTINE,
        Event.occurred_at >= begin,
        Event.occurred_at < end,
    )


def _begin_of_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
