"""The fleet in numbers, for the monitor."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select

from app.database import Database
from app.models import AuthorizationSession, Credential, Profile, SessionStatus, utc_now

_STATUS = AuthorizationSession.status


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
