"""Which authorization sessions there are."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import AuthorizationSession, SessionStatus
from app.services.listing import Page, PageRequest, page_of
from app.services.reach import EVERYTHING, Reach

SortField = Literal["created_at", "completed_at"]


@dataclass(frozen=True)
class SessionFilter:
    """What to list; None: whatever."""

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


async def page(
    session: AsyncSession, wanted: SessionFilter, request: PageRequest, *, reach: Reach = EVERYTHING
) -> Page[AuthorizationSession]:
    """`request.sort`: one of `SortField`."""
    row = AuthorizationSession
    query = select(row).where(reach.condition(row.twitter_username, row.api_app))
    return await page_of(session, _filtered(query, wanted), row, request)


def _filtered(query: Select[AuthorizationSession], wanted: SessionFilter) -> Select[AuthorizationSession]:
    row = AuthorizationSession
    exact = {
        row.twitter_username: wanted.account_id,
        row.api_app: wanted.api_app,
        row.status: wanted.status,
        row.error_code: wanted.error_code,
        row.batch_id: wanted.batch_id,
        row.request_id: wanted.request_id,
        row.requested_by: wanted.requested_by,
    }
    query = query.where(*(column == value for column, value in exact.items() if value is not None))
    if wanted.since is not None:
        query = query.where(row.created_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(row.created_at < wanted.until)
    return query
