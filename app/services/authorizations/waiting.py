"""The queue of waiting sessions: whether it has room, and a session's position in it, at a cost that does not grow."""

import asyncio
import math
import time
from bisect import bisect_left
from collections.abc import Sequence
from contextvars import Context
from typing import Final

from sqlalchemy import func, literal, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import AuthorizationSession, SessionStatus
from app.models.sessions import IN_QUEUE
from app.utils.exceptions import TooManyWaitingException
from app.utils.logger import get_logger

MAX_EXACT_POSITION: Final = 200
_RECOUNT_AFTER: Final = 1.0
"""Seconds after which a count is renewed in the background."""
_MAX_AGE: Final = 5.0
"""Seconds after which a request counts before it goes on."""
_MAX_AGE_WHEN_FULL: Final = 0.2
"""The same for a request that would be refused: clients that hammer a full queue share a count."""
_RETRY_WHEN_FULL: Final = 30.0

log = get_logger(__name__)


_PLACE: Final = tuple_(AuthorizationSession.queue_rank, AuthorizationSession.id)
_FIRST: Final = (
    select(AuthorizationSession.queue_rank, AuthorizationSession.id)
    .where(text(IN_QUEUE))
    # In the index's order: a planner that expects many of them would read the table from its beginning.
    .order_by(AuthorizationSession.queue_rank, AuthorizationSession.id)
    .limit(MAX_EXACT_POSITION)
)
"""Places of the first sessions of the queue."""


class WaitingCount:
    """Number of waiting sessions as this process knows it: the last count, plus its own reservations since then.

    A session alone waits for no count while one of the last seconds has room. So other processes, and transactions
    that were open during the count, may add a few seconds' sessions above `ceiling`.
    """

    def __init__(self, *, database: Database, ceiling: int) -> None:
        self._database = database
        self._ceiling = ceiling
        self._count = 0
        self._counted_at = -math.inf
        self._counting: asyncio.Task[None] | None = None
        self._is_closing = False

    async def reserve(self, db: AsyncSession, *, coming: int) -> None:
        """Reserve room for all of `coming`. Raises `TooManyWaitingException` when there is less."""
        await self._renew(db, coming, is_needed=coming > 1)
        if self._count + coming > self._ceiling:
            raise self.refusal()
        self._count += coming

    async def reserve_some(self, db: AsyncSession, coming: int) -> int:
        """Reserve room for `coming` requests, or for as many of them as there is room for: how many."""
        await self._renew(db, coming)
        room = max(0, min(coming, self._ceiling - self._count))
        self._count += room
        return room

    def give_back(self, count: int) -> None:
        """Free what was reserved for requests that made no session."""
        self._count = max(0, self._count - count)

    def refusal(self) -> TooManyWaitingException:
        return TooManyWaitingException(self._ceiling, _RETRY_WHEN_FULL)

    async def close(self) -> None:
        self._is_closing = True
        if self._counting is not None:
            await asyncio.wait([self._counting])

    async def _renew(self, db: AsyncSession, coming: int, *, is_needed: bool = False) -> None:
        """Count now when the last count is too old to judge by, or soon when it is not of this second."""
        age = time.monotonic() - self._counted_at
        is_full = self._count + coming > self._ceiling
        if is_needed or age > _MAX_AGE or (is_full and age > _MAX_AGE_WHEN_FULL):
            self._set(await self._read(db))
        elif age > _RECOUNT_AFTER and self._counting is None and not self._is_closing:
            # In a context of its own: a log line is not of the request that happened to start it.
            self._counting = asyncio.create_task(self._recount(), context=Context())

    async def _recount(self) -> None:
        try:
            async with self._database.reading() as db:
                self._set(await self._read(db))
        except Exception as error:  # a later request tries again
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
    is_ahead = tuple_(literal(row.queue_rank), literal(row.id)) > _PLACE
    ahead = _FIRST.where(is_ahead)
    return 1 + (await db.scalar(select(func.count()).select_from(ahead.subquery())) or 0)


async def queue_positions(db: AsyncSession, rows: Sequence[AuthorizationSession]) -> dict[str, int | None]:
    """Return the positions of new sessions by their ids, with one statement."""
    if len(rows) == 1:
        return {rows[0].session_id: await queue_position(db, rows[0])}
    if not rows:
        return {}
    places = [(rank, id_) for rank, id_ in await db.execute(_FIRST)]
    return {row.session_id: 1 + bisect_left(places, (row.queue_rank, row.id)) for row in rows}
