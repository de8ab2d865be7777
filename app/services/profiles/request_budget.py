"""Gate of every call to GoLogin's cloud API: the fleet's request budget and its breaker.

GoLogin revokes an API token for good on the first HTTP 429. So the budget lies well under the limit and is one for all
processes, and the first 429 stops all calls until an operator says otherwise.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import case, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, affected_rows, database_clock, insert_or_update
from app.models import ApiGate, EventType, utc_now
from app.services.events import recorder
from app.utils.exceptions import GoLoginBreakerOpenException
from app.utils.logger import get_logger

_NAME: Final = "gologin"
_BURST_SHARE: Final = 0.1
"""Share of the budget that may be called at once after a pause."""
_SLACK: Final = 1.05
"""A call leaves a little after its place came up; the spacing leaves room for that."""

log = get_logger(__name__)


@dataclass(frozen=True)
class BreakerState:
    is_open: bool
    opened_at: datetime | None = None
    reason: str | None = None


class RequestBudget:
    """A token bucket and a breaker in one row of the database.

    Args:
        budget: calls in any `window`, over all processes that share the database.
        window: seconds.
    """

    def __init__(self, *, database: Database, budget: int, window: float = 60.0) -> None:
        self._database = database
        self._window = window
        self._burst = max(1, int(budget * _BURST_SHARE))
        self._spacing = window * _SLACK / max(1, budget - self._burst)

    async def acquire(self) -> None:
        """Wait for the call's place in the budget. Raises `GoLoginBreakerOpenException`."""
        if (wait := await self.reserve()) > 0:
            await asyncio.sleep(wait)
            if (await self.state()).is_open:
                raise GoLoginBreakerOpenException

    async def reserve(self) -> float:
        """Reserve a place; return the seconds until it comes up. Raises `GoLoginBreakerOpenException`.

        The generic cell rate algorithm (ITU-T I.371) in one statement: `next_free` moves on by one spacing for each
        call; a clock that jumped back finds it a window ahead at most.
        """
        async with self._database.transaction() as db:
            now = database_clock(db)
            latest, least = now + self._window, now
            next_free = case(
                (ApiGate.next_free > latest, latest),
                (ApiGate.next_free < least, least),
                else_=ApiGate.next_free,
            )
            statement = (
                update(ApiGate)
                .where(ApiGate.name == _NAME, ApiGate.opened_at.is_(None))
                .values(next_free=next_free + self._spacing)
                .returning(ApiGate.next_free - now)
            )
            delay = await db.scalar(statement)
            if delay is None:
                row = insert_or_update(db, ApiGate).values(name=_NAME, next_free=0.0)
                await db.execute(row.on_conflict_do_nothing())
                delay = await db.scalar(statement)
        if delay is None:
            raise GoLoginBreakerOpenException
        return max(0.0, float(delay) - self._spacing * self._burst)

    async def open_breaker(self, reason: str) -> None:
        """Open the breaker; only the first one of the fleet says so."""
        async with self._database.transaction() as db:
            result = await db.execute(
                update(ApiGate)
                .where(ApiGate.name == _NAME, ApiGate.opened_at.is_(None))
                .values(opened_at=utc_now(), open_reason=reason)
            )
            if not affected_rows(result):
                return
            recorder.record(db, EventType.GOLOGIN_BREAKER_OPENED, reason=reason)
        log.critical("gologin.breaker_opened", reason=reason, action="POST /gologin/breaker/close")

    async def close(self, db: AsyncSession, *, actor: str) -> bool:
        """Let calls through again, in the caller's transaction; False when the breaker was not open."""
        closed = await db.execute(
            update(ApiGate)
            .where(ApiGate.name == _NAME, ApiGate.opened_at.is_not(None))
            .values(opened_at=None, open_reason=None)
        )
        was_open = affected_rows(closed) > 0
        if was_open:
            recorder.record(db, EventType.GOLOGIN_BREAKER_CLOSED, actor=actor)
        return was_open

    async def state(self) -> BreakerState:
        async with self._database.reading() as db:
            query = select(ApiGate.opened_at, ApiGate.open_reason).where(ApiGate.name == _NAME)
            row = (await db.execute(query)).one_or_none()
        if row is None or row.opened_at is None:
            return BreakerState(is_open=False)
        return BreakerState(is_open=True, opened_at=row.opened_at, reason=row.open_reason)
