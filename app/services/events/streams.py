"""Readers of the event stream: each is a position in the order of events, so that none is missed and none told twice.

A reader follows the tail, and the database where the tail does not reach: after a reconnect, and when it could not keep
up with a burst. Nothing is queued for it: one that does not take what it is sent costs the others nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Final, Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import Event, utc_now
from app.services.events import order
from app.services.events.filters import EventFilter
from app.services.events.order import Position
from app.services.events.tail import BEGINNING, EventTail, StreamedEvent
from app.utils.exceptions import (
    DatabaseUnavailableException,
    TooManyStreamsException,
    UnknownEventIdException,
)
from app.utils.tasks import wait_for_event

_BATCH_SIZE: Final = 100
"""Events that are told at once."""
_SCAN_LIMIT: Final = 10_000
"""Events that one query looks at when older ones are told."""
_HISTORIANS: Final = 4
"""Readers that ask for older events at the same time: other callers need the database, too."""
_RETRY: Final = 1.0

EndReason = Literal["lifetime", "shutdown", "access"]
Batch = Sequence[StreamedEvent]


@dataclass(frozen=True)
class StreamLimits:
    readers: int
    """Ceiling of readers in this process."""
    readers_per_key: int
    lifetime: float
    """Seconds, then the reader has to come again."""
    heartbeat: float
    """Seconds without an event; also between two looks whether the reader may still read."""


@dataclass(frozen=True)
class Gap:
    """Events may have been deleted before the reader was told of them."""

    oldest_kept: datetime | None
    """Time of the first event from which on all that the reader may want are kept."""


@dataclass
class Reader:
    key_name: str
    filters: EventFilter
    may_read: Callable[[], Awaitable[bool]]
    """Asked now and then."""
    position: Position = BEGINNING
    """All up to it was told, or is not wanted."""
    gap: Gap | None = None
    """The latest one: the retention may be faster than a reader that catches up."""
    ended: EndReason | None = None
    opened_at: datetime = field(default_factory=utc_now)
    told: int = 0
    was_cut_off: bool = False
    """True when the reader took nothing for too long."""


@dataclass
class StreamTotals:
    """Since the process began."""

    opened: int = 0
    refused: int = 0
    cut_off: int = 0
    told: int = 0
    told_from_history: int = 0
    """Events that were read from the database, because the tail did not reach back."""


class EventStreams:
    """All readers of this process."""

    def __init__(
        self,
        *,
        database: Database,
        tail: EventTail,
        limits: StreamLimits,
        batch_size: int = _BATCH_SIZE,
        scan_limit: int = _SCAN_LIMIT,
    ) -> None:
        self._database = database
        self._tail = tail
        self.limits = limits
        self._batch_size = batch_size
        self._scan_limit = scan_limit
        self.readers: list[Reader] = []
        self.totals = StreamTotals()
        self._history = asyncio.Semaphore(_HISTORIANS)
        self._is_closing = False

    @property
    def kept(self) -> int:
        """Events in memory, for all readers together."""
        return self._tail.kept

    @asynccontextmanager
    async def open(self, reader: Reader, *, last: Position | None) -> AsyncIterator[Reader]:
        """Begins after the event `last`, else after the latest one.

        Raises `TooManyStreamsException`, `UnknownEventIdException`.
        """
        key_readers = sum(each.key_name == reader.key_name for each in self.readers)
        for subject, number, limit in (
            ("This API key", key_readers, self.limits.readers_per_key),
            ("The service", len(self.readers), self.limits.readers),
        ):
            if number >= limit:
                self.totals.refused += 1
                raise TooManyStreamsException(subject, limit)
        self.readers.append(reader)
        try:
            with self._tail.follow():
                async with self._database.reading() as db:
                    head = await order.newest_position(db)
                    if last is not None and last > head:
                        raise UnknownEventIdException
                    reader.position = last or head
                    reader.gap = await _gap_after(db, last, reader.filters) if last else None
                self.totals.opened += 1
                yield reader
        finally:
            self.readers.remove(reader)
            self.totals.cut_off += reader.was_cut_off

    async def tell(self, reader: Reader) -> AsyncIterator[Batch]:
        """Yield events in order, and an empty batch after `heartbeat` seconds without any; `reader.ended` says why."""
        ends_at = monotonic() + self.limits.lifetime
        check_at = beat_at = monotonic() + self.limits.heartbeat
        while True:
            is_check_due = monotonic() >= check_at
            if (reason := await self._end_reason(reader, ends_at, is_check_due=is_check_due)) is not None:
                reader.ended = reason
                return
            if is_check_due:
                check_at = monotonic() + self.limits.heartbeat
            news = self._tail.news
            batch, has_moved = await self._next(reader)
            if batch or monotonic() >= beat_at:
                reader.told += len(batch)
                self.totals.told += len(batch)
                yield batch
                beat_at = monotonic() + self.limits.heartbeat
            elif not has_moved:
                await wait_for_event(news, max(0.0, min(beat_at, check_at, ends_at) - monotonic()))
            await asyncio.sleep(0)  # a long way to catch up leaves room for the others

    def close(self) -> None:
        """Let all readers end soon; they come again, to another process or after the restart."""
        self._is_closing = True
        self._tail.announce()

    async def _end_reason(self, reader: Reader, ends_at: float, *, is_check_due: bool) -> EndReason | None:
        if self._is_closing:
            return "shutdown"
        if monotonic() >= ends_at:
            return "lifetime"
        try:
            return "access" if is_check_due and not await reader.may_read() else None
        except DatabaseUnavailableException:
            return None  # there is nothing to be read, either

    async def _next(self, reader: Reader) -> tuple[Batch, bool]:
        """Return those of the next events that the reader wants, and whether there were any."""
        latest = self._tail.after(reader.position, self._batch_size)
        if latest is None:
            return await self._read_history(reader)
        if latest:
            reader.position = latest[-1].position
        return [each for each in latest if reader.filters.matches(each.event)], bool(latest)

    async def _read_history(self, reader: Reader) -> tuple[Batch, bool]:
        try:
            async with self._history, self._database.reading() as db:
                end = await _scan_end(db, reader.position, limit=self._scan_limit)
                if end is None:
                    return [], False
                is_in_range = (order.is_after(reader.position), order.is_up_to(end))
                query = select(Event).where(*is_in_range, *reader.filters.conditions())
                events = await db.scalars(query.order_by(*order.ORDER).limit(self._batch_size))
                batch = [StreamedEvent.from_event(event) for event in events]
                gap = await _gap_after(db, reader.position, reader.filters)  # after what was read
                reader.gap = gap or reader.gap
        except DatabaseUnavailableException:  # which has logged it
            await asyncio.sleep(_RETRY)
            return [], True
        reader.position = batch[-1].position if len(batch) == self._batch_size else end
        self.totals.told_from_history += len(batch)
        return batch, True


async def _gap_after(db: AsyncSession, last: Position, filters: EventFilter) -> Gap | None:
    """Return the gap after `last`: none when that event is found, unless later ones that may fit were deleted."""
    deleted_to = await order.deleted_to(db, filters.classes())
    same = (Event.xact_id == last.xact_id, Event.id == last.event_id)
    is_kept = await db.scalar(select(Event.id).where(*same)) is not None
    if last == BEGINNING or (is_kept and deleted_to <= last.event_id):
        return None
    all_kept = select(Event.occurred_at).where(Event.id > deleted_to).order_by(Event.id)
    return Gap(await db.scalar(all_kept.limit(1)))


async def _scan_end(db: AsyncSession, position: Position, *, limit: int) -> Position | None:
    """Return the end of the range that one query may look at; None when nothing has happened since."""
    unread = select(*order.ORDER).where(order.is_after(position), order.is_settled(db))
    chunk = unread.order_by(*order.ORDER).limit(limit).subquery()
    last = select(chunk.c.xact_id, chunk.c.id).order_by(chunk.c.xact_id.desc(), chunk.c.id.desc())
    row = (await db.execute(last.limit(1))).first()
    return Position(*row) if row is not None else None
