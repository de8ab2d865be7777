"""A batch is made whole or not at all; each row has its result; the same request is the same batch."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from sqlalchemy import update

from app.config import Settings
from app.context import Context
from app.database import Database
from app.models import (
    AppState,
    AuthorizationSession,
    Batch,
    BatchRow,
    BatchStatus,
    Event,
    SessionStatus,
    utc_now,
)
from app.services.authorizations.requests import AuthorizationCommand
from app.services.batches import queries
from app.services.batches.queries import RowResult
from app.services.batches.rows import InputRow
from app.services.keys.service import Caller, Scope
from app.services.shared.paging import PageRequest
from app.utils.exceptions import (
    BatchEmptyException,
    BatchEndedException,
    BatchNotFoundException,
    IdempotencyConflictException,
    InvalidRequestException,
    LoginRequiredException,
    NothingToRetryException,
    TooManyWaitingException,
)
from tests.fixtures.batches import (
    account_names,
    add_accounts,
    count_rows,
    end_session,
    events_of,
    input_rows,
    new_batch,
    place_batch,
    read_batch,
    sessions_of,
    under_way,
)
from tests.fixtures.factories import CALLER, new_profile
from tests.fixtures.services import OpenContext

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


async def results_of(context: Context, batch_id: str) -> list[RowResult]:
    async with context.database.reading() as db:
        page = await queries.fetch_results(db, batch_id, PageRequest(size=1000), caller=CALLER)
    assert page.total.number == len(page.rows)
    return list(page.rows)


async def test_each_good_row_is_a_session_that_waits_for_its_turn(context: Context, database: Database):
    await add_accounts(database, ["zoe", "bob"])
    placed = await place_batch(context, input_rows("zoe", "bob"), max_running=1)
    rows = await sessions_of(database, placed.batch_id)
    assert [row.account_id for row in rows] == ["zoe", "bob"], "in the order of the rows"
    assert {(row.status, row.requested_by, row.attempts_allowed) for row in rows} == {
        (SessionStatus.PENDING, CALLER.name, 3)
    }
    assert [event.session_id for event in await events_of(database, "authorization.requested")]
    batch = await read_batch(database, placed.batch_id)
    assert (batch.status, batch.accepted, batch.rejected, batch.stop_percent, batch.stop_window) == (
        BatchStatus.RUNNING, 2, 0, 50, 20,
    )  # fmt: skip


@pytest.fixture
async def two_apps(open_services: OpenContext, settings: Settings) -> AsyncIterator[Context]:
    apps = dict.fromkeys(("AIOTT1", "PAUSED"), settings.oauth_apps["AIOTT1"])
    async with open_services(oauth_apps=apps) as context:
        yield context


async def test_bad_row_does_not_block_others(two_apps: Context, database: Database):
    context = two_apps
    await add_accounts(database, ["alice", "bob", "carol"])
    async with database.transaction() as db:
        db.add_all([new_profile(account_id="twice"), new_profile(account_id="twice")])
        db.add(new_profile(account_id="broken", quarantined_at=utc_now()))
        db.add(AppState(api_app="PAUSED", paused_at=utc_now(), reason="INVALID_CLIENT 5 times in a row"))
        open_one = await context.sessions.authorizations.request(
            db, AuthorizationCommand("bob", "AIOTT1"), caller=CALLER
        )
    rows = [
        *input_rows("alice", "bob", "nobody", "twice", "broken", "alice", "nobody"),
        InputRow(8, "carol", "PAUSED"),
        InputRow(9, "carol", "NOPE"),
        InputRow(10, "no handle", "AIOTT1", error="account_id: must be"),
    ]
    placed = await place_batch(context, rows)
    results = await results_of(context, placed.batch_id)
    assert [(each.row, each.existing, each.error_code) for each in results] == [
        (1, False, None),
        (2, True, None),
        (3, False, "PROFILE_NOT_FOUND"),
        (4, False, "PROFILE_CONFLICT"),
        (5, False, "PROFILE_QUARANTINED"),
        (6, True, None),
        (7, False, "PROFILE_NOT_FOUND"),
        (8, False, "APP_PAUSED"),
        (9, False, "UNKNOWN_API_APP"),
        (10, False, "INVALID_REQUEST"),
    ]
    assert results[1].session_id == open_one.session_id
    assert results[5].session_id == results[0].session_id
    assert all((each.session_id is None) == (each.error is not None) for each in results)
    batch = await read_batch(database, placed.batch_id)
    assert (batch.accepted, batch.rejected) == (3, 7)
    assert len(await sessions_of(database, placed.batch_id)) == 1
    async with database.reading() as db:
        view = await queries.view_batch(db, placed.batch_id, caller=CALLER)
    assert view.counts["pending"] == 3, "rows, not sessions"


@pytest.mark.databases("sqlite", "postgresql")
async def test_batch_of_several_chunks_is_created_whole(context: Context, database: Database):
    context.sessions.batches.limits = replace(context.sessions.batches.limits, chunk_size=4)
    accounts = account_names(11)
    await add_accounts(database, accounts)
    placed = await place_batch(context, input_rows(*reversed(accounts)))
    rows = await sessions_of(database, placed.batch_id)
    assert [row.account_id for row in rows] == accounts[::-1]
    assert all(one.queue_rank < other.queue_rank for one, other in pairwise(rows))
    assert [each.session_id for each in await results_of(context, placed.batch_id)] == [
        row.session_id for row in rows
    ]


async def test_a_batch_without_a_good_row_leaves_nothing(context: Context, database: Database):
    with pytest.raises(BatchEmptyException, match="No GoLogin profile found for account: nobody"):
        await place_batch(context, input_rows("nobody", "nobody_else"), key="k")
    with pytest.raises(BatchEmptyException):
        await place_batch(context, [])
    for table in (Batch, BatchRow, AuthorizationSession, Event):
        assert await count_rows(database, table) == 0


async def test_batch_of_too_many_rows_is_refused_with_advice_to_split(open_services: OpenContext):
    async with open_services(max_batch_rows=2) as context:
        with pytest.raises(InvalidRequestException, match="2 rows at most, this one has 3; split it"):
            await place_batch(context, input_rows("a", "b", "c"))


async def test_batch_without_room_for_all_rows_is_refused(open_services: OpenContext, database: Database):
    await add_accounts(database, account_names(3))
    async with open_services(max_waiting=2) as context:
        with pytest.raises(TooManyWaitingException):
            await place_batch(context, input_rows(*account_names(3)))
        assert await count_rows(database, Batch) == 0
        assert (await place_batch(context, input_rows(*account_names(2)))).is_new


@pytest.mark.databases("sqlite", "postgresql")
async def test_one_of_many_simultaneous_requests_with_a_key_makes_the_batch(
    context: Context, database: Database
):
    await add_accounts(database, account_names(5))
    placed = await asyncio.gather(
        *(place_batch(context, input_rows(*account_names(5)), key="k") for _ in range(8))
    )
    assert len({each.batch_id for each in placed}) == 1
    assert sum(each.is_new for each in placed) == 1
    assert (await count_rows(database, Batch), await count_rows(database, AuthorizationSession)) == (1, 5)
    with pytest.raises(IdempotencyConflictException):
        await place_batch(context, input_rows(*account_names(4)), key="k")


async def test_one_of_many_simultaneous_requests_from_a_source_makes_the_batch(
    context: Context, database: Database
):
    await add_accounts(database, account_names(5))
    placed = await asyncio.gather(
        *(place_batch(context, input_rows(*account_names(5)), source="f") for _ in range(8))
    )
    assert len({each.batch_id for each in placed}) == 1
    assert await count_rows(database, Batch) == 1
    other = Caller("other", frozenset({Scope.AUTHORIZE}))
    assert (await place_batch(context, input_rows(*account_names(5)), source="f", caller=other)).is_new
    async with database.transaction() as db:
        await context.sessions.batches.forget_source(db, "f", caller=CALLER)
    again = await place_batch(context, input_rows(*account_names(5)), source="f")
    assert again.is_new
    assert {each.existing for each in await results_of(context, again.batch_id)} == {True}


@pytest.mark.databases("sqlite", "postgresql")
async def test_batches_of_the_same_accounts_at_once_share_them(context: Context, database: Database):
    """In whatever order their rows are: neither waits for the other for ever."""
    context.sessions.batches.limits = replace(context.sessions.batches.limits, chunk_size=2)
    accounts = account_names(40)
    await add_accounts(database, accounts)
    orders = [accounts, accounts[::-1], accounts[20:] + accounts[:20], accounts[::2] + accounts[1::2]]
    placed = await asyncio.gather(*(place_batch(context, input_rows(*order)) for order in orders))
    assert await count_rows(database, AuthorizationSession) == 40
    for each in placed:
        assert all(result.session_id for result in await results_of(context, each.batch_id))


async def test_a_cancelled_batch_ends_with_all_its_sessions(context: Context, database: Database):
    batch_id = await new_batch(context, 5, max_running=2)
    job = await context.sessions.runs.claim((await under_way(database, batch_id))[0].session_id)
    async with database.transaction() as db:
        await context.sessions.batches.cancel(db, batch_id, caller=CALLER)
    await context.sessions.pacing.pace(batch_id)
    rows = await sessions_of(database, batch_id)
    assert {(row.status, row.error_code, row.is_held) for row in rows} == {
        (SessionStatus.CANCELLED, "BATCH_CANCELLED", False)
    }
    assert await context.sessions.runs.find_lost([job]) == {job.lease_token}
    batch = await read_batch(database, batch_id)
    assert (batch.status, batch.reason) == (BatchStatus.CANCELLED, f"asked for by {CALLER.name}")
    assert batch.completed_at is not None
    assert [event.event_type for event in await events_of(database, "batch.")] == [
        "batch.requested", "batch.cancelled", "batch.completed",
    ]  # fmt: skip
    async with database.transaction() as db:
        with pytest.raises(BatchEndedException):
            await context.sessions.batches.cancel(db, batch_id, caller=CALLER)


async def test_a_batch_tried_again_runs_again(context: Context, database: Database):
    batch_id = await new_batch(context, 4, max_running=4)
    rows = await under_way(database, batch_id)
    await end_session(context, rows[0])
    await end_session(context, rows[1], LoginRequiredException("a001"))
    async with database.transaction() as db:
        await context.sessions.batches.cancel(db, batch_id, caller=CALLER)
    await context.sessions.pacing.pace(batch_id)
    async with database.transaction() as db:
        other = await context.sessions.authorizations.request(
            db, AuthorizationCommand("a003", "AIOTT1"), caller=CALLER
        )
    async with database.transaction() as db:
        assert await context.sessions.batches.retry(db, batch_id, caller=CALLER) == 1
    batch = await read_batch(database, batch_id)
    assert (batch.status, batch.reason, batch.completed_at) == (BatchStatus.RUNNING, None, None)
    statuses = [row.status.value for row in await sessions_of(database, batch_id)]
    assert statuses == ["completed", "needs_attention", "pending", "cancelled"]
    async with database.transaction() as db:
        with pytest.raises(NothingToRetryException):
            await context.sessions.batches.retry(db, batch_id, caller=CALLER)
    async with database.transaction() as db:
        await context.sessions.authorizations.cancel(db, other.session_id, actor="anna")
    async with database.transaction() as db:
        assert await context.sessions.batches.retry(db, batch_id, needs_attention=True, caller=CALLER) == 2
    await context.sessions.pacing.pace(batch_id)
    assert len(await under_way(database, batch_id)) == 3


async def test_unknown_batch_is_not_found(context: Context):
    async with context.database.transaction() as db:
        for call in (context.sessions.batches.cancel, context.sessions.batches.retry):
            with pytest.raises(BatchNotFoundException):
                await call(db, "none", caller=CALLER)


async def test_a_session_of_a_batch_that_was_cancelled_can_be_tried_again_alone(
    context: Context, database: Database
):
    batch_id = await new_batch(context, 3, max_running=1)
    held = (await sessions_of(database, batch_id, held=True))[0]
    async with database.transaction() as db:
        await context.sessions.batches.cancel(db, batch_id, caller=CALLER)
    await context.sessions.pacing.pace(batch_id)
    async with database.transaction() as db:
        await context.sessions.authorizations.retry(db, held.session_id, actor="anna")
    await context.sessions.pacing.reconcile()
    await end_session(context, held)
    assert [row.status.value for row in await sessions_of(database, batch_id)].count("completed") == 1


async def test_remaining_time_is_estimated(context: Context, database: Database):
    batch_id = await new_batch(context, 4, max_running=4)

    async def eta() -> float | None:
        async with database.reading() as db:
            return (await queries.view_batch(db, batch_id, caller=CALLER)).eta_seconds

    assert await eta() is None
    rows = await under_way(database, batch_id)
    for row in rows[:2]:
        await end_session(context, row)
    began = utc_now() - timedelta(seconds=20)
    async with database.transaction() as db:
        for number, row in enumerate(rows[:2], start=1):
            mine = AuthorizationSession.session_id == row.session_id
            times = {"started_at": began, "completed_at": began + timedelta(seconds=number * 5)}
            await db.execute(update(AuthorizationSession).where(mine).values(times))
        await db.execute(update(Batch).values(started_at=began))
    assert await eta() == 10.0, "two took ten seconds, two are left"
    for row in rows[2:]:
        await end_session(context, row)
    await context.sessions.pacing.pace(batch_id)
    assert await eta() is None
