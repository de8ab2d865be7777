"""Partitions of the events on PostgreSQL: made ahead of time, and dropped when all of their events are old.

Each class has a partition for each month (routine: each day), and a default one for events of any other time. Names end
with the begin of the period: ``events_audit_2026_11``.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import EventClass, utc_now
from app.services.events import order
from app.utils.exceptions import DatabaseBusyException
from app.utils.logger import get_logger

_PERIODS_AHEAD: Final = {EventClass.AUDIT: 1, EventClass.LIFECYCLE: 1, EventClass.ROUTINE: 3}
_LOCK_WAIT: Final = 0.2
"""Seconds. Whoever writes or reads events waits behind a change of the partitions that waits for others."""
_CHANGES_LOCK: Final = 7_300_014
"""Key of the advisory lock under which one process at a time changes partitions."""
_COUNTED_BYTES: Final = 64_000_000
"""Size of a partition up to which its rows are counted; of larger ones the planner's estimate will do."""
_NAME: Final = re.compile(r"events_[a-z]+_(\d{4})_(\d\d)(?:_(\d\d))?")
_FIND: Final = text(
    "SELECT relname, reltuples, pg_relation_size(oid) FROM pg_class "
    "WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = CAST(:parent AS regclass))"
)
_HAS_BEGUN: Final = (
    "SELECT EXISTS (SELECT FROM {parent}_default WHERE occurred_at >= :begin AND occurred_at < :end)"
)
_MAY_CHANGE: Final = text("SELECT pg_try_advisory_xact_lock(:key)")
_IS_THERE: Final = text("SELECT to_regclass(:name) IS NOT NULL")

log = get_logger(__name__)


@dataclass(frozen=True)
class Partition:
    event_class: EventClass
    begin: datetime
    """Begin of its month or day."""

    @property
    def parent(self) -> str:
        return f"events_{self.event_class}"

    @property
    def name(self) -> str:
        day = "_%d" if _is_daily(self.event_class) else ""
        return f"{self.parent}_{self.begin:%Y_%m{day}}"

    @property
    def end(self) -> datetime:
        if _is_daily(self.event_class):
            return self.begin + timedelta(days=1)
        return (self.begin + timedelta(days=31)).replace(day=1)


def partition_at(event_class: EventClass, moment: datetime) -> Partition:
    day = moment.day if _is_daily(event_class) else 1
    return Partition(event_class, datetime(moment.year, moment.month, day, tzinfo=UTC))


@dataclass(frozen=True)
class ClassPartitions:
    """Partitions of one class: those that there are."""

    rows: dict[Partition, int]
    """About the number of rows in each one, the oldest first."""
    rows_of_default: int


class EventPartitions:
    """Any number of processes may change partitions at once. A change that must wait is left to the next cleanup."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def make_ahead(self) -> int:
        """Make the partitions of now and of the next periods; return how many were missing and are there now."""
        made = 0
        for event_class, periods in _PERIODS_AHEAD.items():
            partition = partition_at(event_class, utc_now())
            for _ in range(periods + 1):
                made += await self.make(partition)
                partition = Partition(event_class, partition.end)
        return made

    async def make(self, partition: Partition) -> bool:
        """Make a partition; return False when it is there, or in use, or its period has events in the default one."""
        name, parent = partition.name, partition.parent
        bounds = {"begin": partition.begin, "end": partition.end}
        async with self._database.reading() as db:
            if await _is_there(db, partition):
                return False
            has_begun = await db.scalar(text(_HAS_BEGUN.format(parent=parent)), bounds)
        if has_begun:
            # Its events stay in the default one, until they are old.
            log.warning("events.partition_not_made", partition=name)
            return False
        try:
            async with self._database.transaction(lock_wait=_LOCK_WAIT) as db:
                if not await _may_change(db) or await _is_there(db, partition):
                    return False
                # Attached, not made in its place: that would lock the table for all who write.
                await db.execute(text(f"CREATE TABLE {name} (LIKE {parent} INCLUDING DEFAULTS)"))
                values = f"FROM ('{partition.begin}') TO ('{partition.end}')"
                await db.execute(text(f"ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES {values}"))
        except DatabaseBusyException:
            log.info("events.partition_in_use", partition=name)
            return False
        except IntegrityError:  # an event of that time has just come
            log.warning("events.partition_not_made", partition=name)
            return False
        return True

    async def find(self, event_class: EventClass) -> ClassPartitions:
        rows, rows_of_default = {}, 0
        async with self._database.reading() as db:
            for name, estimate, size in (await db.execute(_FIND, {"parent": f"events_{event_class}"})).all():
                if size <= _COUNTED_BYTES or estimate <= 0:  # or nobody has analyzed it
                    count = await db.scalar(text(f"SELECT count(*) FROM {name}"))  # noqa: S608  # of the catalogue
                else:
                    count = round(estimate)
                if match := _NAME.fullmatch(name):
                    begin = datetime(*(int(part or 1) for part in match.groups()), tzinfo=UTC)  # type: ignore[misc,arg-type]
                    rows[Partition(event_class, begin)] = count or 0
                else:
                    rows_of_default += count or 0
        return ClassPartitions(dict(sorted(rows.items(), key=lambda item: item[0].begin)), rows_of_default)

    async def drop(self, partition: Partition) -> bool:
        """Drop a partition with its events; return False when it is in use, or holds the last event of all."""
        try:
            async with self._database.transaction(lock_wait=_LOCK_WAIT) as db:
                if not await _may_change(db) or not await _is_there(db, partition):
                    return False
                last = await db.scalar(text(f"SELECT max(id) FROM {partition.name}"))  # noqa: S608
                if last is not None:
                    if last == await db.scalar(text("SELECT max(id) FROM events")):
                        return False
                    await order.note_deleted(db, partition.event_class, last)
                await db.execute(text(f"DROP TABLE {partition.name}"))
        except DatabaseBusyException:
            log.info("events.partition_in_use", partition=partition.name)
            return False
        return True


async def _may_change(db: AsyncSession) -> bool:
    return bool(await db.scalar(_MAY_CHANGE, {"key": _CHANGES_LOCK}))


async def _is_there(db: AsyncSession, partition: Partition) -> bool:
    return bool(await db.scalar(_IS_THERE, {"name": partition.name}))


def _is_daily(event_class: EventClass) -> bool:
    return event_class is EventClass.ROUTINE
