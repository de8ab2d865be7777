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
from app.services.shared.paging import SCAN_LIMIT, Page, PageRequest, Total

COUNT_LIMIT: Final = 10_000
"""Events are counted up to here, and pages end with that of the last one counted."""
EXPORT_PAGE_SIZE: Final = 1_000
_LATEST_FIRST: Final[dict[str, Any]] = {"sort": "occurred_at", "descending": True}


async def fetch_page(
    db: AsyncSession, filters: EventFilter, request: PageRequest, *, scan_limit: int = SCAN_LIMIT
) -> Page[Event]:
    """Return a page without its total, which `count` returns: new events change it. Two queries at most."""
    if request.after is not None:
        # The position implies it, and SQLite would walk through the index from there.
        filters = replace(filters, until=None)
    query, indexed = _select(filters)
    return await paging.fetch_page(
        db,
        query,
        Event,
        replace(request, **_LATEST_FIRST),
        indexed=indexed,
        index_has_id=False,
        scan_limit=scan_limit,
        count_limit=None,
    )


async def count(
    db: AsyncSession, filters: EventFilter, *, limit: int = COUNT_LIMIT, scan_limit: int = SCAN_LIMIT
) -> Total:
    """Count events up to `limit`, among those that one query looks at. Two queries at most."""
    query, indexed = _select(filters)
    return await paging.count_rows(
        db,
        query,
        Event,
        PageRequest(**_LATEST_FIRST),
        limit=limit,
        indexed=indexed,
        index_has_id=False,
        scan_limit=scan_limit,
    )


async def export(
    database: Database,
    filters: EventFilter,
    *,
    page_size: int = EXPORT_PAGE_SIZE,
    scan_limit: int = SCAN_LIMIT,
) -> AsyncIterator[Sequence[Event]]:
    """All of them, the latest first, in parts that fit into memory; no transaction is open between two."""
    request = PageRequest(size=page_size)
    while True:
        async with database.reading() as db:
            page = await fetch_page(db, filters, request, scan_limit=scan_limit)
        yield page.rows
        if page.end is None:
            return
        request = replace(request, after=page.end)


def _select(filters: EventFilter) -> tuple[Select[Event], Select[Event] | None]:
    """Return the query, and its part that an index serves when the rest has to look at rows."""
    indexed = select(Event).where(*filters.indexed())
    unindexed = filters.unindexed()
    return indexed.where(*unindexed), indexed if unindexed else None
