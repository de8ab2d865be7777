"""Lists of authorization sessions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import AuthorizationSession, SessionStatus
from app.services.shared import paging
from app.services.shared.access import EVERYTHING, AccessScope
from app.services.shared.paging import Page, PageRequest

Conditions = list[ColumnElement[bool]]


@dataclass(frozen=True)
class SessionFilter:
    """Filter of the list; None matches all."""

    account_id: str | None = None
    api_app: str | None = None
    status: SessionStatus | None = None
    error_code: str | None = None
    batch_id: str | None = None
    request_id: str | None = None
    requested_by: str | None = None
    """Name of an API key."""
    since: datetime | None = None
    """Asked for then or later."""
    until: datetime | None = None
    """Asked for earlier."""
    ended_since: datetime | None = None
    """Ended then or later."""


async def fetch_page(
    db: AsyncSession,
    filters: SessionFilter,
    request: PageRequest,
    *,
    access: AccessScope = EVERYTHING,
    statuses: Sequence[SessionStatus] = (),
) -> Page[AuthorizationSession]:
    """Return a page in the order of the requests. A filter without an index looks at some rows at a time.

    `statuses`: any of them, besides the filter; empty matches all.
    """
    row = AuthorizationSession
    conditions, unindexed = _conditions(filters)
    if statuses and filters.status is None:
        unindexed = [*unindexed, row.status.in_(statuses)]
    if access != EVERYTHING:
        unindexed = [*unindexed, access.condition(row.account_id, row.api_app)]
    # A position implies the time at which the list begins, and SQLite would walk through the index from there.
    is_later = request.after is not None
    if filters.since is not None and (request.descending or not is_later):
        conditions.append(row.created_at >= filters.since)
    if filters.until is not None and not (request.descending and is_later):
        conditions.append(row.created_at < filters.until)
    indexed = select(row).where(*conditions)
    request = replace(request, sort="created_at")
    return await paging.fetch_page(
        db, indexed.where(*unindexed), row, request, indexed=indexed if unindexed else None
    )


def _conditions(filters: SessionFilter) -> tuple[Conditions, Conditions]:
    """Return the conditions that one index serves, and the rest. Each of the first three leaves few rows; of the others
    each has an index of its own, in the order of the list.
    """
    row = AuthorizationSession
    narrow = _equal_conditions(
        {
            row.request_id: filters.request_id,
            row.batch_id: filters.batch_id,
            row.account_id: filters.account_id,
        }
    )
    wide = _equal_conditions(
        {
            row.error_code: filters.error_code,
            row.requested_by: filters.requested_by,
            row.status: filters.status,
            row.api_app: filters.api_app,
        }
    )
    ended = [] if filters.ended_since is None else [row.completed_at >= filters.ended_since]
    return ([*narrow, *wide], ended) if narrow else (wide[:1], [*wide[1:], *ended])


def _equal_conditions(values: dict[Any, Any]) -> Conditions:
    return [column == value for column, value in values.items() if value is not None]
