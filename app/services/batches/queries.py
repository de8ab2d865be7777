"""Batches as their callers see them; reads only."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, exists, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import OPEN_STATUSES, AuthorizationSession, Batch, BatchRow, SessionStatus
from app.services.keys.service import Caller
from app.services.shared.access import EVERYTHING
from app.services.shared.paging import Page, PageRequest, Total, fetch_page
from app.utils.exceptions import BatchNotFoundException

_ETA_SAMPLE_SIZE: Final = 100
"""Ends that tell how fast it goes."""


@dataclass(frozen=True)
class BatchView:
    row: Batch
    counts: dict[str, int]
    """Rows by the status of their session; every status."""
    eta_seconds: float | None
    """Seconds until the end; None when no session has ended yet, or all have."""


@dataclass(frozen=True)
class RowResult:
    """A row and what became of it."""

    row: int
    account_id: str
    api_app: str
    session_id: str | None
    existing: bool
    status: SessionStatus | None
    """Status of the session; None when there is none, or retention has deleted it."""
    error_code: str | None
    """Reason why there is no session, or why it failed."""
    error: str | None


async def get_batch(db: AsyncSession, batch_id: str, *, caller: Caller, for_update: bool = False) -> Batch:
    """Raises `BatchNotFoundException`, also for one that the caller may not see."""
    query = select(Batch).where(Batch.batch_id == batch_id, _seen_by(caller))
    batch: Batch | None = await db.scalar(query.with_for_update() if for_update else query)
    if batch is None:
        raise BatchNotFoundException(batch_id)
    return batch


async def view_batch(db: AsyncSession, batch_id: str, *, caller: Caller) -> BatchView:
    """Raises `BatchNotFoundException`, also for one that the caller may not see."""
    batch = await get_batch(db, batch_id, caller=caller)
    query = (
        select(AuthorizationSession.status, func.count())
        .join(BatchRow, BatchRow.session_id == AuthorizationSession.session_id)
        .where(BatchRow.batch_id == batch.batch_id)
        .group_by(AuthorizationSession.status)
    )
    counts = dict.fromkeys((status.value for status in SessionStatus), 0)
    counts |= {status.value: count for status, count in await db.execute(query)}
    unfinished = sum(counts[status] for status in OPEN_STATUSES)
    seconds = await _seconds_per_session(db, batch) if unfinished and batch.completed_at is None else None
    return BatchView(batch, counts, None if seconds is None else round(seconds * unfinished, 1))


async def fetch_batches(db: AsyncSession, request: PageRequest, *, caller: Caller) -> Page[Batch]:
    """Return a page of the batches that the caller may see."""
    return await fetch_page(db, select(Batch).where(_seen_by(caller)), Batch, request)


async def fetch_results(
    db: AsyncSession, batch_id: str, request: PageRequest, *, caller: Caller
) -> Page[RowResult]:
    """Return a page of results in the order of the rows. Raises `BatchNotFoundException`.

    They are few, and the batch knows their number: no cursor and no count.
    """
    batch = await get_batch(db, batch_id, caller=caller)
    # The rows are numbered from 1, without a gap.
    before = (request.number - 1) * request.size
    query = (
        select(
            BatchRow.number,
            BatchRow.account_id,
            BatchRow.api_app,
            BatchRow.session_id,
            BatchRow.is_existing,
            AuthorizationSession.status,
            func.coalesce(BatchRow.error_code, AuthorizationSession.error_code),
            func.coalesce(BatchRow.error_message, AuthorizationSession.error_message),
        )
        .outerjoin(AuthorizationSession, AuthorizationSession.session_id == BatchRow.session_id)
        .where(
            BatchRow.batch_id == batch_id, BatchRow.number > before, BatchRow.number <= before + request.size
        )
        .order_by(BatchRow.number)
    )
    rows = [RowResult(*row) for row in await db.execute(query)]
    return Page(rows, Total(batch.accepted + batch.rejected), request.number)


async def count_codes(db: AsyncSession, batch: Batch) -> dict[str, int]:
    """Return the number of the batch's rows by error code, the most frequent first."""
    code = func.coalesce(BatchRow.error_code, AuthorizationSession.error_code)
    query = (
        select(code, func.count())
        .select_from(BatchRow)
        .outerjoin(AuthorizationSession, AuthorizationSession.session_id == BatchRow.session_id)
        .where(BatchRow.batch_id == batch.batch_id, code.is_not(None))
        .group_by(code)
        .order_by(func.count().desc(), code)
    )
    return {row[0]: row[1] for row in await db.execute(query)}


def _seen_by(caller: Caller) -> ColumnElement[bool]:
    """Return the condition that the caller may see a `Batch`: its own, or one whose every account its access covers."""
    if caller.access == EVERYTHING:
        return true()
    is_covered = caller.access.condition(BatchRow.account_id, BatchRow.api_app)
    return or_(
        Batch.requested_by == caller.name, ~exists().where(BatchRow.batch_id == Batch.batch_id, ~is_covered)
    )


async def _seconds_per_session(db: AsyncSession, batch: Batch) -> float | None:
    """Return the wall-clock seconds per finished session over the latest ones; parallelism is included."""
    latest = (
        select(AuthorizationSession.started_at, AuthorizationSession.completed_at)
        .where(
            AuthorizationSession.batch_id == batch.batch_id,
            AuthorizationSession.completed_at >= batch.started_at,
            AuthorizationSession.started_at.is_not(None),
        )
        .order_by(AuthorizationSession.completed_at.desc())
        .limit(_ETA_SAMPLE_SIZE)
        .subquery()
    )
    query = select(func.min(latest.c.started_at), func.max(latest.c.completed_at), func.count())
    first, last, ends = (await db.execute(query.select_from(latest))).one()
    return (last - first).total_seconds() / ends if ends else None
