"""A person in the loop: who gives the consent, and what resuming a session does."""

import asyncio

import pytest
from sqlalchemy import select

from app.config import OAuthApp
from app.context import Context
from app.database import Database
from app.models import (
    AuthorizationAttempt,
    AuthorizationSession,
    ConsentMode,
    Event,
    SessionStage,
    SessionStatus,
    utc_now,
)
from app.services.authorizations.requests import AuthorizationCommand
from app.services.authorizations.stages import StageLog
from app.utils.exceptions import (
    AppException,
    AttentionNotNeededException,
    BrowserCrashedException,
    InvalidRequestException,
    LoginRequiredException,
    PersonNotSeenException,
    SessionNotFoundException,
)
from tests.fixtures.factories import CALLER, new_profile
from tests.fixtures.services import OpenContext

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

ATTENDED, AUTOMATIC = ConsentMode.ATTENDED, ConsentMode.AUTOMATIC


async def place(context: Context, **order: object) -> str:
    async with context.database.transaction() as db:
        placed = await context.sessions.authorizations.request(
            db, AuthorizationCommand("alice", "AIOTT1", **order), caller=CALLER
        )
    return placed.session_id


async def failed(context: Context, session_id: str, error: AppException) -> None:
    job = await context.sessions.runs.claim(session_id)
    assert job is not None
    await context.sessions.runs.fail(job, error)


async def resume(context: Context, session_id: str) -> None:
    async with context.database.transaction() as db:
        await context.sessions.authorizations.resume(db, session_id, actor="operator")


async def read(database: Database, session_id: str) -> AuthorizationSession:
    async with database.reading() as db:
        query = select(AuthorizationSession).where(AuthorizationSession.session_id == session_id)
        return (await db.scalars(query)).one()


@pytest.fixture
async def service(context: Context, database: Database) -> Context:
    async with database.transaction() as db:
        db.add(new_profile(account_id="alice"))
    return context


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("setting", "app", "asked", "expected"),
    [
        ("automatic", None, None, AUTOMATIC),
        ("attended", None, None, ATTENDED),
        ("automatic", "attended", None, ATTENDED),
        ("attended", "automatic", None, AUTOMATIC),
        ("automatic", "automatic", ATTENDED, ATTENDED),
        ("attended", "attended", AUTOMATIC, AUTOMATIC),
    ],
)
async def test_consent_mode_comes_from_the_request_then_the_app_then_the_setting(
    open_services: OpenContext,
    database: Database,
    setting: str,
    app: str | None,
    asked,
    expected: ConsentMode,
):
    own = OAuthApp(client_id="c", redirect_uri="http://127.0.0.1:1/cb", consent=app)
    async with database.transaction() as db:
        db.add(new_profile(account_id="alice"))
    async with open_services(consent_mode=setting, oauth_apps={"AIOTT1": own.model_dump()}) as context:
        row = await read(database, await place(context, consent=asked))
        assert (row.consent, row.awaits_person) == (expected, expected is ATTENDED)
        job = await context.sessions.runs.claim(row.session_id)
    assert job is not None
    assert (job.consent, job.awaits_person) == (expected, expected is ATTENDED)


async def test_a_resumed_session_waits_for_the_person_in_an_attempt_of_its_own(
    service: Context, database: Database
):
    session_id = await place(service)
    await failed(service, session_id, LoginRequiredException("alice"))
    await resume(service, session_id)
    row = await read(database, session_id)
    assert (row.status, row.awaits_person, row.consent) == (SessionStatus.PENDING, True, AUTOMATIC)
    assert row.expires_at > utc_now()
    job = await service.sessions.runs.claim(session_id)
    assert job is not None
    assert (job.awaits_person, job.attempt) == (True, 2)
    stages = StageLog(job)
    stages.add(SessionStage.WAITING_FOR_PERSON, utc_now())
    await service.sessions.runs.note_stages([stages.take()])
    await service.sessions.runs.fail(job, PersonNotSeenException("alice", 900))
    assert (await read(database, session_id)).status is SessionStatus.NEEDS_ATTENTION

    async with database.reading() as db:
        codes = await db.scalars(
            select(AuthorizationAttempt.error_code).order_by(AuthorizationAttempt.number)
        )
        assert codes.all() == ["LOGIN_REQUIRED", "PERSON_NOT_SEEN"]
        events = await db.execute(select(Event.event_type, Event.actor).order_by(Event.id))
    told = dict(events.all())
    assert told["authorization.resumed"] == "operator"
    assert "authorization.attention_awaited" in told


async def test_transient_failure_is_tried_again_with_the_person(service: Context, database: Database):
    session_id = await place(service)
    await failed(service, session_id, LoginRequiredException("alice"))
    await resume(service, session_id)
    await failed(service, session_id, BrowserCrashedException())
    row = await read(database, session_id)
    assert (row.status, row.awaits_person) == (SessionStatus.PENDING, True)


async def test_a_retry_asks_for_nobody(service: Context, database: Database):
    session_id = await place(service)
    await failed(service, session_id, LoginRequiredException("alice"))
    await resume(service, session_id)
    await failed(service, session_id, PersonNotSeenException("alice", 900))
    async with database.transaction() as db:
        await service.sessions.authorizations.retry(db, session_id, actor="a")
    assert not (await read(database, session_id)).awaits_person


async def test_only_a_session_that_needs_attention_can_be_resumed(service: Context, database: Database):
    session_id = await place(service)
    with pytest.raises(AttentionNotNeededException, match="'pending'"):
        await resume(service, session_id)
    await failed(service, session_id, AppException())
    with pytest.raises(AttentionNotNeededException, match=f"'failed'.*/authorize/{session_id}/retry"):
        await resume(service, session_id)
    with pytest.raises(SessionNotFoundException):
        await resume(service, "unknown")
    assert not (await read(database, session_id)).awaits_person


async def test_session_is_not_resumed_beside_an_open_one_of_the_account(service: Context):
    session_id = await place(service)
    await failed(service, session_id, LoginRequiredException("alice"))
    await place(service)
    with pytest.raises(InvalidRequestException, match="is open"):
        await resume(service, session_id)


@pytest.mark.databases("sqlite", "postgresql")
async def test_one_of_many_simultaneous_resumes_succeeds(service: Context, database: Database):
    session_id = await place(service)
    await failed(service, session_id, LoginRequiredException("alice"))
    results = await asyncio.gather(*(resume(service, session_id) for _ in range(8)), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [AttentionNotNeededException] * 7
    async with database.reading() as db:
        resumed = await db.scalars(select(Event).where(Event.event_type == "authorization.resumed"))
        assert len(resumed.all()) == 1
