"""The database goes away in the middle of a change: nothing is lost, done twice, or said untruly."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.clients.oauth.oauth2 import ProviderUser
from app.context import Context
from app.database import Database
from app.models import AuthorizationSession, Credential, Event, SessionStatus, utc_now
from app.services.interfaces import AuthorizationJob
from app.utils.exceptions import (
    DatabaseUnavailableException,
    LeaseLostException,
    LoginRequiredException,
    TwitterAPIException,
)
from tests.fixtures.factories import AddRow, new_tokens
from tests.fixtures.services import OpenContext

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

ALICE = ProviderUser(id="1", username="alice")


class Failing:
    """The real database; its next `times` transactions end in an outage, before the commit or right after it."""

    def __init__(self, database: Database, *, times: int = 1, after_commit: bool = False) -> None:
        self._database = database
        self._after_commit = after_commit
        self.remaining = times

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        fails, self.remaining = self.remaining > 0, self.remaining - 1
        async with self._database.transaction() as db:
            yield db
            if fails and not self._after_commit:
                raise DatabaseUnavailableException("it does not answer")
        if fails:
            raise DatabaseUnavailableException("it does not answer")


async def claimed(context: Context, add_session: AddRow, **outage: bool | int) -> AuthorizationJob:
    """A session of this process, whose next transaction meets an outage."""
    row = await add_session()
    job = await context.sessions.runs.claim(row.session_id)
    assert job is not None
    context.sessions.runs._database = Failing(context.database, **outage)
    return job


async def row_of(database: Database, job: AuthorizationJob) -> AuthorizationSession:
    query = select(AuthorizationSession).where(AuthorizationSession.session_id == job.session_id)
    async with database.reading() as db:
        return (await db.scalars(query)).one()


async def events(database: Database, job: AuthorizationJob) -> list[str]:
    query = select(Event.event_type).where(Event.session_id == job.session_id).order_by(Event.id)
    async with database.reading() as db:
        return list(await db.scalars(query))


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("after_commit", [False, True])
async def test_tokens_are_stored_once_whichever_side_of_the_commit_the_outage_hits(
    context: Context, database: Database, add_session: AddRow, after_commit: bool
):
    job = await claimed(context, add_session, after_commit=after_commit)
    await context.sessions.runs.complete(job, ALICE, new_tokens())
    assert (await row_of(database, job)).status is SessionStatus.COMPLETED
    assert sorted(await events(database, job)) == [
        "authorization.completed",
        "authorization.started",
        "credential.stored",
    ]
    async with database.reading() as db:
        assert (await db.scalars(select(Credential.version))).all() == [1]


async def test_a_session_taken_over_during_the_outage_is_not_completed(
    context: Context, database: Database, add_session: AddRow
):
    job = await claimed(context, add_session)
    async with database.transaction() as db:
        row = await db.get(AuthorizationSession, (await row_of(database, job)).id)
        row.lease_expires_at = utc_now()
    context.sessions.runs._database = context.database
    assert await context.sessions.runs.recover_lost() == 1
    with pytest.raises(LeaseLostException):
        await context.sessions.runs.complete(job, ALICE, new_tokens())
    async with database.reading() as db:
        assert await db.scalar(select(func.count()).select_from(Credential)) == 0


async def test_completion_by_a_later_attempt_is_not_taken_for_ours(
    context: Context, database: Database, add_session: AddRow
):
    job = await claimed(context, add_session, times=0)
    await context.sessions.runs.fail(job, TwitterAPIException(503, "down"))
    async with database.transaction() as db:
        (await db.get(AuthorizationSession, (await row_of(database, job)).id)).not_before = None
    later = await context.sessions.runs.claim(job.session_id)
    await context.sessions.runs.complete(later, ALICE, new_tokens())
    with pytest.raises(LeaseLostException):
        await context.sessions.runs.complete(job, ALICE, new_tokens())


async def test_outage_longer_than_the_lease_is_reported_as_an_unknown_outcome(
    open_services: OpenContext, add_session: AddRow
):
    async with open_services(lease_seconds=0.3) as context:
        job = await claimed(context, add_session, times=1000)
        with pytest.raises(DatabaseUnavailableException):
            await context.sessions.runs.complete(job, ALICE, new_tokens())


async def test_a_failure_is_recorded_once_through_an_outage(
    context: Context, database: Database, add_session: AddRow
):
    job = await claimed(context, add_session, times=2)
    assert await context.sessions.runs.fail(job, LoginRequiredException("alice")) is None
    row = await row_of(database, job)
    assert (row.status, row.error_code) == (SessionStatus.NEEDS_ATTENTION, "LOGIN_REQUIRED")
    assert (await events(database, job)).count("authorization.needs_attention") == 1


async def test_the_next_attempt_waits_for_as_long_as_was_asked_for(
    context: Context, database: Database, add_session: AddRow
):
    job = await claimed(context, add_session, times=0)
    assert (
        await context.sessions.runs.fail(job, TwitterAPIException(429, "slow down", retry_after=600)) == 600
    )
    assert (await row_of(database, job)).not_before > utc_now()
