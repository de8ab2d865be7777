"""Processes of the fleet as far as the database knows them: by the leases that they hold and renew."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import AuthorizationSession, SessionStatus, WorkerRun


@dataclass(frozen=True)
class LeaseHolder:
    """A process that holds a lease; one without work holds none."""

    name: str
    """Machine, process id and a random part, as in the leases."""
    sessions: int
    """Sessions that it runs."""
    workers: tuple[str, ...]
    """Periodic workers whose turn it has."""
    last_heartbeat: datetime


async def list_lease_holders(
    db: AsyncSession, runs: Sequence[WorkerRun], *, lease_seconds: float
) -> list[LeaseHolder]:
    """Return the processes that hold leases, by name. One statement over the running sessions."""
    query = (
        select(
            AuthorizationSession.lease_owner, func.count(), func.max(AuthorizationSession.lease_expires_at)
        )
        .where(AuthorizationSession.status == SessionStatus.IN_PROGRESS)
        .group_by(AuthorizationSession.lease_owner)
    )
    sessions, ends = dict[str, int](), dict[str, datetime]()
    for owner, count, expires_at in await db.execute(query):
        if owner is not None and expires_at is not None:
            sessions[owner], ends[owner] = count, expires_at
    for run in runs:
        if run.lease_owner is not None and run.lease_expires_at is not None:
            ends[run.lease_owner] = max(run.lease_expires_at, ends.get(run.lease_owner, run.lease_expires_at))
    return [
        LeaseHolder(
            name=owner,
            sessions=sessions.get(owner, 0),
            workers=tuple(run.name for run in runs if run.lease_owner == owner),
            # A heartbeat extends the lease by so much.
            last_heartbeat=ends[owner] - timedelta(seconds=lease_seconds),
        )
        for owner in sorted(ends)
    ]


async def read_schema_revision(db: AsyncSession) -> str:
    return str(await db.scalar(text("SELECT version_num FROM alembic_version")))
