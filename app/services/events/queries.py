"""Lists of events, the latest first. What one query looks at is bounded, however long the table and rare the match."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import Event
from app.services.events.filters import Conditions, EventFilter
from app.services.shared.paging import Total, count_up_to

COUNT_LIMIT: Final = 10_000
"""Events are counted up to here, and pages end with that of the last one counted."""
_SCAN_LIMIT: Final = 50_000
"""Events that one query looks at when no index tells which ones fit."""
EXPORT_PAGE_SIZE: Final = 1_000
_LATEST_FIRST: Final = (Event.occurred_at.desc(), Event.id.desc())


class Place(NamedTuple):
    """Position before which, in time, the list goes on."""

    occurred_at: datetime
    event_id: int


@dataclass(frozen=True)
class EventRows:
    rows: Sequence[Event]
    next: Place | None
    """Position of the next page; None when there is none. A short page may have a next one: its scan had a limit."""


async def rows_before(
    db: AsyncSession,
    wanted: EventFilter,
    place: Place | None,
    *,
    limit: int,
    scan_limit: int = _SCAN_LIMIT,
) -> EventRows:
    """The latest of the events before `place`; None: of all. Two queries at most."""
    return await _rows(db, wanted, place, offset=0, limit=limit, scan_limit=scan_limit)


async def page(db: AsyncSession, wanted: EventFilter, *, page: int, page_size: int) -> EventRows:
    """Page `page` (from 1). Two queries at most."""
    offset = (page - 1) * page_size
    return await _rows(db, wanted, None, offset=offset, limit=page_size, scan_limit=_SCAN_LIMIT)


async def count(
    db: AsyncSession, wanted: EventFilter, *, limit: int = COUNT_LIMIT, scan_limit: int = _SCAN_LIMIT
) -> Total:
    """Up to `limit`, among those that one query looks at. Two queries at most."""
    floor = await _floor(db, wanted, None, scan_limit)
    query = select(Event).where(*wanted.conditions(), *_since(floor))
    return await count_up_to(db, query, limit, is_all=floor is None)


async def export(
    database: Database,
    wanted: EventFilter,
    *,
    page_size: int = EXPORT_PAGE_SIZE,
    scan_limit: int = _SCAN_LIMIT,
) -> AsyncIterator[Sequence[Event]]:
    """All of them, the latest first, in parts that fit into memory; no transaction is open between two."""
    place: Place | None = None
    while True:
        async with database.reading() as db:
            found = await rows_before(db, wanted, place, limit=page_size, scan_limit=scan_limit)
        yield found.rows
        if found.next is None:
            return
        place = found.next


async def _rows(
    db: AsyncSession, wanted: EventFilter, place: Place | None, *, offset: int, limit: int, scan_limit: int
) -> EventRows:
    floor = await _floor(db, wanted, place, scan_limit)
    query = (
        select(Event)
        .where(*wanted.conditions(), *_before(place), *_since(floor))
        .order_by(*_LATEST_FIRST)
        .offset(offset)
        .limit(limit + 1)
    )
    rows = (await db.scalars(query)).all()
    if len(rows) > limit:
        last = rows[limit - 1]
        return EventRows(rows[:limit], Place(last.occurred_at, last.id))
    return EventRows(rows, Place(floor, 0) if floor is not None else None)


async def _floor(
    db: AsyncSession, wanted: EventFilter, place: Place | None, scan_limit: int
) -> datetime | None:
    """The time of the oldest event that may be looked at; None: all may, they are few or an index has them."""
    if not wanted.rest():
        return None
    query = (
        select(Event.occurred_at)
        .where(*wanted.indexed(), *_before(place))
        .order_by(Event.occurred_at.desc())
        .offset(scan_limit)
        .limit(1)
    )
    floor: datetime | None = await db.scalar(query)
    return floor


def _before(place: Place | None) -> Conditions:
    if place is None:
        return []
    # The first alone would do for neither database's planner to begin in the middle of the index.
    return [Event.occurred_at <= place.occurred_at, tuple_(Event.occurred_at, Event.id) < tuple(place)]


def _since(floor: datetime | None) -> Conditions:
    return [] if floor is None else [Event.occurred_at >= floor]
