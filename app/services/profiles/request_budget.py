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


@dataclass(frozen=True)
class BudgetUsage:
    """The budget at one moment."""

    per_minute: int
    reserved: int
    """Calls whose place in the budget has not come up yet, or came up in a burst that is not paid back."""
    wait_seconds: float
    """Seconds that a call would wait which came now."""
    breaker: BreakerState


class RequestBudget:
    """A token bucket and a breaker in one row of the database.

    Args:
        budget: calls in any `window`, over all processes that share the database.
        window: seconds.
    """

    def __init__(self, *, database: Database, budget: int, window: float = 60.0) -> None:
        self._database = database
        self._window = window
        self._per_minute = round(budget * 60 / window)
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
            return (await self.usage(db)).breaker

    async def usage(self, db: AsyncSession) -> BudgetUsage:
        """Return how much of the budget is used now, and the breaker's state. One statement."""
        query = select(
            ApiGate.opened_at, ApiGate.open_reason, (ApiGate.next_free - database_clock(db)).label("ahead")
        )
        row = (await db.execute(query.where(ApiGate.name == _NAME))).one_or_none()
        # A clock that jumped back finds the gate a window ahead at most.
        ahead = 0.0 if row is None else min(max(0.0, float(row.ahead)), self._window)
        is_open = row is not None and row.opened_at is not None
        return BudgetUsage(
            per_minute=self._per_minute,
            reserved=round(ahead / self._spacing),
            wait_seconds=max(0.0, ahead + self._spacing - self._spacing * self._burst),
            breaker=BreakerState(True, row.opened_at, row.open_reason)
            if row is not None and is_open
            else BreakerState(is_open=False),
        )
