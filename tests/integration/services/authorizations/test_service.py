"""The life of a session: who may change it, when, and what is left when that fails."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy import func, select, text

from app.clients.oauth.oauth2 import ProviderUser
from app.context import Context
from app.database import Database
from app.models import AuthorizationSession, Credential, Event, SessionStage, SessionStatus, utc_now
from app.services.authorizations.requests import AuthorizationCommand
from app.services.authorizations.stages import StageLog
from app.services.interfaces import AuthorizationJob
from app.services.queue.jobs import QueuedSession
from app.utils.exceptions import (
    AccountMismatchException,
    AppException,
    AuthorizationTimeoutException,
    LeaseLostException,
    LoginRequiredException,
    ProfileInUseException,
    ProfileNotFoundException,
    SessionNotFoundException,
    UnknownApiAppException,
)
from tests.fixtures.factories import CALLER, SCOPES, AddRow, new_tokens
from tests.fixtures.services import OpenContext
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

ALICE = ProviderUser(id="1", username="Alice")
IN_THE_PAST = timedelta(seconds=-1)


async def read(database: Database, session_id: str) -> AuthorizationSession:
    async with database.reading() as db:
        query = select(AuthorizationSession).where(AuthorizationSession.session_id == session_id)
        return (await db.scalars(query)).one()


async def events(database: Database, session_id: str) -> list[str]:
    async with database.reading() as db:
        query = select(Event.event_type).where(Event.session_id == session_id).order_by(Event.id)
        return list(await db.scalars(query))


async def count(database: Database, table: type) -> int:
    async with database.reading() as db:
        return await db.scalar(select(func.count()).select_from(table)) or 0


async def change(database: Database, session_id: str, **values: object) -> None:
    async with database.transaction() as db:
        row = await db.scalar(
            select(AuthorizationSession).where(AuthorizationSession.session_id == session_id)
        )
        for name, value in values.items():
            setattr(row, name, value)


async def delivered(context: Context) -> list[str]:
    """Return what the queue holds now, in its order."""
    handled: list[str] = []

    async def handle(session_id: str) -> None:
        handled.append(session_id)

    await context.sessions.queue.submit_all([QueuedSession("the end", 2e9, None)])
    running = asyncio.create_task(context.sessions.queue.run(handle))
    await eventually(lambda: "the end" in handled)
    context.sessions.queue.stop()
    await running
    return handled[:-1]


async def claim(context: Context, row: AuthorizationSession) -> AuthorizationJob:
    job = await context.sessions.runs.claim(row.session_id)
    assert job is not None
    return job


@pytest.fixture
def lose_lease(database: Database) -> Callable[[AuthorizationJob], Awaitable[None]]:
    """Another process has taken the session over."""

    async def lose(job: AuthorizationJob) -> None:
        await change(database, job.session_id, lease_token="of-another-process")

    return lose


class TestRequest:
    @pytest.mark.databases("sqlite", "postgresql")
    async def test_a_session_is_made_with_its_event_and_delivered(
        self, context: Context, database: Database, add_profile: AddRow
    ):
        profile = await add_profile()
        with structlog.contextvars.bound_contextvars(request_id="r-1"):
            async with database.transaction() as db:
                made = await context.sessions.authorizations.request(
                    db, AuthorizationCommand(profile.account_id, "AIOTT1"), caller=CALLER
                )
        row = await read(database, made.session_id)
        assert (row.status, row.profile_id, row.request_id) == (
            SessionStatus.PENDING,
            profile.profile_id,
            "r-1",
        )
        assert (row.requested_by, row.attempts, row.scopes) == ("tests", 0, SCOPES)
        assert row.expires_at > utc_now() + timedelta(hours=23)
        assert await events(database, row.session_id) == ["authorization.requested"]
        assert await delivered(context) == [row.session_id]

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_a_rolled_back_session_is_not_delivered(
        self, context: Context, database: Database, add_profile: AddRow
    ):
        profile = await add_profile()
        with pytest.raises(RuntimeError):
            async with database.transaction() as db:
                await context.sessions.authorizations.request(
                    db, AuthorizationCommand(profile.account_id, "AIOTT1"), caller=CALLER
                )
                raise RuntimeError
        assert await count(database, AuthorizationSession) == 0
        assert await count(database, Event) == 0
        assert await delivered(context) == []

    @pytest.mark.databases("sqlite")
    @pytest.mark.parametrize(
        ("account", "app", "error"),
        [("alice", "NOPE", UnknownApiAppException), ("nobody", "AIOTT1", ProfileNotFoundException)],
    )
    async def test_unknown_account_or_app_is_refused(
        self,
        context: Context,
        database: Database,
        add_profile: AddRow,
        account: str,
        app: str,
        error: type[AppException],
    ):
        await add_profile(account_id="alice")
        with pytest.raises(error):
            async with database.transaction() as db:
                await context.sessions.authorizations.request(
                    db, AuthorizationCommand(account, app), caller=CALLER
                )

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_the_profile_made_for_the_app_comes_first(
        self, context: Context, database: Database, add_profile: AddRow
    ):
        await add_profile(account_id="alice", api_app="AIOTT2")
        await add_profile(account_id="alice", api_app="AIOTT1", is_active=False)
        await add_profile(account_id="alice")
        wanted = await add_profile(account_id="alice", api_app="AIOTT1")
        async with database.reading() as db:
            found = await context.fleet.gologin.get_profile_for_account(db, "alice", "AIOTT1")
        assert found.profile_id == wanted.profile_id

    async def test_a_profile_of_another_app_or_gone_is_not_taken(
        self, context: Context, database: Database, add_profile: AddRow
    ):
        await add_profile(account_id="alice", api_app="AIOTT2")
        await add_profile(account_id="alice", is_active=False)
        async with database.reading() as db:
            with pytest.raises(ProfileNotFoundException):
                await context.fleet.gologin.get_profile_for_account(db, "alice", "AIOTT1")


class TestClaim:
    async def test_session_is_claimed_under_a_lease(
        self, context: Context, database: Database, add_session: AddRow
    ):
        waiting = await add_session()
        job = await claim(context, waiting)
        row = await read(database, waiting.session_id)
        assert (row.status, row.attempts, row.lease_token) == (SessionStatus.IN_PROGRESS, 1, job.lease_token)
        assert row.lease_expires_at > utc_now()
        assert job.request_id == waiting.request_id
        assert await events(database, row.session_id) == ["authorization.started"]

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_one_of_many_claimers_in_two_processes_wins(
        self, context: Context, open_services: OpenContext, database: Database, add_session: AddRow
    ):
        waiting = await add_session()
        async with open_services() as other:
            claims = [c.sessions.runs.claim(waiting.session_id) for c in (context, other) * 4]
            ends = await asyncio.gather(*claims, return_exceptions=True)
        jobs = [each for each in ends if isinstance(each, AuthorizationJob)]
        others = {type(each) for each in ends} - {AuthorizationJob}
        assert others <= {type(None), ProfileInUseException}, ends
        row = await read(database, waiting.session_id)
        assert [job.lease_token for job in jobs] == [row.lease_token]
        assert row.attempts == 1

    @pytest.mark.parametrize("status", [s for s in SessionStatus if s is not SessionStatus.PENDING])
    async def test_only_a_waiting_session_can_be_claimed(
        self, context: Context, add_session: AddRow, status: SessionStatus
    ):
        row = await add_session(status=status)
        assert await context.sessions.runs.claim(row.session_id) is None

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_expired_session_is_not_claimed(self, context: Context, add_session: AddRow):
        row = await add_session(expires_at=utc_now() + IN_THE_PAST)
        assert await context.sessions.runs.claim(row.session_id) is None

    @pytest.mark.databases("sqlite")
    async def test_unknown_session_is_not_claimed(self, context: Context):
        assert await context.sessions.runs.claim("unknown") is None

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_session_waits_while_its_profile_runs(
        self, context: Context, database: Database, add_profile: AddRow, add_session: AddRow
    ):
        profile = await add_profile(in_use=True, lease_expires_at=utc_now() + timedelta(minutes=1))
        row = await add_session(profile)
        with pytest.raises(ProfileInUseException):
            await context.sessions.runs.claim(row.session_id)
        row = await read(database, row.session_id)
        assert (row.status, row.attempts) == (SessionStatus.PENDING, 0)

    async def test_orphan_of_a_dead_process_is_stopped_before_its_profile_runs_again(
        self, context: Context, add_profile: AddRow, add_session: AddRow
    ):
        profile = await add_profile(in_use=True, lease_expires_at=utc_now() + IN_THE_PAST)
        row = await add_session(profile)
        with pytest.raises(ProfileInUseException):
            await context.sessions.runs.claim(row.session_id)

    async def test_a_quarantined_profile_ends_its_session_rather_than_keep_it_waiting(
        self, context: Context, add_profile: AddRow, add_session: AddRow
    ):
        profile = await add_profile(quarantined_at=utc_now())
        assert await claim(context, await add_session(profile))


class TestUnderTheLease:
    async def test_renewal_moves_the_expiry(self, context: Context, database: Database, add_session: AddRow):
        job = await claim(context, await add_session())
        soon = utc_now() + timedelta(seconds=1)
        await change(database, job.session_id, lease_expires_at=soon)
        assert await context.sessions.runs.renew(job)
        assert (await read(database, job.session_id)).lease_expires_at > soon

    async def test_stages_are_noted_with_their_seconds(
        self, context: Context, database: Database, add_session: AddRow
    ):
        job = await claim(context, await add_session())
        started: datetime = (await read(database, job.session_id)).started_at
        stages = StageLog(job)
        stages.add(SessionStage.PROFILE_STARTING, started + timedelta(seconds=1))
        stages.add(SessionStage.BROWSER_ATTACHED, started + timedelta(seconds=2.5))
        await context.sessions.runs.note_stages([stages.take()])
        row = await read(database, job.session_id)
        assert row.stage is SessionStage.BROWSER_ATTACHED
        assert row.stage_times == {"profile_starting": 1.0, "browser_attached": 2.5}

    async def test_completed_session_has_its_tokens_and_no_lease(
        self, context: Context, database: Database, add_session: AddRow
    ):
        job = await claim(context, await add_session())
        await context.sessions.runs.complete(job, ALICE, new_tokens())
        row = await read(database, job.session_id)
        assert (row.status, row.stage) == (SessionStatus.COMPLETED, SessionStage.TOKENS_STORED)
        assert row.completed_at is not None
        assert (row.lease_token, row.lease_owner, row.lease_expires_at) == (None, None, None)
        async with database.reading() as db:
            tokens = await context.tokens.vault.load_tokens(db, job.account_id, job.api_app)
            stored = (await db.scalars(select(Credential))).one()
        assert tokens.access_token == SecretStr("clear-access-token")
        assert (stored.session_id, stored.provider_user_id) == (job.session_id, "1")
        assert set(await events(database, job.session_id)) == {
            "authorization.started",
            "credential.stored",
            "authorization.completed",
        }

    async def test_a_smaller_grant_is_recorded(
        self, context: Context, database: Database, add_session: AddRow
    ):
        job = await claim(context, await add_session())
        await context.sessions.runs.complete(job, ALICE, new_tokens(scopes=("users.read", "extra")))
        row = await read(database, job.session_id)
        assert row.missing_scopes == ["offline.access", "tweet.read"]
        assert row.scopes == ["users.read", "extra"]

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_a_completion_that_fails_in_the_middle_leaves_nothing(
        self, context: Context, database: Database, add_session: AddRow
    ):
        job = await claim(context, await add_session())
        async with database.transaction() as db:
            for statement in _refuse_completion(database):
                await db.execute(text(statement))
        with pytest.raises(Exception, match="refused"):
            await context.sessions.runs.complete(job, ALICE, new_tokens())
        assert (await read(database, job.session_id)).status is SessionStatus.IN_PROGRESS
        assert await count(database, Credential) == 0
        assert await events(database, job.session_id) == ["authorization.started"]

    @pytest.mark.databases("sqlite")
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (AccountMismatchException("alice", "bob"), SessionStatus.FAILED),
            (AppException(), SessionStatus.FAILED),
            (AuthorizationTimeoutException(120), SessionStatus.TIMEOUT),
            (LoginRequiredException("alice"), SessionStatus.NEEDS_ATTENTION),
        ],
    )
    async def test_failed_session_names_its_error(
        self,
        context: Context,
        database: Database,
        add_session: AddRow,
        error: AppException,
        status: SessionStatus,
    ):
        job = await claim(context, await add_session(attempts_allowed=1))
        assert await context.sessions.runs.fail(job, error) is None
        row = await read(database, job.session_id)
        assert (row.status, row.error_code, row.error_message) == (status, error.error_code, error.message)
        assert row.completed_at is not None
        assert row.lease_token is None
        assert (await events(database, job.session_id))[-1] == f"authorization.{status}"

    async def test_released_session_can_be_claimed_again(
        self, context: Context, database: Database, add_session: AddRow
    ):
        job = await claim(context, await add_session())
        await context.sessions.runs.release(job, reason="tests")
        row = await read(database, job.session_id)
        assert (row.status, row.lease_token, row.started_at) == (SessionStatus.PENDING, None, None)
        assert row.attempts == 0
        assert await claim(context, row)


class TestALostLease:
    async def test_lost_lease_cannot_be_renewed(self, context: Context, add_session: AddRow, lose_lease):
        job = await claim(context, await add_session())
        await lose_lease(job)
        assert not await context.sessions.runs.renew(job)

    @pytest.mark.parametrize("result", ["complete", "fail", "release"])
    async def test_result_under_a_lost_lease_changes_nothing(
        self, context: Context, database: Database, add_session: AddRow, lose_lease, result: str
    ):
        job = await claim(context, await add_session())
        await lose_lease(job)
        service = context.sessions.runs
        before = await read(database, job.session_id)
        results = {
            "complete": lambda: service.complete(job, ALICE, new_tokens()),
            "fail": lambda: service.fail(job, AppException()),
            "release": lambda: service.release(job, reason="tests"),
        }
        with pytest.raises(LeaseLostException):
            await results[result]()
        after = await read(database, job.session_id)
        assert (after.status, after.stage, after.updated_at) == (
            before.status,
            before.stage,
            before.updated_at,
        )
        assert await count(database, Credential) == 0
        assert await events(database, job.session_id) == ["authorization.started"]

    async def test_an_ended_session_takes_no_second_result(
        self, context: Context, database: Database, add_session: AddRow
    ):
        job = await claim(context, await add_session())
        await context.sessions.runs.complete(job, ALICE, new_tokens())
        with pytest.raises(LeaseLostException):
            await context.sessions.runs.fail(job, AppException())
        assert (await read(database, job.session_id)).status is SessionStatus.COMPLETED


class TestRecovery:
    async def test_a_session_whose_runner_has_gone_waits_again(
        self, context: Context, database: Database, add_session: AddRow
    ):
        job = await claim(context, await add_session())
        await change(database, job.session_id, lease_expires_at=utc_now() + IN_THE_PAST)
        assert await context.sessions.runs.recover_lost() == 1
        row = await read(database, job.session_id)
        assert (row.status, row.attempts, row.lease_token) == (SessionStatus.PENDING, 1, None)
        assert (await events(database, job.session_id))[-1] == "authorization.released"

    async def test_a_session_that_is_kept_alive_is_left_alone(
        self, context: Context, database: Database, add_session: AddRow
    ):
        job = await claim(context, await add_session())
        assert await context.sessions.runs.recover_lost() == 0
        assert (await read(database, job.session_id)).lease_token == job.lease_token

    async def test_session_lost_in_its_last_attempt_fails(
        self, context: Context, database: Database, add_session: AddRow
    ):
        row = await add_session()
        for _ in range(3):
            job = await claim(context, row)
            await change(database, job.session_id, lease_expires_at=utc_now() + IN_THE_PAST)
            await context.sessions.runs.recover_lost()
        row = await read(database, row.session_id)
        assert (row.status, row.error_code) == (SessionStatus.FAILED, "ATTEMPTS_EXHAUSTED")
        assert "interrupted 3 times" in row.error_message

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_two_processes_recover_a_session_once(
        self, context: Context, open_services: OpenContext, database: Database, add_session: AddRow
    ):
        job = await claim(context, await add_session())
        await change(database, job.session_id, lease_expires_at=utc_now() + IN_THE_PAST)
        async with open_services() as other:
            recovered = await asyncio.gather(*(c.sessions.runs.recover_lost() for c in (context, other)))
        assert sum(recovered) == 1

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_waiting_sessions_are_delivered_by_priority_and_age_and_only_once(
        self, context: Context, add_session: AddRow
    ):
        first = await add_session(priority=5)
        low = await add_session(priority=1)
        second = await add_session(priority=5)
        await add_session(status=SessionStatus.COMPLETED)
        assert await context.sessions.runs.deliver_waiting() == 3
        await context.sessions.runs.deliver_waiting()
        assert await delivered(context) == [row.session_id for row in (first, second, low)]

    async def test_sessions_that_run_or_wait_for_too_long_become_timeouts(
        self, context: Context, database: Database, add_session: AddRow
    ):
        running, fresh = [await claim(context, await add_session()) for _ in range(2)]
        await change(database, running.session_id, started_at=utc_now() - timedelta(hours=2, seconds=1))
        expired = await add_session(expires_at=utc_now() + IN_THE_PAST)
        waiting = await add_session()
        assert await context.sessions.runs.end_overdue() == 2
        ended = await read(database, running.session_id)
        assert (ended.status, ended.error_code) == (SessionStatus.TIMEOUT, "AUTH_TIMEOUT")
        assert ended.error_message == "Session timed out after 2 hours"
        assert (await read(database, expired.session_id)).status is SessionStatus.TIMEOUT
        assert (await read(database, fresh.session_id)).status is SessionStatus.IN_PROGRESS
        assert (await read(database, waiting.session_id)).status is SessionStatus.PENDING
        with pytest.raises(LeaseLostException):
            await context.sessions.runs.complete(running, ALICE, new_tokens())


class TestView:
    @pytest.mark.databases("sqlite", "postgresql")
    async def test_position_counts_the_sessions_that_come_first(
        self, context: Context, database: Database, add_session: AddRow
    ):
        first = await add_session(priority=5)
        second = await add_session(priority=5)
        urgent = await add_session(priority=9)
        running = await add_session(status=SessionStatus.IN_PROGRESS, priority=9)
        async with database.reading() as db:
            views = [
                await context.sessions.authorizations.view(db, row.session_id)
                for row in (urgent, first, second, running)
            ]
        assert [view.queue_position for view in views] == [1, 2, 3, None]

    @pytest.mark.databases("sqlite")
    async def test_unknown_session_is_not_found(self, context: Context, database: Database):
        async with database.reading() as db:
            with pytest.raises(SessionNotFoundException):
                await context.sessions.authorizations.view(db, "unknown")


class TestWaiting:
    async def waiting(self, context: Context, session_id: str) -> "asyncio.Task[SessionStatus]":
        async def wait() -> SessionStatus:
            view = await context.sessions.authorizations.wait_for_end(session_id, seconds=60)
            return view.row.status

        task = asyncio.create_task(wait())
        await eventually(lambda: session_id in context.sessions.waiters)
        return task

    @pytest.mark.databases("sqlite")
    async def test_waiters_are_woken_by_the_end(self, context: Context, add_session: AddRow):
        job = await claim(context, await add_session())
        waiters = [await self.waiting(context, job.session_id) for _ in range(3)]
        await context.sessions.runs.complete(job, ALICE, new_tokens())
        async with asyncio.timeout(60):
            assert await asyncio.gather(*waiters) == [SessionStatus.COMPLETED] * 3
        assert len(context.sessions.waiters) == 0

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_an_end_in_another_process_is_seen(
        self, context: Context, open_services: OpenContext, add_session: AddRow
    ):
        waiter = await self.waiting(context, (row := await add_session()).session_id)
        async with open_services() as other:
            await other.sessions.runs.fail(await claim(other, row), AppException())
        async with asyncio.timeout(60):
            assert await waiter is SessionStatus.FAILED

    @pytest.mark.databases("sqlite")
    async def test_stop_of_the_service_answers_every_waiter(self, context: Context, add_session: AddRow):
        waiter = await self.waiting(context, (await add_session()).session_id)
        context.sessions.authorizations.release_waiters()
        async with asyncio.timeout(60):
            assert await waiter is SessionStatus.PENDING

    @pytest.mark.databases("sqlite")
    async def test_cancelled_waiter_is_forgotten(self, context: Context, add_session: AddRow):
        waiter = await self.waiting(context, (await add_session()).session_id)
        waiter.cancel()
        await asyncio.wait([waiter])
        assert len(context.sessions.waiters) == 0

    @pytest.mark.databases("sqlite")
    async def test_unknown_session_has_no_waiter(self, context: Context):
        with pytest.raises(SessionNotFoundException):
            await context.sessions.authorizations.wait_for_end("unknown", seconds=60)
        assert len(context.sessions.waiters) == 0


def _refuse_completion(database: Database) -> list[str]:
    """A database that takes everything but the last step."""
    if database.is_sqlite:
        return [
            """CREATE TRIGGER refuse BEFORE UPDATE ON authorization_sessions WHEN NEW.status = 'completed'
               BEGIN SELECT RAISE(ABORT, 'refused'); END"""
        ]
    return [
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE 'refused'; END $$ LANGUAGE plpgsql",
        """CREATE TRIGGER refuse BEFORE UPDATE ON authorization_sessions
           FOR EACH ROW WHEN (NEW.status = 'completed') EXECUTE FUNCTION refuse()""",
    ]
