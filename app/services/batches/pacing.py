"""A batch's pace: how many of its sessions are under way at once, when it is stopped, when it has ended.

Whoever ends a session of a batch has the batch looked at once that is committed: storing tokens never waits for a
batch, and never fails with one. Each process looks at all open batches now and then, too: that makes up for whatever
a killed one has left undone. Every look holds the batch's row, so that of many at once each sees what the others did.
"""

import asyncio
from collections import deque
from contextvars import Context
from functools import partial
from typing import Any, Final

from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, after_commit
from app.models import (
    OPEN_STATUSES,
    AppState,
    AuthorizationSession,
    Batch,
    BatchStatus,
    EventType,
    SessionStatus,
    utc_now,
)
from app.services.authorizations import transitions
from app.services.authorizations.waiters import SessionWaiters
from app.services.events import recorder
from app.services.queue.jobs import JobQueue, QueuedSession
from app.services.shared.isolation import change_sessions
from app.utils.logger import get_logger

_CANCELLED_AT_ONCE: Final = 200
"""Sessions in one transaction: all of a large batch would keep everybody else from writing."""
_SPARE: Final = 20
"""Sessions that are read beside those that are released: one that cannot be released keeps no place."""
_JUDGED_STATUSES: Final = (
    SessionStatus.COMPLETED,
    SessionStatus.FAILED,
    SessionStatus.TIMEOUT,
    SessionStatus.NEEDS_ATTENTION,
)
"""Ends that say something about the batch; a cancelled session does not."""

log = get_logger(__name__)


class BatchPacing:
    """Releases, stops and completes batches; any process may do so at any time."""

    def __init__(
        self,
        *,
        database: Database,
        queue: JobQueue,
        waiters: SessionWaiters,
        cancelled_at_once: int = _CANCELLED_AT_ONCE,
    ) -> None:
        self._database = database
        self._cancelled_at_once = cancelled_at_once
        self._queue = queue
        self._waiters = waiters
        self._due: set[str] = set()
        self._pacing: asyncio.Task[None] | None = None
        self._is_closing = False

    def session_ended(self, db: AsyncSession, row: AuthorizationSession) -> None:
        """Look at the row's batch, if it has one, once the transaction has committed."""
        if (batch_id := row.batch_id) is not None:
            after_commit(db, lambda: self.wake(batch_id))

    def wake(self, batch_id: str) -> None:
        """Look at the batch soon."""
        self._due.add(batch_id)
        if self._pacing is None or self._pacing.done():
            # Its log lines carry no ids of the session that happened to end.
            self._pacing = asyncio.create_task(self._pace_due(), context=Context())

    async def reconcile(self) -> None:
        """Look at all open batches; one that cannot be looked at keeps nothing else back."""
        async with self._database.reading() as db:
            open_ones = select(Batch.batch_id).where(Batch.completed_at.is_(None)).order_by(Batch.id)
            batch_ids = (await db.scalars(open_ones)).all()
        for batch_id in batch_ids:
            await self._try_to_pace(batch_id)

    async def pace(self, batch_id: str) -> None:
        """Do what is due: stop the batch, release or cancel sessions, note its end."""
        while not self._is_closing and await self.step(batch_id):
            pass

    async def close(self) -> None:
        """Go no further than the transaction that is under way."""
        self._is_closing = True
        if self._pacing is not None:
            await asyncio.wait([self._pacing])

    async def _pace_due(self) -> None:
        while self._due:
            await self._try_to_pace(self._due.pop())

    async def _try_to_pace(self, batch_id: str) -> None:
        try:
            await self.pace(batch_id)
        except Exception as error:  # the next look makes up for it
            log.error("batch.not_paced", batch_id=batch_id, exc_info=error)

    async def step(self, batch_id: str) -> bool:
        """Do what is due in one transaction; return whether there may be more to do."""
        query = select(Batch).where(Batch.batch_id == batch_id, Batch.completed_at.is_(None))
        async with self._database.transaction() as db:
            batch = await db.scalar(query.with_for_update())
            if batch is None:
                return False
            if batch.status is BatchStatus.RUNNING:
                if (reason := await _reason_to_stop(db, batch)) is None:
                    await self._release(db, batch)
                else:
                    batch.status, batch.reason = BatchStatus.STOPPED, reason
                    counts = await count_sessions(db, batch_id)
                    _record(db, EventType.BATCH_STOPPED, batch, reason=reason, counts=counts)
                    log.error("batch.stopped", batch_id=batch_id, reason=reason, **counts)
            if batch.status is not BatchStatus.RUNNING and await self._cancel_some(db, batch):
                return True
            await _complete(db, batch)
        return False

    async def _release(self, db: AsyncSession, batch: Batch) -> None:
        """Fill the wave up; what waits for its next attempt keeps its place, what has expired has none."""
        is_in_batch, now = AuthorizationSession.batch_id == batch.batch_id, utc_now()
        waits = (AuthorizationSession.status == SessionStatus.PENDING) & (
            AuthorizationSession.expires_at > now
        )
        runs = AuthorizationSession.status == SessionStatus.IN_PROGRESS
        under_way = select(func.count()).where(
            is_in_batch,
            AuthorizationSession.status.in_(OPEN_STATUSES),
            ~AuthorizationSession.is_held,
            runs | waits,
        )
        free = batch.max_running - (await db.scalar(under_way) or 0)
        if free <= 0:
            return
        held_ids = (
            select(AuthorizationSession)
            .where(is_in_batch, AuthorizationSession.is_held, waits)
            .order_by(AuthorizationSession.queue_rank, AuthorizationSession.id)
            .limit(free + _SPARE)
        )
        waiting = deque(await db.scalars(held_ids.with_for_update()))
        released: list[AuthorizationSession] = []

        async def release(row: AuthorizationSession) -> None:
            row.is_held = False

        while waiting and len(released) < free:
            released += await change_sessions(db, [waiting.popleft()], release, step="release_session")
        await self._queue.submit(db, [QueuedSession.from_row(row) for row in released])

    async def _cancel_some(self, db: AsyncSession, batch: Batch) -> int:
        """Cancel some sessions: the waiting of a stopped batch, all of a cancelled one. Return their number."""
        ending = OPEN_STATUSES if batch.status is BatchStatus.CANCELLED else (SessionStatus.PENDING,)
        code = f"BATCH_{batch.status.upper()}"
        message = f"Its batch was {batch.status}: {batch.reason}"
        query = (
            select(AuthorizationSession)
            .where(AuthorizationSession.batch_id == batch.batch_id, AuthorizationSession.status.in_(ending))
            .order_by(AuthorizationSession.id)
            .limit(self._cancelled_at_once)
        )

        async def cancel(row: AuthorizationSession) -> None:
            if row.status is SessionStatus.IN_PROGRESS:
                await transitions.end_attempt(db, row, code=code, message=message)
            row.error_code, row.error_message = code, message
            transitions.move(db, row, SessionStatus.CANCELLED, error_code=code)

        rows = await db.scalars(query.with_for_update())
        cancelled = await change_sessions(db, rows, cancel, step="cancel_session")
        for row in cancelled:
            after_commit(db, partial(self._waiters.tell, row.session_id))
        return len(cancelled)


async def count_sessions(db: AsyncSession, batch_id: str) -> dict[str, int]:
    """The batch's own sessions by status; only those there are."""
    query = (
        select(AuthorizationSession.status, func.count())
        .where(AuthorizationSession.batch_id == batch_id)
        .group_by(AuthorizationSession.status)
    )
    return {status.value: count for status, count in await db.execute(query)}


async def _reason_to_stop(db: AsyncSession, batch: Batch) -> str | None:
    paused = select(AppState).where(
        AppState.paused_at.is_not(None),
        exists().where(
            AuthorizationSession.batch_id == batch.batch_id,
            AuthorizationSession.status == SessionStatus.PENDING,
            AuthorizationSession.api_app == AppState.api_app,
        ),
    )
    if (app := await db.scalar(paused.limit(1))) is not None:
        return f"the OAuth app {app.api_app} is paused ({app.reason})"
    last = (
        select(AuthorizationSession.status)
        .where(
            AuthorizationSession.batch_id == batch.batch_id,
            AuthorizationSession.completed_at >= batch.started_at,
            AuthorizationSession.status.in_(_JUDGED_STATUSES),
        )
        .order_by(AuthorizationSession.completed_at.desc(), AuthorizationSession.id.desc())
        .limit(batch.stop_window)
    )
    ends = (await db.scalars(last)).all()
    failed = sum(status is not SessionStatus.COMPLETED for status in ends)
    if len(ends) < batch.stop_window or failed * 100 <= batch.stop_percent * batch.stop_window:
        return None
    return f"{failed} of the last {batch.stop_window} sessions failed, more than {batch.stop_percent} %"


async def _complete(db: AsyncSession, batch: Batch) -> None:
    """Note the end when every session has ended."""
    still_open = select(AuthorizationSession.id).where(
        AuthorizationSession.batch_id == batch.batch_id, AuthorizationSession.status.in_(OPEN_STATUSES)
    )
    if await db.scalar(still_open.limit(1)) is not None:
        return
    batch.completed_at = utc_now()
    if batch.status is BatchStatus.RUNNING:
        batch.status = BatchStatus.COMPLETED
    counts = await count_sessions(db, batch.batch_id)
    _record(db, EventType.BATCH_COMPLETED, batch, status=batch.status, counts=counts)
    log.info("batch.completed", batch_id=batch.batch_id, status=batch.status, **counts)


def _record(db: AsyncSession, event_type: EventType, batch: Batch, **data: Any) -> None:
    recorder.record(db, event_type, request_id=batch.request_id, batch_id=batch.batch_id, **data)
