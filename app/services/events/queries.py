"""Lists of events, the latest first. What one query looks at is bounded, however long the table and rare the match."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import Event
from app.services.events.filters import EventFilter
from app.services.shared import paging
from app.services.shared.paging import Page, PageRequest, Total

COUNT_LIMIT: Final = 10_000
"""Events are counted up to here, and pages end with that of the last one counted."""
_EXPORT_PAGE: Final = 1_000
_LATEST_FIRST: Final[dict[str, Any]] = {"sort": "occurred_at", "descending": True}


async def fetch_page(db: AsyncSession, filters: EventFilter, request: PageRequest) -> Page[Event]:
    """Return a page without its total, which `count` returns: new events change it. Two queries at most."""
    query, indexed = _select(filters)
    request = replace(request, **_LATEST_FIRST)
    return await paging.fetch_page(
        db, query, Event, request, indexed=indexed, index_has_id=False, is_counted=False
    )


async def count(db: AsyncSession, filters: EventFilter) -> Total:
    """Count events up to `COUNT_LIMIT`, among those that one query looks at. Two queries at most."""
    query, indexed = _select(filters)
    request = PageRequest(**_LATEST_FIRST)
    return await paging.count_rows(
        db, query, Event, request, limit=COUNT_LIMIT, indexed=indexed, index_has_id=False
    )


async def export(database: Database, filters: EventFilter) -> AsyncIterator[Sequence[Event]]:
    """All of them, the latest first, in parts that fit into memory; no transaction is open between two."""
    request = PageRequest(size=_EXPORT_PAGE)
    while True:
        async with database.reading() as db:
            page = await fetch_page(db, filters, request)
        yield page.rows
        if page.end is None:
            return
        request = replace(request, after=page.end)


def _select(filters: EventFilter) -> tuple[Select[Event], Select[Event] | None]:
    """Return the query, and its part that an index serves when the rest has to look at rows."""
    indexed = select(Event).where(*filters.indexed())
    rest = filters.rest()
    return indexed.where(*rest), indexed if rest else None
