"""Whose turn a periodic worker's iteration is, over all processes that share the database."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, affected_rows, database_time, insert_or_update
from app.models import WorkerRun, utc_now
from app.services.shared.leases import new_lease_token


@dataclass(frozen=True)
class Schedule:
    """When a worker ran last and runs next, in whichever process."""

    next_run: datetime
    last_success: datetime | None


@dataclass(frozen=True)
class Turn:
    """The right to do one iteration, for as long as the lease is kept."""

    lease_token: str
    claimed_at: datetime


class WorkerRuns:
    """`owner`: this process's name in the leases; `lease_seconds`: how long a silent process keeps its turn."""

    def __init__(self, *, database: Database, owner: str, lease_seconds: float) -> None:
        self._database = database
        self._owner = owner
        self.lease_seconds = lease_seconds

    async def schedule(self, name: str) -> Schedule:
        """A worker that never ran is due now."""
        async with self._database.reading() as db:
            row = await db.scalar(select(WorkerRun).where(WorkerRun.name == name))
        return Schedule(row.next_run_at, row.last_success_at) if row else Schedule(utc_now(), None)

    async def seconds_since_success(self, name: str) -> float | None:
        """None when it never succeeded."""
        last = (await self.schedule(name)).last_success
        return (utc_now() - last).total_seconds() if last else None

    async def claim(self, name: str, *, even_if_not_due: bool = False) -> Turn | None:
        """The turn; None when another process has it, or had it lately."""
        token = new_lease_token()
        is_free = or_(WorkerRun.lease_token.is_(None), WorkerRun.lease_expires_at < database_time())
        claim = (
            update(WorkerRun)
            .where(WorkerRun.name == name, is_free)
            .values(
                lease_token=token,
                lease_owner=self._owner,
                lease_expires_at=database_time(plus=self.lease_seconds),
                next_run_at=database_time(),  # whatever stands there at the end was asked for meanwhile
            )
            .returning(WorkerRun.next_run_at)
        )
        if not even_if_not_due:
            claim = claim.where(WorkerRun.next_run_at <= database_time())
        async with self._database.transaction() as db:
            row = insert_or_update(db, WorkerRun).values(name=name, next_run_at=database_time())
            await db.execute(row.on_conflict_do_nothing())
            claimed_at = await db.scalar(claim)
        return Turn(token, claimed_at) if claimed_at else None

    async def renew(self, name: str, turn: Turn) -> bool:
        """Keep the turn; False when it is lost."""
        return await self._update(name, turn, lease_expires_at=database_time(plus=self.lease_seconds))

    async def finish(self, name: str, turn: Turn, *, succeeded: bool, next_in: float) -> None:
        """Give the turn back; the next one is due in `next_in` seconds, or at once if it was asked for meanwhile."""
        was_asked_for = WorkerRun.next_run_at != turn.claimed_at
        values = {
            "next_run_at": case((was_asked_for, WorkerRun.next_run_at), else_=database_time(plus=next_in)),
            **_NO_LEASE,
        }
        if succeeded:
            values["last_success_at"] = database_time()
        await self._update(name, turn, **values)

    async def make_due(self, db: AsyncSession, name: str) -> None:
        """Whichever process looks next takes the turn; in the caller's transaction."""
        await db.execute(update(WorkerRun).where(WorkerRun.name == name).values(next_run_at=database_time()))

    async def _update(self, name: str, turn: Turn, **values: object) -> bool:
        async with self._database.transaction() as db:
            result = await db.execute(
                update(WorkerRun)
                .where(WorkerRun.name == name, WorkerRun.lease_token == turn.lease_token)
                .values(**values)
            )
        return affected_rows(result) > 0


_NO_LEASE: dict[str, object] = {"lease_token": None, "lease_owner": None, "lease_expires_at": None}
