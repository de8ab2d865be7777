"""The client against the real application on a real socket; threads and asyncio by the same tests."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from app.client import AuthorizationFailed, Client, ServiceError, reading
from app.context import Context
from app.models import AuthorizationSession
from app.utils.exceptions import HumanCheckException
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from tests.fixtures.api import API_KEY
from tests.fixtures.batches import add_accounts, end_session
from tests.fixtures.callers import KINDS, Caller, calling
from tests.fixtures.events import record
from tests.fixtures.serving import Served
from tests.fixtures.tokens import TokenChain
from tests.fixtures.waiting import eventually

APP = "AIOTT1"


@pytest_asyncio.fixture
async def anna(service: Served) -> str:
    """An account with a profile, as `anna_two`, and no other test's."""
    name = f"anna_{secrets.token_hex(4)}"
    await add_accounts(service.app.state.context.database, [name, f"{name}_two"])
    return name


@pytest_asyncio.fixture(params=KINDS)
async def caller(request: pytest.FixtureRequest, service: Served) -> AsyncIterator[Caller]:
    async with calling(request.param, service.url, API_KEY) as caller:
        yield caller


async def row_of(context: Context, session_id: str) -> AuthorizationSession:
    async with context.database.reading() as db:
        query = select(AuthorizationSession).where(AuthorizationSession.session_id == session_id)
        return (await db.scalars(query)).one()


async def asked_for(context: Context, account_id: str) -> AuthorizationSession:
    """The account's first session, when there is one."""
    query = select(AuthorizationSession).where(AuthorizationSession.account_id == account_id)

    async def look() -> AuthorizationSession | None:
        async with context.database.reading() as db:
            row: AuthorizationSession | None = await db.scalar(query)
        return row

    row = await eventually(look)
    assert row is not None
    return row


async def soon(work: Any) -> asyncio.Task[Any]:
    """Under way, and not done."""
    task = asyncio.create_task(work)
    await asyncio.wait([task], timeout=0.1)
    assert not task.done()
    return task


async def test_a_session_is_waited_for(caller: Caller, context: Context, anna: str):
    asked = await caller.do("authorize", f"@{anna.upper()}", APP, priority=9)
    assert (asked.account_id, asked.status, asked.priority, asked.existing) == (anna, "pending", 9, False)
    again = await caller.do("authorize", anna, APP)
    assert (again.session_id, again.existing) == (asked.session_id, True)
    waiting = await soon(caller.do("authorize_and_wait", anna, APP))
    await end_session(context, await row_of(context, asked.session_id))
    done = await waiting
    assert (done.session_id, done.status, done.is_ended, done.attempts) == (
        asked.session_id,
        "completed",
        True,
        1,
    )
    assert done.completed_at > done.attempt_list[0].started_at
    assert await caller.do("session", asked.session_id) == done


async def test_failed_session_is_reported_and_can_be_tried_again(caller: Caller, context: Context, anna: str):
    waiting = asyncio.create_task(caller.do("authorize_and_wait", anna, APP))
    asked = await asked_for(context, anna)
    await end_session(context, asked, HumanCheckException(anna))
    with pytest.raises(AuthorizationFailed, match="HUMAN_CHECK_REQUIRED: ") as failed:
        await waiting
    assert (failed.value.session.status, failed.value.request_id) == ("needs_attention", asked.request_id)
    assert (await caller.do("retry", asked.session_id)).status == "pending"
    assert (await caller.do("cancel", asked.session_id)).status == "cancelled"
    with pytest.raises(ServiceError) as ended:
        await caller.do("cancel", asked.session_id)
    assert (ended.value.code, ended.value.status) == ("SESSION_ENDED", 409)


async def test_a_batch_is_waited_for(
    caller: Caller, context: Context, anna: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reading, "_PAGE", 2)
    names = (anna, "nobody", f"{anna}_two", anna)
    rows: Any = [{"account_id": name} for name in names]
    if isinstance(caller.client, Client):  # either takes both
        rows = "\n".join(["account_id", *names]).encode()
    placed = await caller.do("make_batch", rows, api_app=APP, max_running=5, idempotency_key=anna)
    assert (placed.accepted, placed.rejected, placed.max_running, placed.existing) == (3, 1, 5, False)
    assert (await caller.do("make_batch", rows, api_app=APP, max_running=5, idempotency_key=anna)).existing
    await context.sessions.pacing.pace(placed.batch_id)
    waiting = await soon(caller.do("wait_for_batch", placed.batch_id))
    for session_id in {row.session_id for row in placed.rows if row.session_id}:
        await end_session(context, await row_of(context, session_id))
    await context.sessions.pacing.pace(placed.batch_id)
    batch = await waiting
    assert (batch.status, batch.open, batch.counts["completed"]) == ("completed", 0, 3)
    assert await caller.do("batch", placed.batch_id) == batch
    results = await caller.some("batch_results", None, placed.batch_id)
    assert [(row.row, row.status, row.error_code) for row in results] == [
        (1, "completed", None), (2, None, "PROFILE_NOT_FOUND"), (3, "completed", None), (4, "completed", None)
    ]  # fmt: skip


async def test_a_batch_is_cancelled_and_tried_again(caller: Caller, anna: str):
    placed = await caller.do("make_batch", [{"account_id": anna, "api_app": APP}])
    assert (await caller.do("cancel_batch", placed.batch_id)).status == "cancelled"
    assert (await caller.do("retry_batch", placed.batch_id)).status == "running"


async def test_a_token_is_asked_for_once_until_it_is_forgotten(
    caller: Caller, context: Context, admin: SandboxAdmin, profile: ProfileInfo
):
    """Twenty at once, whichever way they spell the account."""
    chain = TokenChain(context, admin, profile.account)
    kept = await chain.authorize()
    spelt = [profile.account, f"@{profile.account.upper()}"]
    tokens = await asyncio.gather(*(caller.do("token", spelt[number % 2], APP) for number in range(20)))
    assert {each.access_token for each in tokens} == {kept.access_token.get_secret_value()}
    assert len(await chain.events("token.read")) == 1
    caller.client.forget(spelt[1], "another app")
    await caller.do("token", profile.account, APP)
    assert len(await chain.events("token.read")) == 1
    caller.client.forget(spelt[1])
    await caller.do("token", profile.account, APP)
    await caller.do("token", profile.account, APP, min_ttl=3600)  # more than the cached one has is asked for
    assert len(await chain.events("token.read")) == 2
    assert (await caller.do("verify", profile.account, APP)).is_same_account
    await caller.do("token", profile.account, APP)
    assert len(await chain.events("token.read")) == 3


async def test_missing_token_does_not_delay_other_callers(caller: Caller):
    found = await asyncio.gather(
        *(caller.do("token", "nobody", APP) for _ in range(5)), return_exceptions=True
    )
    assert {error.code for error in found if isinstance(error, ServiceError)} == {"TOKEN_NOT_FOUND"}
    assert len(found) == 5
    assert caller.client._tokens._requests == {}


async def test_events_are_read_to_the_end(caller: Caller, context: Context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "_PAGE", 2)
    anna = f"anna_{secrets.token_hex(4)}"
    for number in range(5):
        await record(context.database, number, account_id=anna if number else "bob")
    found = await caller.some("events", None, event_type="batch.*", account_id=f"@{anna.upper()}")
    assert [event.data["number"] for event in found] == [4, 3, 2, 1]
    since = found[1].occurred_at
    assert [each.id for each in await caller.some("events", None, account_id=anna, since=since)] == [
        found[0].id, found[1].id
    ]  # fmt: skip
    assert len(await caller.some("events", 3, event_type="batch.*")) == 3


async def test_the_stream_goes_on_through_its_ends(caller: Caller, context: Context):
    """Each event once, also one with characters at which some end lines; the server ends the stream every 0.3 s."""
    account = f"anna_{secrets.token_hex(4)}"
    opened = context.events.streams.totals.opened
    for number in range(3):
        await record(context.database, number, account_id=account, words="a\u2028b\x85c\r\nd")
    reading_on = asyncio.create_task(
        caller.some("stream_events", 12, account_id=account, last_event_id="0-0")
    )
    await eventually(lambda: context.events.streams.totals.opened >= opened + 3)
    for number in range(3, 12):
        await record(context.database, number, account_id=account)
    async with asyncio.timeout(60):
        found = await reading_on
    assert [event.data["number"] for event in found] == list(range(12))
    assert found[0].data["words"] == "a\u2028b\x85c\r\nd"
    (next_one,) = await caller.some(
        "stream_events", 1, account_id=account, last_event_id=found[4].last_event_id
    )
    assert next_one == found[5]


async def test_refusals_say_what_to_do(caller: Caller, service: Served):
    with pytest.raises(ServiceError) as wrong:
        await caller.do("authorize", "anna", APP, priority=11)
    assert (wrong.value.code, wrong.value.status) == ("INVALID_REQUEST", 422)
    assert wrong.value.problems[0]["field"] == "priority"
    assert wrong.value.request_id
    with pytest.raises(ServiceError, match=r"^NOT_FOUND: "):
        await caller.do("session", "none/such")
    with pytest.raises(ServiceError, match="UNKNOWN_EVENT_ID"):
        await caller.some("stream_events", 1, last_event_id="9-9")
    kind = "sync" if type(caller.client).__name__ == "Client" else "async"
    async with calling(kind, service.url, "not-the-key") as stranger:
        for work in (
            stranger.do("session", "x"),
            stranger.some("stream_events", 1),
            stranger.some("events", 1),
        ):
            with pytest.raises(ServiceError, match="UNAUTHORIZED") as refused:
                await work
            assert "not-the-key" not in repr(refused.value)


async def test_caller_can_call_any_other_route(caller: Caller):
    name = secrets.token_hex(4)
    made = await caller.do("call", "POST", "/keys", json={"name": name, "scopes": ["events"]})
    (listed,) = await caller.do("call", "GET", "/keys", params={"text": name})
    assert made["key"].startswith(listed["prefix"])
