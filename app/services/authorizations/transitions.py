"""Transitions of authorization sessions: one table of transitions, each with its event, and its attempts."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, insert, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import AuthorizationAttempt, AuthorizationSession, EventType, SessionStatus, utc_now
from app.services.events import recorder
from app.services.shared.leases import clear_lease
from app.utils.exceptions import (
    AppException,
    AuthorizationTimeoutException,
    NeedsAttentionException,
    TransitionRefusedException,
)
from app.utils.waits import retry_delay

SessionHook = Callable[[AsyncSession, AuthorizationSession], None]
"""Called with the transaction that ends a session, and the session's row."""
_TRY_AGAIN: Final = frozenset({SessionStatus.PENDING})
TRANSITIONS: Final[Mapping[SessionStatus, frozenset[SessionStatus]]] = {
    SessionStatus.PENDING: frozenset(
        {SessionStatus.IN_PROGRESS, SessionStatus.TIMEOUT, SessionStatus.CANCELLED}
    ),
    SessionStatus.IN_PROGRESS: frozenset(SessionStatus) - {SessionStatus.IN_PROGRESS},
    SessionStatus.COMPLETED: frozenset(),
    SessionStatus.FAILED: _TRY_AGAIN,
    SessionStatus.TIMEOUT: _TRY_AGAIN,
    SessionStatus.CANCELLED: _TRY_AGAIN,
    SessionStatus.NEEDS_ATTENTION: _TRY_AGAIN,
}
"""Statuses that may follow each status."""

_HEAD_START: Final = 600.0
"""Seconds by which one step of priority goes before what is as old."""
_MAX_RETRY_WAIT: Final = 900.0
"""Seconds between two attempts at most, before the jitter."""
_JITTER: Final = 0.5


def move(
    db: AsyncSession,
    row: AuthorizationSession,
    to: SessionStatus,
    *,
    event: EventType | None = None,
    **data: Any,
) -> None:
    """Change the status of a row that the transaction has locked, with its event (by default named by the status).

    Raises `TransitionRefusedException`.
    """
    if to not in TRANSITIONS[row.status]:
        raise TransitionRefusedException(row.status, to)
    row.status = to
    if to is not SessionStatus.IN_PROGRESS:
        clear_lease(row)
    if to.is_final:
        row.completed_at, row.is_held = utc_now(), False
    if to is SessionStatus.PENDING:
        row.stage, row.started_at, row.completed_at = None, None, None
    if event is None:
        is_start = to is SessionStatus.IN_PROGRESS
        event = EventType.AUTHORIZATION_STARTED if is_start else EventType(f"authorization.{to}")
    recorder.record_for(db, event, row, **data)


async def begin_attempt(db: AsyncSession, row: AuthorizationSession) -> None:
    """Note the attempt whose number the row carries, which the transaction has just claimed, with its event."""
    await db.execute(insert(AuthorizationAttempt).values(session_id=row.session_id, number=row.attempts))
    recorder.record_for(db, EventType.AUTHORIZATION_STARTED, row, attempt=row.attempts)


async def end_attempt(
    db: AsyncSession, row: AuthorizationSession, *, code: str | None = None, message: str | None = None
) -> None:
    """Note how the running attempt ended; without a code it has brought the tokens."""
    await db.execute(
        update(AuthorizationAttempt)
        .where(
            AuthorizationAttempt.session_id == row.session_id,
            AuthorizationAttempt.number == row.attempts,
            AuthorizationAttempt.ended_at.is_(None),
        )
        .values(stage=row.stage, error_code=code, error_message=message, ended_at=utc_now())
    )


async def forget_attempt(db: AsyncSession, row: AuthorizationSession) -> None:
    """The attempt was given back before it could fail: it does not count."""
    await db.execute(
        delete(AuthorizationAttempt).where(
            AuthorizationAttempt.session_id == row.session_id, AuthorizationAttempt.number == row.attempts
        )
    )
    row.attempts -= 1


def queue_rank(row: AuthorizationSession) -> float:
    """Older goes first, and each step of priority counts as ten minutes of age: so nothing waits for ever."""
    return rank_of(row.created_at, row.priority)


def rank_of(created_at: datetime, priority: int) -> float:
    """Return the `queue_rank` of a session."""
    return created_at.timestamp() - _HEAD_START * priority


def wait_before_retry(attempts: int, *, first: float) -> float:
    """Return the seconds until the next attempt of a session after so many `attempts`."""
    return retry_delay(attempts, base=first, ceiling=_MAX_RETRY_WAIT, jitter=_JITTER)


def status_after(error: AppException) -> SessionStatus:
    """Return the status of a session that is not tried again."""
    if isinstance(error, AuthorizationTimeoutException):
        return SessionStatus.TIMEOUT
    if isinstance(error, NeedsAttentionException):
        return SessionStatus.NEEDS_ATTENTION
    return SessionStatus.FAILED
