"""One request makes one session, however often and however many at once it is sent; it can be cancelled and retried."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from app.context import Context
from app.database import Database
from app.models import (
    AuthorizationAttempt,
    AuthorizationSession,
    Event,
    IdempotencyKey,
    SessionStatus,
    utc_now,
)
from app.services.authorizations.requests import AuthorizationCommand, SubmitResult
from app.services.authorizations.transitions import TRANSITIONS, move
from app.services.keys.service import Caller, Scope
from app.utils.exceptions import (
    AppPausedException,
    BrowserCrashedException,
    IdempotencyConflictException,
    InvalidClientException,
    InvalidRequestException,
    LoginRequiredException,
    SessionEndedException,
    SessionNotEndedException,
    TooManyWaitingException,
    TransitionRefusedException,
)
from tests.fixtures.factories import CALLER, new_profile, new_session
from tests.fixtures.services import OpenContext

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

COMMAND = AuthorizationCommand("alice", "AIOTT1")


@pytest.fixture
async def service(context: Context, database: Database) -> Context:
    async with database.transaction() as db:
        db.add(new_profile(account_id="alice"))
    return context


async def place(
    context: Context, command: AuthorizationCommand = COMMAND, key: str | None = None, caller: Caller = CALLER
) -> SubmitResult:
    async with context.database.transaction() as db:
        return await context.sessions.authorizations.request(db, command, caller=caller, idempotency_key=key)


async def read(database: Database, session_id: str) -> AuthorizationSession:
    async with database.reading() as db:
        return (
            await db.scalars(
                select(AuthorizationSession).where(AuthorizationSession.session_id == session_id)
            )
        ).one()


async def count(database: Database) -> int:
    async with database.reading() as db:
        return await db.scalar(select(func.count()).select_from(AuthorizationSession)) or 0


async def ended(context: Context, error: Exception) -> str:
    """A session whose only attempt has failed."""
    placed = await place(context)
    job = await context.sessions.runs.claim(placed.session_id)
    await context.sessions.runs.fail(job, error)
    return placed.session_id


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("key", [None, "k-1"])
async def test_hundred_simultaneous_requests_make_one_session(
    service: Context, database: Database, key: str | None
):
    placed = await asyncio.gather(*(place(service, key=key) for _ in range(100)))
    assert len({each.session_id for each in placed}) == 1
    assert sum(each.is_new for each in placed) == 1
    assert await count(database) == 1


async def test_an_open_session_is_given_back_and_an_ended_one_is_not(service: Context):
    first = await place(service)
    assert await place(service) == SubmitResult(first.session_id)
    async with service.database.transaction() as db:
        await service.sessions.authorizations.cancel(db, first.session_id, actor="tests")
    assert (await place(service)).is_new


async def test_forced_request_makes_a_session_beside_the_open_one(service: Context, database: Database):
    first = await place(service)
    forced = await place(service, AuthorizationCommand("alice", "AIOTT1", force=True))
    assert forced.is_new
    assert await place(service) == SubmitResult(first.session_id)
    assert await count(database) == 2


async def test_request_for_another_app_makes_another_session(service: Context, open_services: OpenContext):
    apps = dict.fromkeys(("AIOTT1", "AIOTT2"), service.settings.oauth_apps["AIOTT1"])
    async with open_services(oauth_apps=apps) as context:
        assert (await place(context)).is_new
        assert (await place(context, AuthorizationCommand("alice", "AIOTT2"))).is_new


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_key_gives_the_same_session_after_its_end_too(service: Context):
    first = await place(service, key="k-1")
    async with service.database.transaction() as db:
        await service.sessions.authorizations.cancel(db, first.session_id, actor="tests")
    assert await place(service, key="k-1") == SubmitResult(first.session_id)
    assert (await place(service, key="k-2")).is_new


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_key_with_another_body_is_refused_and_leaves_nothing(service: Context, database: Database):
    await place(service, key="k-1")
    with pytest.raises(IdempotencyConflictException):
        await place(service, AuthorizationCommand("alice", "AIOTT1", priority=9), key="k-1")
    assert await count(database) == 1


async def test_a_key_belongs_to_its_caller_and_lasts_a_day(service: Context, database: Database):
    first = await place(service, key="k-1")
    other = Caller("other", frozenset({Scope.AUTHORIZE}))
    forced = AuthorizationCommand("alice", "AIOTT1", force=True)
    assert (await place(service, forced, key="k-1", caller=other)).is_new
    async with database.transaction() as db:
        await db.execute(update(IdempotencyKey).values(expires_at=utc_now() - timedelta(seconds=1)))
    again = await place(service, forced, key="k-1")
    assert again.is_new
    assert again.session_id != first.session_id


async def test_a_key_whose_request_found_an_open_session_stands_for_that(service: Context):
    first = await place(service)
    assert await place(service, key="k-1") == SubmitResult(first.session_id)
    assert await place(service, key="k-1") == SubmitResult(first.session_id)


async def test_a_refused_request_keeps_its_key_free(service: Context):
    with pytest.raises(InvalidRequestException):
        await place(service, AuthorizationCommand("alice", "AIOTT1", expires_at=utc_now()), key="k-1")
    assert (await place(service, key="k-1")).is_new


@pytest.mark.databases("sqlite", "postgresql")
async def test_request_is_refused_with_too_many_waiting(open_services: OpenContext, database: Database):
    async with database.transaction() as db:
        db.add_all(new_profile(account_id=f"a{number}") for number in range(3))
    async with open_services(max_waiting=2) as context:
        for number in range(2):
            await place(context, AuthorizationCommand(f"a{number}", "AIOTT1"))
        with pytest.raises(TooManyWaitingException) as refused:
            await place(context, AuthorizationCommand("a2", "AIOTT1"))
    assert refused.value.retry_after


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_session_is_not_claimed_before_its_time(service: Context, database: Database):
    placed = await place(
        service, AuthorizationCommand("alice", "AIOTT1", not_before=utc_now() + timedelta(hours=1))
    )
    assert await service.sessions.runs.claim(placed.session_id) is None
    async with database.transaction() as db:
        await db.execute(update(AuthorizationSession).values(not_before=utc_now()))
    assert await service.sessions.runs.claim(placed.session_id) is not None


async def test_transient_failure_is_tried_again_and_each_attempt_is_kept(
    service: Context, database: Database
):
    placed = await place(service)
    waits = []
    for _ in range(3):
        async with database.transaction() as db:
            await db.execute(update(AuthorizationSession).values(not_before=None))
        job = await service.sessions.runs.claim(placed.session_id)
        waits.append(await service.sessions.runs.fail(job, BrowserCrashedException()))
    assert waits[2] is None
    assert 0 < waits[0] < waits[1] * 3
    async with database.reading() as db:
        view = await service.sessions.authorizations.view(db, placed.session_id)
    assert (view.row.status, view.row.error_code) == (SessionStatus.FAILED, "BROWSER_CRASHED")
    assert [(attempt.number, attempt.error_code) for attempt in view.attempts] == [
        (number, "BROWSER_CRASHED") for number in (1, 2, 3)
    ]
    assert all(attempt.ended_at for attempt in view.attempts)


async def test_session_that_needs_a_person_is_not_tried_again(service: Context, database: Database):
    session_id = await ended(service, LoginRequiredException("alice"))
    assert (await read(database, session_id)).status is SessionStatus.NEEDS_ATTENTION


async def test_an_app_that_fails_by_its_own_fault_is_paused_until_resumed(
    open_services: OpenContext, database: Database
):
    async with database.transaction() as db:
        db.add(new_profile(account_id="alice"))
    async with open_services(app_pause_after=2) as context:
        for _ in range(2):
            waiting = await ended(context, InvalidClientException(401, "no"))
        with pytest.raises(AppPausedException):
            await place(context)
        async with database.transaction() as db:
            await db.execute(
                update(AuthorizationSession)
                .where(AuthorizationSession.session_id == waiting)
                .values(status=SessionStatus.PENDING)
            )
        assert await context.sessions.runs.claim(waiting) is None
        assert await context.sessions.runs.deliver_waiting() == 0
        async with database.transaction() as db:
            assert (await context.tokens.apps.resume(db, "AIOTT1", actor="anna")).was_paused
        assert await context.sessions.runs.claim(waiting) is not None
    async with database.reading() as db:
        query = select(Event.event_type).where(Event.event_type.startswith("app.")).order_by(Event.id)
        events = list(await db.scalars(query))
    assert events == ["app.paused", "app.resumed"]


async def test_a_cancelled_session_ends_at_once_and_its_runner_has_lost_it(
    service: Context, database: Database
):
    placed = await place(service)
    job = await service.sessions.runs.claim(placed.session_id)
    assert await service.sessions.runs.find_lost([job]) == set()
    async with database.transaction() as db:
        await service.sessions.authorizations.cancel(db, placed.session_id, actor="anna")
    assert await service.sessions.runs.find_lost([job]) == {job.lease_token}
    assert (await read(database, placed.session_id)).status is SessionStatus.CANCELLED
    async with database.transaction() as db:
        with pytest.raises(SessionEndedException):
            await service.sessions.authorizations.cancel(db, placed.session_id, actor="anna")


async def test_a_session_that_ended_without_tokens_can_be_tried_again(service: Context, database: Database):
    session_id = await ended(service, LoginRequiredException("alice"))
    async with database.transaction() as db:
        await service.sessions.authorizations.retry(db, session_id, actor="anna")
    row = await read(database, session_id)
    assert (row.status, row.attempts, row.attempts_allowed) == (SessionStatus.PENDING, 1, 4)
    job = await service.sessions.runs.claim(session_id)
    assert job is not None
    async with database.transaction() as db:
        with pytest.raises(SessionNotEndedException):
            await service.sessions.authorizations.retry(db, session_id, actor="anna")


async def test_an_interrupted_attempt_that_is_given_back_does_not_count(service: Context, database: Database):
    placed = await place(service)
    job = await service.sessions.runs.claim(placed.session_id)
    await service.sessions.runs.release(job, reason="tests")
    assert (await read(database, placed.session_id)).attempts == 0
    async with database.reading() as db:
        assert await db.scalar(select(func.count()).select_from(AuthorizationAttempt)) == 0


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("old", SessionStatus)
async def test_only_transitions_of_the_table_are_made(database: Database, old: SessionStatus):
    for new in SessionStatus:
        profile = new_profile()
        row = new_session(profile, status=old)
        async with database.transaction() as db:
            db.add_all([profile, row])
            await db.flush()
            if new in TRANSITIONS[old]:
                move(db, row, new)
                continue
            with pytest.raises(TransitionRefusedException):
                move(db, row, new)


@pytest.mark.databases("sqlite", "postgresql")
async def test_one_of_many_simultaneous_ends_is_recorded(service: Context, database: Database):
    """A cancel, a failure, a completion's failure and the clean-up race; every event is of a true transition."""
    placed = await place(service)
    job = await service.sessions.runs.claim(placed.session_id)

    async def cancel() -> None:
        async with database.transaction() as db:
            await service.sessions.authorizations.cancel(db, placed.session_id, actor="anna")

    results = await asyncio.gather(
        cancel(),
        cancel(),
        service.sessions.runs.fail(job, LoginRequiredException("alice")),
        service.sessions.runs.fail(job, InvalidClientException(401, "no")),
        return_exceptions=True,
    )
    assert sum(not isinstance(result, Exception) for result in results) == 1
    async with database.reading() as db:
        types = list(await db.scalars(select(Event.event_type).order_by(Event.id)))
    assert len([each for each in types if each.removeprefix("authorization.") in list(SessionStatus)]) == 1


async def test_a_key_of_an_earlier_release_finds_what_it_has_made(service: Context):
    """Fingerprints of an earlier release cannot be compared; a retry over the upgrade is honest."""
    placed = await place(service, key="k")
    async with service.database.transaction() as db:
        await db.execute(update(IdempotencyKey).values(body_hash="0" * 64))
    assert await place(service, key="k") == SubmitResult(placed.session_id)
