"""A wave is never too wide and never dries up; a batch stops once, whoever sees it, and always comes to its end."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import update

from app.context import Context
from app.database import Database
from app.models import AuthorizationSession, BatchStatus, SessionStatus, utc_now
from app.services.authorizations.waiters import SessionWaiters
from app.services.batches import pacing
from app.services.batches.pacing import BatchPacing
from app.utils.exceptions import (
    BrowserCrashedException,
    ConsentDeclinedException,
    InvalidClientException,
    LoginRequiredException,
)
from tests.fixtures.batches import (
    end_session,
    events_of,
    input_rows,
    new_batch,
    place_batch,
    read_batch,
    sessions_of,
    under_way,
)
from tests.fixtures.factories import CALLER
from tests.fixtures.logs import logged
from tests.fixtures.services import OpenContext
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


async def test_a_wave_is_released_and_each_end_releases_the_next(context: Context, database: Database):
    batch_id = await new_batch(context, 5, max_running=2)
    for expected in (["a000", "a001"], ["a001", "a002"], ["a002", "a003"], ["a003", "a004"], ["a004"]):
        rows = await under_way(database, batch_id)
        assert [row.account_id for row in rows] == expected
        await end_session(context, rows[0])
        await context.sessions.pacing.pace(batch_id)
    batch = await read_batch(database, batch_id)
    assert batch.status is BatchStatus.COMPLETED
    (completed,) = await events_of(database, "batch.completed")
    assert completed.data["counts"] == {"completed": 5}


async def test_held_sessions_are_not_claimed(context: Context, database: Database):
    batch_id = await new_batch(context, 2, max_running=1)
    (held,) = await sessions_of(database, batch_id, held=True)
    assert await context.sessions.runs.claim(held.session_id) is None
    assert await context.sessions.runs.deliver_waiting() == 1


async def test_an_end_wakes_the_batch_by_itself(context: Context, database: Database):
    batch_id = await new_batch(context, 3, max_running=1)

    async def has_moved_on() -> bool:
        is_complete = (await read_batch(database, batch_id)).completed_at is not None
        return is_complete or bool(await under_way(database, batch_id))

    for _ in range(3):
        (row,) = await under_way(database, batch_id)
        await end_session(context, row, ConsentDeclinedException("x"))
        await eventually(has_moved_on)
    assert (await read_batch(database, batch_id)).status is BatchStatus.COMPLETED


@pytest.mark.databases("sqlite", "postgresql")
async def test_two_simultaneous_ends_release_two_sessions(
    open_services: OpenContext, context: Context, database: Database
):
    """Seen by two processes, each of which looks several times."""
    batch_id = await new_batch(context, 12, max_running=4)
    async with open_services() as other:
        rows = await under_way(database, batch_id)
        await asyncio.gather(end_session(context, rows[0]), end_session(other, rows[1]))
        await asyncio.gather(
            *(each.sessions.pacing.pace(batch_id) for each in (context, other) for _ in range(4))
        )
        assert len(await under_way(database, batch_id)) == 4
        assert len(await sessions_of(database, batch_id, held=True)) == 6


async def test_a_kill_between_an_end_and_the_next_release_is_made_up_for(
    open_services: OpenContext, context: Context, database: Database, monkeypatch: pytest.MonkeyPatch
):
    batch_id = await new_batch(context, 3, max_running=1)
    monkeypatch.setattr(context.sessions.pacing, "wake", lambda batch_id: None)
    await end_session(context, (await under_way(database, batch_id))[0])
    assert await under_way(database, batch_id) == []
    async with open_services() as other:
        await other.sessions.pacing.reconcile()
        assert await other.sessions.runs.deliver_waiting() == 1
    assert [row.account_id for row in await under_way(database, batch_id)] == ["a001"]


async def test_batch_that_cannot_be_paced_does_not_block_others(
    context: Context, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    batch_id = await new_batch(context, 2, max_running=1)

    async def fail(_session: object, _batch: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(pacing, "_complete", fail)
    await context.sessions.pacing.reconcile()
    assert await context.sessions.runs.deliver_waiting() == 1
    assert {line["batch_id"] for line in logged(caplog, "batch.not_paced")} == {batch_id}


async def test_session_that_waits_for_its_next_attempt_keeps_its_place(context: Context, database: Database):
    batch_id = await new_batch(context, 3, max_running=1)
    (row,) = await under_way(database, batch_id)
    await end_session(context, row, BrowserCrashedException())
    await context.sessions.pacing.pace(batch_id)
    (waiting,) = await under_way(database, batch_id)
    assert (waiting.session_id, waiting.attempts) == (row.session_id, 1)


async def test_held_sessions_that_were_cancelled_or_have_expired_leave_no_gap(
    context: Context, database: Database
):
    batch_id = await new_batch(context, 6, max_running=2)
    held = await sessions_of(database, batch_id, held=True)
    released = await under_way(database, batch_id)
    async with database.transaction() as db:
        await context.sessions.authorizations.cancel(db, held[0].session_id, actor="anna")
        late = [held[1].session_id, released[0].session_id]
        await db.execute(
            update(AuthorizationSession)
            .where(AuthorizationSession.session_id.in_(late))
            .values(expires_at=utc_now() - timedelta(seconds=1))
        )
    await context.sessions.pacing.pace(batch_id)
    assert [row.account_id for row in await under_way(database, batch_id)] == ["a000", "a001", "a004"]
    assert await context.sessions.runs.end_overdue() == 2
    await context.sessions.pacing.pace(batch_id)
    for _ in range(3):
        await end_session(context, (await under_way(database, batch_id))[0])
        await context.sessions.pacing.pace(batch_id)
    batch = await read_batch(database, batch_id)
    (completed,) = await events_of(database, "batch.completed")
    assert (batch.status, completed.data["counts"]) == (
        BatchStatus.COMPLETED,
        {"cancelled": 1, "completed": 3, "timeout": 2},
    )


async def test_too_many_recent_failures_stop_the_batch(context: Context, database: Database):
    batch_id = await new_batch(context, 20, max_running=6, stop_percent=50, stop_window=4)
    errors = [None, None, None, ConsentDeclinedException("x"), LoginRequiredException("x")]
    for error in errors:  # two of the last four: not more than half
        await end_session(context, (await under_way(database, batch_id))[0], error)
        await context.sessions.pacing.pace(batch_id)
    assert (await read_batch(database, batch_id)).status is BatchStatus.RUNNING
    running = (await under_way(database, batch_id))[:2]
    jobs = [await context.sessions.runs.claim(row.session_id) for row in running]
    await end_session(context, (await under_way(database, batch_id))[2], ConsentDeclinedException("x"))
    await context.sessions.pacing.pace(batch_id)

    batch = await read_batch(database, batch_id)
    assert (batch.status, batch.completed_at) == (BatchStatus.STOPPED, None)
    assert batch.reason == "3 of the last 4 sessions failed, more than 50 %"
    (stopped,) = await events_of(database, "batch.stopped")
    assert stopped.data["reason"] == batch.reason
    assert stopped.data["counts"] == {
        "completed": 3, "failed": 2, "needs_attention": 1, "in_progress": 2, "pending": 12,
    }  # fmt: skip
    cancelled = await sessions_of(database, batch_id, SessionStatus.CANCELLED)
    assert [row.error_code for row in cancelled] == ["BATCH_STOPPED"] * 12
    assert await context.sessions.runs.find_lost(jobs) == set(), "what runs runs on"
    for job in jobs:
        await context.sessions.runs.fail(job, LoginRequiredException("x"))
        await context.sessions.pacing.pace(batch_id)
    batch = await read_batch(database, batch_id)
    assert batch.status is BatchStatus.STOPPED
    assert batch.completed_at is not None
    assert len(await events_of(database, "batch.completed")) == 1


async def test_cancelled_sessions_do_not_count_for_the_stop(context: Context, database: Database):
    batch_id = await new_batch(context, 8, max_running=8, stop_percent=0, stop_window=2)
    rows = await under_way(database, batch_id)
    async with database.transaction() as db:
        for row in rows[:3]:
            await context.sessions.authorizations.cancel(db, row.session_id, actor="anna")
    await end_session(context, rows[3])
    await context.sessions.pacing.pace(batch_id)
    await end_session(context, rows[4])
    await context.sessions.pacing.pace(batch_id)
    assert (await read_batch(database, batch_id)).status is BatchStatus.RUNNING


@pytest.mark.databases("sqlite", "postgresql")
async def test_batch_stops_once_however_many_processes_see_its_failures(
    open_services: OpenContext, context: Context, database: Database
):
    batch_id = await new_batch(context, 30, max_running=8, stop_percent=50, stop_window=8)
    async with open_services() as other:
        rows = await under_way(database, batch_id)
        await asyncio.gather(
            *(
                end_session((context, other)[number % 2], row, ConsentDeclinedException("x"))
                for number, row in enumerate(rows)
            )
        )
        await asyncio.gather(
            *(each.sessions.pacing.pace(batch_id) for each in (context, other) for _ in range(4))
        )
    assert len(await events_of(database, "batch.stopped")) == 1
    assert len(await events_of(database, "batch.completed")) == 1
    assert len(await events_of(database, "authorization.cancelled")) == 22
    assert len(await events_of(database, "authorization.started")) == 8


async def test_an_app_that_is_paused_stops_the_batch(open_services: OpenContext, database: Database):
    async with open_services(app_pause_after=2) as context:
        batch_id = await new_batch(context, 6, max_running=2)
        for _ in range(2):
            (row, *_) = await under_way(database, batch_id)
            await end_session(context, row, InvalidClientException(401, "no"))
            await context.sessions.pacing.pace(batch_id)
    batch = await read_batch(database, batch_id)
    assert batch.status is BatchStatus.STOPPED
    assert batch.reason == "the OAuth app AIOTT1 is paused (INVALID_CLIENT 2 times in a row)"
    statuses = [row.status.value for row in await sessions_of(database, batch_id)]
    assert (statuses.count("failed"), statuses.count("cancelled")) == (2, 4)


async def test_a_stop_that_was_cut_off_goes_on_elsewhere(
    open_services: OpenContext, context: Context, database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(context.sessions.pacing, "wake", lambda batch_id: None)
    batch_id = await new_batch(context, 9, max_running=1)
    async with database.transaction() as db:
        await context.sessions.batches.cancel(db, batch_id, caller=CALLER)
    dying = BatchPacing(
        database=database, queue=context.sessions.queue, waiters=SessionWaiters(), cancelled_at_once=2
    )
    await dying.step(batch_id)
    assert len(await sessions_of(database, batch_id, SessionStatus.CANCELLED)) == 2
    async with open_services() as other:
        await other.sessions.pacing.reconcile()
    assert len(await sessions_of(database, batch_id, SessionStatus.CANCELLED)) == 9
    assert (await read_batch(database, batch_id)).completed_at is not None


async def test_old_failures_do_not_stop_what_was_tried_again(context: Context, database: Database):
    batch_id = await new_batch(context, 6, max_running=2, stop_percent=50, stop_window=2)
    for row in await under_way(database, batch_id):
        await end_session(context, row, LoginRequiredException("x"))
    await context.sessions.pacing.pace(batch_id)
    assert (await read_batch(database, batch_id)).status is BatchStatus.STOPPED
    async with database.transaction() as db:
        await context.sessions.batches.retry(db, batch_id, caller=CALLER)
    await context.sessions.pacing.pace(batch_id)
    await end_session(context, (await under_way(database, batch_id))[0])
    await context.sessions.pacing.pace(batch_id)
    assert (await read_batch(database, batch_id)).status is BatchStatus.RUNNING


async def test_batch_of_open_sessions_alone_is_complete(context: Context, database: Database):
    first = await new_batch(context, 2)
    rows = await sessions_of(database, first)
    placed = await place_batch(context, input_rows(*(row.account_id for row in rows)))
    await context.sessions.pacing.pace(placed.batch_id)
    assert (await read_batch(database, placed.batch_id)).status is BatchStatus.COMPLETED
