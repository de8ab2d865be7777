"""The fleet in numbers, for the monitor."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import (
    OPEN_STATUSES,
    AuthorizationSession,
    Credential,
    CredentialStatus,
    Profile,
    SessionStatus,
    utc_now,
)

_STATUS = AuthorizationSession.status
_FINAL_STATUSES: Final = [status for status in SessionStatus if status not in OPEN_STATUSES]
_PACE_WINDOW: Final = timedelta(minutes=15)
"""Time over which ended sessions tell how fast the queue is worked off."""


@dataclass(frozen=True)
class FleetCounts:
    active_profiles: int
    quarantined_profiles: int
    pending_authorizations: int
    running_authorizations: int
    failures_last_hour: int
    oldest_waiting_seconds: float
    """0 when nobody waits."""
    credentials: dict[str, int]
    """Number of credentials by status."""


async def count_fleet(database: Database) -> FleetCounts:
    """A fixed number of queries, each over an index."""
    async with database.reading() as db:
        profiles = select(
            func.count().filter(Profile.is_active), func.count().filter(Profile.quarantined_at.is_not(None))
        )
        active, quarantined = (await db.execute(profiles)).one()
        waiting = select(func.count(), func.min(AuthorizationSession.created_at)).where(
            _STATUS == SessionStatus.PENDING,
            ~AuthorizationSession.is_held,  # those wait for their batch, however long it takes
        )
        pending, oldest = (await db.execute(waiting)).one()
        running = await db.scalar(select(func.count()).where(_STATUS == SessionStatus.IN_PROGRESS)) or 0
        failed = select(func.count()).where(
            _STATUS.in_([SessionStatus.FAILED, SessionStatus.TIMEOUT]),
            AuthorizationSession.completed_at > utc_now() - timedelta(hours=1),
        )
        failures = await db.scalar(failed) or 0
        tokens = await db.execute(select(Credential.status, func.count()).group_by(Credential.status))
        return FleetCounts(
            active_profiles=active,
            quarantined_profiles=quarantined,
            pending_authorizations=pending,
            running_authorizations=running,
            failures_last_hour=failures,
            oldest_waiting_seconds=(utc_now() - oldest).total_seconds() if pending else 0.0,
            credentials={status.value: count for status, count in tokens},
        )


@dataclass(frozen=True)
class SessionCounts:
    waiting: int
    held: int
    """Waiting sessions whose turn within their batch has not come."""
    running: int
    oldest_waiting_at: str | None
    """Time, as JSON has it."""
    ended_last_hour: dict[str, int]
    """Number of ended sessions by status."""
    failures_last_hour: dict[str, int]
    """Number of failed sessions by error code."""
    drain_seconds: float | None
    """Seconds until all that wait have ended, at the pace of the last 15 minutes; None: none ended."""


@dataclass(frozen=True)
class TokenCounts:
    """Active tokens by the time of their expiry."""

    expired: int
    in_15_minutes: int
    in_1_hour: int
    """Number that includes those of 15 minutes; so does the next one."""
    in_24_hours: int


async def count_sessions(db: AsyncSession) -> SessionCounts:
    """Three queries, each over an index."""
    now, row = utc_now(), AuthorizationSession
    pending = select(
        func.count().filter(~row.is_held),
        func.count().filter(row.is_held),
        func.min(row.created_at).filter(~row.is_held),
    )
    waiting, held, oldest = (await db.execute(pending.where(_STATUS == SessionStatus.PENDING))).one()
    running = await db.scalar(select(func.count()).where(_STATUS == SessionStatus.IN_PROGRESS)) or 0
    is_recent = func.count().filter(row.completed_at > now - _PACE_WINDOW)
    ends = select(_STATUS, row.error_code, func.count(), is_recent).where(
        _STATUS.in_(_FINAL_STATUSES), row.completed_at > now - timedelta(hours=1)
    )
    by_status: Counter[str] = Counter()
    by_code: Counter[str] = Counter()
    recent = 0
    for status, code, count, recent_count in await db.execute(ends.group_by(_STATUS, row.error_code)):
        by_status[status.value] += count
        recent += recent_count
        if status is not SessionStatus.COMPLETED and code is not None:
            by_code[code] += count
    return SessionCounts(
        waiting=waiting,
        held=held,
        running=running,
        oldest_waiting_at=_json_time(oldest),
        ended_last_hour=dict(by_status),
        failures_last_hour=dict(by_code),
        drain_seconds=(waiting + held) * _PACE_WINDOW.total_seconds() / recent if recent else None,
    )


async def count_tokens(db: AsyncSession) -> TokenCounts:
    """One query over an index."""
    now, expires_at = utc_now(), Credential.token_expires_at
    counts = select(
        func.count().filter(expires_at <= now),
        func.count().filter(expires_at > now, expires_at <= now + timedelta(minutes=15)),
        func.count().filter(expires_at > now, expires_at <= now + timedelta(hours=1)),
        func.count().filter(expires_at > now),
    ).where(Credential.status == CredentialStatus.ACTIVE, expires_at <= now + timedelta(days=1))
    expired, in_15_minutes, in_1_hour, in_24_hours = (await db.execute(counts)).one()
    return TokenCounts(expired, in_15_minutes, in_1_hour, in_24_hours)


def _json_time(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()
