"""Leases of periodic workers: an iteration runs once over all processes that share the database."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, case, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, database_time, insert_or_update
from app.models import WorkerRun, utc_now
from app.services.shared.leases import (
    NO_LEASE,
    has_no_lease,
    lease_columns,
    new_lease_token,
    renew_lease,
    update_held,
)


@dataclass(frozen=True)
class Schedule:
    """Last and next run of a worker, in whichever process."""

    next_run: datetime
    last_success: datetime | None


@dataclass(frozen=True)
class JobLease:
    """The right to do one iteration, for as long as the lease is kept."""

    lease_token: str
    claimed_at: datetime


class PeriodicRuns:
    """`owner`: this process's name in the leases; `lease_seconds`: how long a silent process keeps its turn."""

    def __init__(self, *, database: Database, owner: str, lease_seconds: float) -> None:
        self._database = database
        self.owner = owner
        self.lease_seconds = lease_seconds

    async def schedule(self, name: str) -> Schedule:
        """A worker that never ran is due now."""
        async with self._database.reading() as db:
            row = await db.scalar(select(WorkerRun).where(WorkerRun.name == name))
        return Schedule(row.next_run_at, row.last_success_at) if row else Schedule(utc_now(), None)

    async def seconds_since_success(self, name: str) -> float | None:
        """Return the seconds since the last success; None when there was none."""
        last = (await self.schedule(name)).last_success
        return (utc_now() - last).total_seconds() if last else None

    async def claim(self, name: str, *, force: bool = False) -> JobLease | None:
        """The turn; None when another process has it, or had it lately."""
        token = new_lease_token()
        claim = (
            update(WorkerRun)
            .where(WorkerRun.name == name, has_no_lease(WorkerRun))
            .values(
                **lease_columns(token, owner=self.owner, seconds=self.lease_seconds),
                next_run_at=database_time(),  # whatever stands there at the end was asked for meanwhile
            )
            .returning(WorkerRun.next_run_at)
        )
        if not force:
            claim = claim.where(WorkerRun.next_run_at <= database_time())
        async with self._database.transaction() as db:
            row = insert_or_update(db, WorkerRun).values(name=name, next_run_at=database_time())
            await db.execute(row.on_conflict_do_nothing())
            claimed_at = await db.scalar(claim)
        return JobLease(token, claimed_at) if claimed_at else None

    async def renew(self, name: str, turn: JobLease) -> bool:
        """Keep the turn; False when it is lost."""
        return await renew_lease(
            self._database, WorkerRun, *_lease_guard(name, turn), seconds=self.lease_seconds
        )

    async def finish(self, name: str, turn: JobLease, *, succeeded: bool, next_in: float) -> None:
        """Give the turn back; the next one is due in `next_in` seconds, or at once if it was asked for meanwhile."""
        was_asked_for = WorkerRun.next_run_at != turn.claimed_at
        values = {
            "next_run_at": case((was_asked_for, WorkerRun.next_run_at), else_=database_time(plus=next_in)),
            **NO_LEASE,
        }
        if succeeded:
            values["last_success_at"] = database_time()
        await update_held(self._database, WorkerRun, *_lease_guard(name, turn), **values)

    async def make_due(self, db: AsyncSession, name: str) -> None:
        """Whichever process looks next takes the turn; in the caller's transaction."""
        await db.execute(update(WorkerRun).where(WorkerRun.name == name).values(next_run_at=database_time()))


def _lease_guard(name: str, turn: JobLease) -> tuple[ColumnElement[bool], ...]:
    return WorkerRun.name == name, WorkerRun.lease_token == turn.lease_token
