"""The latest events of all processes, in the order of the stream, read once for all who follow them."""

import asyncio
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import Event
from app.services.events import order, recorder
from app.services.events.order import Position
from app.utils.exceptions import DatabaseUnavailableException
from app.utils.logger import get_logger
from app.utils.tasks import wait_for_event

BEGINNING: Final = Position(0, 0)
_PAGE_SIZE: Final = 500
_OTHERS_POLL: Final = 0.5
"""Seconds between two looks for what other processes have written."""
_RETRY: Final = 1.0

log = get_logger(__name__)


@dataclass
class StreamedEvent:
    event: Event
    position: Position
    wire: bytes | None = None
    """Bytes as they are sent, kept by the first sender: all readers share them."""

    @classmethod
    def from_event(cls, event: Event) -> "StreamedEvent":
        return cls(event, Position(event.xact_id, event.id))


async def check_order(database: Database) -> None:
    """Log it when events are of transactions that this server has not come to yet: nobody would be told of them.

    So it is after the dump of another PostgreSQL cluster was restored.
    """
    if database.is_sqlite:
        return
    next_xact_id = text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    async with database.reading() as db:
        last = await db.scalar(select(func.max(Event.xact_id))) or 0
        if last >= (await db.scalar(next_xact_id) or 0):
            log.error("events.order_broken", do="UPDATE events SET xact_id = 0")


class EventTail:
    """Reads only while somebody follows: at once after a commit of this process, else twice a second.

    Keeps the last events, `keep` to twice as many, once for all readers; who needs older ones asks the database.
    """

    def __init__(
        self,
        *,
        database: Database,
        keep: int = 2_000,
        page_size: int = _PAGE_SIZE,
        poll_interval: float = _OTHERS_POLL,
    ) -> None:
        self._database = database
        self._keep = keep
        self._page_size = page_size
        self._poll_interval = poll_interval
        self._kept: list[StreamedEvent] = []
        self._kept_after: Position | None = None
        self._head = BEGINNING
        self._followers = 0
        self._task: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self.news = asyncio.Event()
        """Set when there is something new; take it before you look, the next one is another object."""
        database.listen(recorder.RECORDED, self._due.set)

    @property
    def kept(self) -> int:
        return len(self._kept)

    @contextmanager
    def follow(self) -> Iterator[None]:
        self._followers += 1
        if self._task is None:
            # Its log lines carry no ids of the request that happened to be the first.
            self._task = asyncio.create_task(self._run(), name="event-tail", context=Context())
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                if self._task is not None:
                    self._task.cancel()
                self._task, self._kept, self._kept_after = None, [], None

    def after(self, position: Position, limit: int) -> Sequence[StreamedEvent] | None:
        """The next events after `position`; None: they are not kept here, read them from the database."""
        if self._kept_after is None or position < self._kept_after:
            return None
        first = bisect_right(self._kept, position, key=lambda streamed: streamed.position)
        return self._kept[first : first + limit]

    def announce(self) -> None:
        """Wake whoever waits for news."""
        news, self.news = self.news, asyncio.Event()
        news.set()

    @property
    def _is_current(self) -> bool:
        """True for the running task: on Python 3.11 a cancellation can get lost in `wait_for`, which the pool uses."""
        return self._task is asyncio.current_task()

    async def _run(self) -> None:
        while self._is_current:
            self._due.clear()
            pause = self._poll_interval
            try:
                while await self._read():
                    pass
            except DatabaseUnavailableException:  # which has logged it
                pause = _RETRY
            except Exception:
                log.exception("events.tail_failed")
                pause = _RETRY
            await wait_for_event(self._due, pause)

    async def _read(self) -> bool:
        """Take one page in; whether there may be another."""
        async with self._database.reading() as db:
            newest = await order.newest_position(db) if self._kept_after is None else None
            rows = await page_after(db, newest or self._head, limit=self._page_size)
        if not self._is_current:
            return False
        if newest is not None:
            self._head = self._kept_after = newest
            self.announce()
        if rows:
            self._kept.extend(map(StreamedEvent.from_event, rows))
            self._head = self._kept[-1].position
            if len(self._kept) >= 2 * self._keep:  # seldom: moving the rest costs as much as what is kept
                self._kept_after = self._kept[-self._keep - 1].position
                self._kept = self._kept[-self._keep :]
            self.announce()
        return len(rows) == self._page_size


async def page_after(db: AsyncSession, position: Position, *, limit: int) -> Sequence[Event]:
    query = select(Event).where(order.is_after(position), order.is_settled(db))
    return (await db.scalars(query.order_by(*order.ORDER).limit(limit))).all()
