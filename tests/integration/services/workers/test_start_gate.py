"""Starts that wait for their turn, under the real worker: their stage, their leases, and every way out of the wait."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

import pytest
from sqlalchemy import select, update

from app.context import Context, open_context
from app.database import Database
from app.models import AuthorizationSession, Profile, SessionStage, SessionStatus
from app.services.authorizations.requests import AuthorizationCommand
from app.services.shared.leases import new_lease_token
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from tests.fixtures.factories import CALLER, new_profile
from tests.fixtures.settings import MakeSettings
from tests.fixtures.waiting import eventually

APP = "AIOTT1"

pytestmark = pytest.mark.parametrize(
    "database_url", ["sqlite"], indirect=True
)  # the line is this process's own


class Line:
    """A worker that starts one profile at a time, which goes on, and a second one that waits for its turn."""

    def __init__(self, context: Context, admin: SandboxAdmin) -> None:
        self.context = context
        self.worker = context.workers.get("authorization")
        self._admin = admin
        self._accounts: dict[str, str] = {}

    async def ask(self, account: str, *, start_timeout: float = 60) -> str:
        """Ask for a session whose profile's start is never answered."""
        await self._admin.set_fault("local.start", "hang", account=account)
        command = AuthorizationCommand(account, APP, stage_timeouts={"profile_start": start_timeout})
        async with self.context.database.transaction() as db:
            placed = await self.context.sessions.authorizations.request(db, command, caller=CALLER)
        self._accounts[placed.session_id] = account
        return placed.session_id

    async def session(self, session_id: str) -> AuthorizationSession:
        query = select(AuthorizationSession).where(AuthorizationSession.session_id == session_id)
        async with self.context.database.reading() as db:
            return (await db.scalars(query)).one()

    async def reached(self, session_id: str, stage: SessionStage) -> None:
        async def there() -> bool:
            return (await self.session(session_id)).stage is stage

        await eventually(there)

    async def cancel(self, session_id: str) -> None:
        async with self.context.database.transaction() as db:
            await self.context.sessions.authorizations.cancel(db, session_id, actor="tests")

    async def starts(self, session_id: str) -> int:
        """Times that the profile browser was asked to start the session's profile."""
        return len(await self._admin.requests(endpoint="local.start", account=self._accounts[session_id]))

    async def gave_its_profile_back(self, session_id: str) -> bool:
        profile_id = (await self.session(session_id)).profile_id
        async with self.context.database.reading() as db:
            profile = (await db.scalars(select(Profile).where(Profile.profile_id == profile_id))).one()
        return not profile.in_use

    async def lease_ends(self, session_id: str) -> tuple[datetime, datetime]:
        """The ends of the session's lease and of its profile's."""
        query = (
            select(AuthorizationSession.lease_expires_at, Profile.lease_expires_at)
            .join(Profile, Profile.profile_id == AuthorizationSession.profile_id)
            .where(AuthorizationSession.session_id == session_id)
        )
        async with self.context.database.reading() as db:
            session_end, profile_end = (await db.execute(query)).one()
        return session_end, profile_end


@pytest.fixture
async def second(admin: SandboxAdmin, profile: ProfileInfo) -> AsyncIterator[ProfileInfo]:
    made = await admin.add_profile(f"{profile.account}_2"[-15:])
    yield made
    await admin.remove_profile(made.account)


@pytest.fixture
def lease_seconds() -> float:
    return 20.0


@pytest.fixture
async def line(
    lease_seconds: float,
    sandbox_settings: MakeSettings,
    database: Database,
    admin: SandboxAdmin,
    profile: ProfileInfo,
    second: ProfileInfo,
) -> AsyncIterator[Line]:
    async with database.transaction() as db:
        for each in (profile, second):
            db.add(new_profile(profile_id=each.id, account_id=each.account))
    settings = sandbox_settings(profile_starts_at_once=1, lease_seconds=lease_seconds, max_attempts=1)
    async with open_context(settings) as context:
        line = Line(context, admin)
        running = asyncio.create_task(line.worker.run())
        yield line
        line.worker.stop()
        async with asyncio.timeout(60):
            await running


@pytest.fixture
async def starting(line: Line, profile: ProfileInfo) -> AsyncIterator[str]:
    """The session whose profile starts, until the test is over."""
    session_id = await line.ask(profile.account)
    await line.reached(session_id, SessionStage.PROFILE_STARTING)
    yield session_id
    if not (await line.session(session_id)).status.is_final:
        await line.cancel(session_id)


@pytest.fixture
async def waiting(line: Line, starting: str, second: ProfileInfo) -> str:
    """The session behind it."""
    session_id = await line.ask(second.account)
    await line.reached(session_id, SessionStage.WAITING_FOR_SLOT)
    return session_id


@pytest.mark.parametrize("lease_seconds", [6.0])  # renewed after a third of it
async def test_leases_are_kept_while_a_start_waits_for_its_turn(line: Line, starting: str, waiting: str):
    before = await line.lease_ends(waiting)

    async def both_renewed() -> bool:
        return all(now > then for now, then in zip(await line.lease_ends(waiting), before, strict=True))

    await eventually(both_renewed)
    assert (await line.session(waiting)).stage is SessionStage.WAITING_FOR_SLOT
    assert (line.context.fleet.gologin.starts.in_progress, await line.starts(waiting)) == (1, 0)


async def test_deadline_of_the_start_does_not_run_while_it_waits(
    line: Line, starting: str, second: ProfileInfo
):
    """The wait is longer than the deadline, and yet the profile browser is asked."""
    session_id = await line.ask(second.account, start_timeout=0.5)
    await line.reached(session_id, SessionStage.WAITING_FOR_SLOT)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 0.5
    await eventually(lambda: loop.time() > deadline)
    await line.cancel(starting)

    async def has_ended() -> bool:
        return (await line.session(session_id)).status.is_final

    await eventually(has_ended)
    ended = await line.session(session_id)
    assert (ended.error_code, ended.stage) == ("GOLOGIN_API_ERROR", SessionStage.PROFILE_STARTING)
    assert await line.starts(session_id) == 1
    assert line.context.fleet.gologin.starts.limit == 1


async def test_cancelled_session_leaves_the_line_at_once(line: Line, starting: str, waiting: str):
    await line.cancel(waiting)
    await eventually(lambda: line.gave_its_profile_back(waiting))
    assert (await line.session(starting)).stage is SessionStage.PROFILE_STARTING
    assert await line.starts(waiting) == 0


async def test_session_that_another_process_has_taken_over_leaves_the_line(
    line: Line, starting: str, waiting: str
):
    async with line.context.database.transaction() as db:
        await db.execute(
            update(AuthorizationSession)
            .where(AuthorizationSession.session_id == waiting)
            .values(lease_token=new_lease_token())
        )
    await eventually(lambda: line.gave_its_profile_back(waiting))
    assert await line.starts(waiting) == 0


async def test_stop_ends_the_wait_at_once_and_costs_no_attempt(line: Line, starting: str, waiting: str):
    line.worker.stop()

    async def is_back() -> bool:
        return (await line.session(waiting)).status is SessionStatus.PENDING

    await eventually(is_back)
    assert (await line.session(waiting)).attempts == 0
    assert (await line.session(starting)).status is SessionStatus.IN_PROGRESS
    assert await line.gave_its_profile_back(waiting)
    assert await line.starts(waiting) == 0


async def test_a_session_that_comes_to_the_line_after_the_stop_does_not_wait(
    line: Line, starting: str, second: ProfileInfo
):
    """It was claimed before the stop, and had no stage yet."""
    session_id = await line.ask(second.account)
    gologin = line.context.fleet.gologin
    enter = gologin.starts.enter

    def stop_first(on_wait):
        line.worker.stop()
        return enter(on_wait)

    gologin.starts.enter = stop_first

    async def is_back() -> bool:
        session = await line.session(session_id)
        return session.status is SessionStatus.PENDING and line.worker._stop.is_set()

    await eventually(is_back)
    assert (await line.session(session_id)).attempts == 0
    assert await line.starts(session_id) == 0
