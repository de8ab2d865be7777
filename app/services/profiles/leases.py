"""Leases of running profiles: each at most once at a time, over all processes, and never more than the plan allows."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, ScalarSelect, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, affected_rows, database_time
from app.models import EventType, Profile, utc_now
from app.services.events import recorder
from app.services.shared.isolation import isolate_rows
from app.services.shared.leases import (
    NO_LEASE,
    keep_alive,
    lease_columns,
    new_lease_token,
    renew_lease,
    take_lease,
    update_held,
)
from app.utils.exceptions import (
    ConcurrentProfileLimitException,
    ProfileInUseException,
    ProfileQuarantinedException,
)
from app.utils.logger import get_logger
from app.utils.tasks import run_shielded

_FLEET_LOCK: Final = 0x60106140
"""PostgreSQL's advisory lock under which the running profiles of the fleet are counted."""
_LATE_START: Final = "late-start"
"""Owner of a lease without a process: the profile waits for a browser that may still come up."""
_NOT_IN_USE: Final = {"in_use": False, "ws_url": None, **NO_LEASE}

log = get_logger(__name__)


@dataclass(frozen=True)
class OrphanedProfile:
    """A profile whose runner has died; its browser may still run. It is ours to stop, under `lease_token`."""

    profile_id: str
    ws_url: str | None
    lease_token: str


class ProfileLeases:
    """Args:
    machine: this machine's name; only its own processes can stop what runs on it.
    owner: this process's name, which begins with `machine` and a colon.
    fleet_limit: profiles that may run at once on all machines together; None: as many as have slots.
    foreign_grace: seconds after which a lease that another machine let expire is taken over: with its processes
        that machine has most likely lost its browsers, too.
    start_grace: seconds that a browser may still come up after the process that asked for it has died: until then
        there is nothing to stop yet, and the profile is not free.
    """

    def __init__(
        self,
        *,
        database: Database,
        machine: str,
        owner: str,
        lease_seconds: float,
        fleet_limit: int | None,
        foreign_grace: float,
        start_grace: float,
    ) -> None:
        self._database = database
        self._machine = machine
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._fleet_limit = fleet_limit
        self._foreign_grace = foreign_grace
        self._start_grace = start_grace
        self._late: set[str] = set()

    async def check_free(
        self, db: AsyncSession, profile_id: "str | ScalarSelect[str]", *, waits: bool = True
    ) -> None:
        """Refuse a profile that could not be started now; its row is locked from here on.

        `waits`: for another transaction that has locked it; else raises `DatabaseBusyException`, on PostgreSQL.

        Raises `ProfileInUseException`, `ProfileQuarantinedException`, `ConcurrentProfileLimitException`.
        """
        query = select(Profile.profile_id, Profile.in_use, Profile.quarantined_at)
        query = query.where(Profile.profile_id == profile_id).with_for_update(nowait=not waits)
        row = (await db.execute(query)).one_or_none()
        if row is None:
            return
        if row.quarantined_at is not None:
            raise ProfileQuarantinedException(row.profile_id)
        if row.in_use:
            raise ProfileInUseException(row.profile_id)
        if (
            self._fleet_limit is not None
            and (await db.scalar(select(_running_query())) or 0) >= self._fleet_limit
        ):
            raise ConcurrentProfileLimitException(self._fleet_limit)

    @asynccontextmanager
    async def hold(self, profile_id: str) -> AsyncIterator[str]:
        """Take the profile's lease and give it back at the end; its token.

        Taken in one statement, kept by a heartbeat; left to expire after `expect_late_browser`. A lease that has
        expired is not free: the left-over browser has to be stopped first. Raises what `check_free` does, and
        `LeaseLostException` in the block when it is lost.
        """
        token = new_lease_token()
        await self._take(profile_id, token)
        try:
            async with keep_alive(lambda: self._renew(profile_id, token), seconds=self._lease_seconds):
                yield token
        finally:
            await run_shielded(self._end(profile_id, token))

    def expect_late_browser(self, token: str) -> None:
        """The start under this lease was not answered and may go on: the profile is not free before its grace is over.

        Then `take_over_expired` finds it, as when the process had died.
        """
        self._late.add(token)

    @asynccontextmanager
    async def keep(self, left_over: OrphanedProfile) -> AsyncIterator[None]:
        """Keep what was taken over while its browser is stopped, and give it back."""
        profile_id, token = left_over.profile_id, left_over.lease_token
        try:
            async with keep_alive(lambda: self._renew(profile_id, token), seconds=self._lease_seconds):
                yield
        finally:
            await run_shielded(self.give_back(profile_id, token))

    async def note_browser(self, profile_id: str, token: str, ws_url: str) -> bool:
        """Write down which browser runs under the lease; False when the lease is lost."""
        return await self._set(profile_id, token, ws_url=ws_url)

    async def give_back(self, profile_id: str, token: str) -> None:
        """A failure is logged, not raised: the lease expires by itself, and the browser has stopped already."""
        try:
            await self._set(profile_id, token, **_NOT_IN_USE)
        except Exception:
            log.exception("profile.lease_not_given_back", profile_id=profile_id)

    async def quarantine(self, profile_id: str, token: str, reason: str) -> None:
        """The profile's browser cannot be stopped: nobody may start the profile until an operator has looked."""
        async with self._database.transaction() as db:
            result = await db.execute(
                update(Profile)
                .where(*_lease_guard(profile_id, token))
                .values(quarantined_at=utc_now(), quarantine_reason=reason)
            )
            if not affected_rows(result):
                return  # another process has taken it over, and stops it
            recorder.record(db, EventType.PROFILE_QUARANTINED, profile_id=profile_id, reason=reason)
        log.error("profile.quarantined", profile_id=profile_id, reason=reason)

    async def take_over_expired(self) -> list[OrphanedProfile]:
        """Leases whose processes have died, now ours: stop each browser, then `give_back`."""
        is_expired = (
            Profile.in_use,
            Profile.lease_expires_at < database_time(),
            Profile.lease_owner.startswith(f"{self._machine}:", autoescape=True)
            | (Profile.lease_expires_at < database_time(plus=-self._foreign_grace)),
            Profile.ws_url.is_not(None) | (Profile.lease_expires_at < database_time(plus=-self._start_grace)),
        )
        orphaned: list[OrphanedProfile] = []

        async def take(ids: Sequence[int]) -> int:
            query = select(Profile).where(Profile.id.in_(ids), *is_expired)
            orphans = []
            async with self._database.transaction() as db:
                profiles = (await db.scalars(query.with_for_update(skip_locked=True))).all()
                for profile in profiles:
                    recorder.record(
                        db,
                        EventType.PROFILE_LEASE_TAKEN_OVER,
                        profile_id=profile.profile_id,
                        previous_owner=profile.lease_owner,
                    )
                    token = take_lease(profile, owner=self._owner, seconds=self._lease_seconds)
                    orphans.append(OrphanedProfile(profile.profile_id, profile.ws_url, token))
            orphaned.extend(orphans)
            return len(orphans)

        async with self._database.reading() as db:
            ids = (await db.scalars(select(Profile.id).where(*is_expired))).all()
        await isolate_rows(ids, take, step="take_over_leases")
        return orphaned

    async def count_held(self) -> int:
        """Leases of this process."""
        async with self._database.reading() as db:
            held_count = select(func.count()).where(Profile.in_use, Profile.lease_owner == self._owner)
            return await db.scalar(held_count) or 0

    async def _end(self, profile_id: str, token: str) -> None:
        if token not in self._late:
            await self.give_back(profile_id, token)
            return
        self._late.discard(token)
        nobody = {"lease_token": new_lease_token(), "lease_owner": f"{self._machine}:{_LATE_START}"}
        try:
            await self._set(profile_id, token, **nobody, lease_expires_at=database_time())
        except Exception:  # it expires by itself
            log.exception("profile.lease_not_given_back", profile_id=profile_id)

    async def _take(self, profile_id: str, token: str) -> None:
        free: ColumnElement[bool] = ~Profile.in_use & Profile.quarantined_at.is_(None)
        if self._fleet_limit is not None:
            free &= _running_query() < self._fleet_limit
        statement = (
            update(Profile)
            .where(Profile.profile_id == profile_id, free)
            .values(
                in_use=True,
                ws_url=None,
                **lease_columns(token, owner=self._owner, seconds=self._lease_seconds),
            )
        )
        if self._fleet_limit is None:
            async with self._database.autocommit() as db:
                is_taken = affected_rows(await db.execute(statement)) > 0
        else:
            async with self._database.transaction() as db:
                if not self._database.is_sqlite:
                    # Two that count at the same time would both find the last place free. SQLite has one writer.
                    await db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _FLEET_LOCK})
                is_taken = affected_rows(await db.execute(statement)) > 0
        if not is_taken:
            async with self._database.transaction() as db:
                await self.check_free(db, profile_id)
            raise ProfileInUseException(profile_id)

    async def _renew(self, profile_id: str, token: str) -> bool:
        return await renew_lease(
            self._database, Profile, *_lease_guard(profile_id, token), seconds=self._lease_seconds
        )

    async def _set(self, profile_id: str, token: str, **values: Any) -> bool:
        return await update_held(self._database, Profile, *_lease_guard(profile_id, token), **values)


def _lease_guard(profile_id: str, token: str) -> tuple[ColumnElement[bool], ...]:
    return Profile.profile_id == profile_id, Profile.lease_token == token


def _running_query() -> Any:
    # Expired ones count: their browsers may still run.
    running = Profile.__table__.alias("running")
    return select(func.count()).select_from(running).where(running.c.in_use).scalar_subquery()
