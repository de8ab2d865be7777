"""The queue of waiting sessions: whether it has room, and a session's position in it, at a cost that does not grow."""

import asyncio
import time
from typing import Final

from sqlalchemy import and_, func, literal, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import AuthorizationSession, SessionStatus
from app.utils.exceptions import TooManyWaitingException
from app.utils.logger import get_logger

MAX_EXACT_POSITION: Final = 200
_MAX_AGE: Final = 1.0
_RETRY_WHEN_FULL: Final = 30.0
_IN_QUEUE: Final = text("status = 'pending' AND NOT is_held")
"""Condition of the index `ix_authorization_sessions_waiting`, in its own words: SQLite matches no parameters."""

log = get_logger(__name__)


class WaitingCount:
    """Number of waiting sessions as this process knows it: counted at most once a second, plus its own since then.

    No request waits for a count but the first one, and one that would be refused. Other processes may meanwhile add
    the sessions of a second above `ceiling`.
    """

    def __init__(self, *, database: Database, ceiling: int) -> None:
        self._database = database
        self._ceiling = ceiling
        self._count = 0
        self._counted_at: float | None = None
        self._counting: asyncio.Task[None] | None = None

    async def take_room(self, db: AsyncSession, *, coming: int = 1) -> None:
        """Raises `TooManyWaitingException` when there is no room for `coming` more."""
        if self._counted_at is None or self._count + coming > self._ceiling:
            self._set(await self._read(db))
        elif time.monotonic() - self._counted_at > _MAX_AGE and self._counting is None:
            self._counting = asyncio.create_task(self._recount())
        if self._count + coming > self._ceiling:
            raise TooManyWaitingException(self._ceiling, _RETRY_WHEN_FULL)
        self._count += coming

    async def close(self) -> None:
        if self._counting is not None:
            await asyncio.wait([self._counting])

    async def _recount(self) -> None:
        try:
            async with self._database.reading() as db:
                self._set(await self._read(db))
        except Exception as error:  # the next request tries again
            log.warning("waiting.not_counted", error=type(error).__name__)
        finally:
            self._counting = None

    def _set(self, count: int) -> None:
        self._count, self._counted_at = count, time.monotonic()

    async def _read(self, db: AsyncSession) -> int:
        waiting = select(AuthorizationSession.id).where(AuthorizationSession.status == SessionStatus.PENDING)
        bounded = waiting.limit(self._ceiling).subquery()
        return await db.scalar(select(func.count()).select_from(bounded)) or 0


async def queue_position(db: AsyncSession, row: AuthorizationSession) -> int | None:
    """Return 1 for the next one; None unless the session waits; a number over `MAX_EXACT_POSITION` means "or later"."""
    if row.status is not SessionStatus.PENDING or row.is_held:
        return None
    # A comparison of rows, so that the index ends the search: OR would walk the whole queue for the first ones in it.
    place = tuple_(AuthorizationSession.queue_rank, AuthorizationSession.id)
    is_ahead = place < tuple_(literal(row.queue_rank), literal(row.id))
    # In the index's order: a planner that expects many of them would read the table from its beginning.
    ahead = (
        select(AuthorizationSession.id)
        .where(and_(_IN_QUEUE, is_ahead))
        .order_by(AuthorizationSession.queue_rank, AuthorizationSession.id)
        .limit(MAX_EXACT_POSITION)
    )
    return 1 + (await db.scalar(select(func.count()).select_from(ahead.subquery())) or 0)
