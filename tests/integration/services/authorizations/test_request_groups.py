"""Requests that arrive together share a transaction, and each has its own result."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import structlog
from sqlalchemy import event, select

from app.context import Context, open_context
from app.database import Database
from app.models import ActorKind, AppState, AuthorizationSession, Event, EventType, IdempotencyKey, utc_now
from app.services.authorizations.requests import AuthorizationCommand, SubmitResult
from app.services.keys.service import Caller
from app.services.shared.access import AccessScope
from app.services.shared.group_commit import GROUP_TASK
from app.utils.exceptions import (
    AppPausedException,
    IdempotencyConflictException,
    InvalidRequestException,
    OutOfReachException,
    ProfileNotFoundException,
    TooManyWaitingException,
    UnknownApiAppException,
)
from tests.fixtures.factories import CALLER, new_profile
from tests.fixtures.services import OpenContext
from tests.fixtures.settings import MakeSettings

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

ACCOUNTS = [f"a{number}" for number in range(20)]


@pytest.fixture
async def service(context: Context, database: Database) -> Context:
    async with database.transaction() as db:
        db.add_all(new_profile(account_id=account) for account in ACCOUNTS)
    await submit(context, "a0")  # so that the waiting sessions are counted
    return context


async def submit(
    context: Context, account: str, *, app: str = "AIOTT1", key: str | None = None, caller: Caller = CALLER,
    **options: object,
) -> SubmitResult:  # fmt: skip
    command = replace(AuthorizationCommand(account, app), **options)  # type: ignore[arg-type]
    return await context.sessions.authorizations.submit(command, caller=caller, idempotency_key=key)


async def sessions(context: Context) -> Sequence[AuthorizationSession]:
    async with context.database.reading() as db:
        return (await db.scalars(select(AuthorizationSession))).all()


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: object, _cursor: object, text: str, *_: object) -> None:
        task = asyncio.current_task()
        if task is not None and task.get_name() == GROUP_TASK:
            seen.append(text)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)


@pytest.mark.databases("sqlite", "postgresql")
async def test_requests_at_once_cost_the_statements_of_one_transaction(service: Context):
    with statements(service.database) as seen:
        results = await asyncio.gather(*(submit(service, account) for account in ACCOUNTS[1:]))
    assert all(result.is_new for result in results)
    # Profiles, paused apps, sessions, their ids, events, positions.
    assert [text.split()[0] for text in seen if not text.startswith(("BEGIN", "SET"))] == [
        "SELECT", "SELECT", "INSERT", "SELECT", "INSERT", "SELECT",
    ]  # fmt: skip


async def test_each_request_of_a_group_has_its_own_result(service: Context):
    results = await asyncio.gather(
        submit(service, "a1"),
        submit(service, "nobody"),
        submit(service, "a2", app="unknown"),
        submit(service, "a3", expires_at=utc_now(), key="k-3"),
        submit(service, "a4"),
        submit(service, "a4"),
        submit(service, "a5", force=True),
        submit(service, "a5", force=True),
        submit(service, "a0"),
        submit(service, "a6", key="k-6"),
        return_exceptions=True,
    )
    kinds = [each.is_new if isinstance(each, SubmitResult) else type(each) for each in results]
    assert kinds == [
        True, ProfileNotFoundException, UnknownApiAppException, InvalidRequestException,
        True, False, True, True, False, True,
    ]  # fmt: skip
    placed = [each.session_id for each in results if isinstance(each, SubmitResult)]
    assert placed[1] == placed[2]
    assert {row.session_id for row in await sessions(service)} == set(placed)
    async with service.database.reading() as db:
        keys = (await db.execute(select(IdempotencyKey.session_id))).scalars().all()
        recorded = (await db.scalars(select(Event.session_id))).all()
    assert keys == [placed[-1]], "a refused request keeps its key free"
    assert sorted(map(str, recorded)) == sorted(set(placed))


async def test_requests_of_a_paused_app_are_refused(service: Context):
    async with service.database.transaction() as db:
        db.add(AppState(api_app="AIOTT1", failures_in_a_row=5, paused_at=utc_now(), reason="broken"))
    results = await asyncio.gather(submit(service, "a1"), submit(service, "a2"), return_exceptions=True)
    assert [type(each) for each in results] == [AppPausedException] * 2


@pytest.mark.databases("sqlite", "postgresql")
async def test_same_key_at_once_makes_one_session(service: Context):
    one, other, conflicting = await asyncio.gather(
        submit(service, "a1", key="k"),
        submit(service, "a1", key="k"),
        submit(service, "a2", key="k"),
        return_exceptions=True,
    )
    assert isinstance(one, SubmitResult)
    assert isinstance(other, SubmitResult)
    assert (one.session_id, one.is_new, other.is_new) == (other.session_id, True, False)
    assert isinstance(conflicting, IdempotencyConflictException)
    again = await asyncio.gather(*(submit(service, account, key=f"k-{account}") for account in ACCOUNTS[3:6]))
    repeated = await asyncio.gather(
        *(submit(service, account, key=f"k-{account}") for account in ACCOUNTS[3:6])
    )
    assert [each.session_id for each in again] == [each.session_id for each in repeated]
    assert [each.is_new for each in repeated] == [False] * 3


async def test_sessions_of_a_group_have_their_own_caller_request_and_position(service: Context):
    callers = [
        Caller(f"key-{number}", frozenset(), kind=ActorKind.KEY, key_id=f"id-{number}") for number in range(5)
    ]

    async def one(number: int) -> SubmitResult:
        with structlog.contextvars.bound_contextvars(request_id=f"request-{number}"):
            return await submit(service, ACCOUNTS[number + 1], caller=callers[number], priority=9 - number)

    results = await asyncio.gather(*map(one, range(5)))
    assert [result.queue_position for result in results] == [1, 2, 3, 4, 6]
    async with service.database.reading() as db:
        views = [await service.sessions.authorizations.view(db, result.session_id) for result in results]
        recorded = (
            await db.scalars(
                select(Event).where(
                    Event.event_type == EventType.AUTHORIZATION_REQUESTED, Event.actor != CALLER.name
                )
            )
        ).all()
    assert [view.queue_position for view in views] == [1, 2, 3, 4, 6]
    assert {(each.session_id, each.actor, each.actor_id, each.request_id) for each in recorded} == {
        (result.session_id, f"key-{number}", f"id-{number}", f"request-{number}")
        for number, result in enumerate(results)
    }
    assert [view.row.request_id for view in views] == [f"request-{number}" for number in range(5)]


async def test_group_takes_no_more_than_there_is_room_for(open_services: OpenContext, database: Database):
    async with database.transaction() as db:
        db.add_all(new_profile(account_id=account) for account in ACCOUNTS)
    async with open_services(max_waiting=3) as context:
        results = await asyncio.gather(
            *(submit(context, account) for account in ACCOUNTS), return_exceptions=True
        )
        refused = [each for each in results if isinstance(each, TooManyWaitingException)]
        assert (len(refused), len(await sessions(context))) == (17, 3)


async def test_request_that_waits_for_a_lock_keeps_no_other_waiting(
    make_settings: MakeSettings, postgresql_url: str
):
    async with open_context(make_settings(database_url=postgresql_url)) as service:
        async with service.database.transaction() as db:
            db.add_all(new_profile(account_id=account) for account in ACCOUNTS)
        async with service.database.transaction() as db:  # as another process
            held = await service.sessions.authorizations.request(
                db, AuthorizationCommand("a1", "AIOTT1"), caller=CALLER
            )
            waiting = asyncio.create_task(submit(service, "a1"))
            for _ in range(2):  # until its group has begun
                await asyncio.sleep(0)
            assert (await submit(service, "a2")).is_new
            assert (await submit(service, "a3")).is_new
            assert not waiting.done()
        assert (await waiting).session_id == held.session_id


async def test_request_out_of_reach_is_refused(service: Context):
    restricted = replace(CALLER, access=AccessScope.from_lists(["AIOTT1"], ["a1"]))
    allowed, refused = await asyncio.gather(
        submit(service, "a1", caller=restricted),
        submit(service, "a2", caller=restricted),
        return_exceptions=True,
    )
    assert isinstance(allowed, SubmitResult)
    assert isinstance(refused, OutOfReachException)
    assert {row.account_id for row in await sessions(service)} == {"a0", "a1"}
