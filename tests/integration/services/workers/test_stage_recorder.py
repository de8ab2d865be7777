"""Stages of running attempts are written in groups: each once, in their order, and only under the lease."""

import asyncio
from collections.abc import Sequence

import pytest
import pytest_asyncio
from sqlalchemy import select

from app.clients.oauth.oauth2 import ProviderUser
from app.context import Context
from app.database import Database
from app.models import AuthorizationSession, Event, SessionStage, utc_now
from app.services.authorizations.stages import StageProgress
from app.services.interfaces import AuthorizationJob
from app.services.workers import stage_recorder
from app.services.workers.stage_recorder import StageRecorder, StageWriter
from app.utils.exceptions import DatabaseUnavailableException
from tests.fixtures.factories import AddRow, new_tokens
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

ALICE = ProviderUser(id="1", username="alice")


@pytest_asyncio.fixture
async def jobs(context: Context, add_session: AddRow) -> list[AuthorizationJob]:
    rows = [await add_session() for _ in range(3)]
    claims = [await context.sessions.runs.claim(row.session_id) for row in rows]
    return [job for job in claims if job is not None]


@pytest.fixture
def groups(context: Context, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[StageProgress]]:
    """Groups that were written."""
    written: list[Sequence[StageProgress]] = []
    write = context.sessions.runs.note_stages

    async def note(group: Sequence[StageProgress]) -> None:
        await write(group)
        written.append(group)

    monkeypatch.setattr(context.sessions.runs, "note_stages", note)
    return written


def recorders(context: Context, jobs: list[AuthorizationJob]) -> list[StageRecorder]:
    writer = StageWriter(context.sessions.runs)
    return [StageRecorder(writer, job) for job in jobs]


async def stages_of(database: Database, job: AuthorizationJob) -> list[str]:
    query = select(Event).where(Event.session_id == job.session_id).order_by(Event.id)
    async with database.reading() as db:
        return [event.data.get("stage", event.event_type) for event in await db.scalars(query)]


async def row_of(database: Database, job: AuthorizationJob) -> AuthorizationSession:
    query = select(AuthorizationSession).where(AuthorizationSession.session_id == job.session_id)
    async with database.reading() as db:
        return (await db.scalars(query)).one()


@pytest.mark.databases("sqlite", "postgresql")
async def test_stages_of_all_sessions_are_written_together_and_in_their_order(
    context: Context, database: Database, jobs: list[AuthorizationJob], groups: list[Sequence[StageProgress]]
):
    for recorder in recorders(context, jobs):
        recorder.report(SessionStage.PROFILE_STARTING)
        recorder.report(SessionStage.BROWSER_ATTACHED)
    await eventually(lambda: groups)
    assert [len(group) for group in groups] == [3]
    for job in jobs:
        row = await row_of(database, job)
        assert row.stage is SessionStage.BROWSER_ATTACHED
        assert list(row.stage_times) == ["profile_starting", "browser_attached"]
        stages = ["authorization.started", "profile_starting", "browser_attached"]
        assert await stages_of(database, job) == stages


async def test_nothing_is_written_of_a_lost_lease_and_all_of_the_others(
    context: Context, database: Database, jobs: list[AuthorizationJob], groups: list[Sequence[StageProgress]]
):
    lost, *held = jobs
    async with database.transaction() as db:
        (await db.get(AuthorizationSession, (await row_of(database, lost)).id)).lease_token = "of-another"
    before = await row_of(database, lost)
    for recorder in recorders(context, jobs):
        recorder.report(SessionStage.PROFILE_STARTING)
    await eventually(lambda: groups)
    after = await row_of(database, lost)
    assert (after.stage, after.stage_times, after.updated_at) == (None, {}, before.updated_at)
    assert await stages_of(database, lost) == ["authorization.started"]
    for job in held:
        assert await stages_of(database, job) == ["authorization.started", "profile_starting"]


async def test_waiting_for_a_person_waits_for_no_other_stage(
    context: Context,
    database: Database,
    jobs: list[AuthorizationJob],
    groups: list[Sequence[StageProgress]],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(stage_recorder, "_GATHER", 3600)
    first, second, _ = recorders(context, jobs)
    first.report(SessionStage.PROFILE_STARTING)
    await asyncio.sleep(0)
    assert not groups
    second.report(SessionStage.WAITING_FOR_PERSON)
    await eventually(lambda: groups)
    awaited = ["authorization.started", "waiting_for_person", "authorization.attention_awaited"]
    assert await stages_of(database, jobs[1]) == awaited


async def test_completion_writes_the_stages_that_are_left_before_its_own_event(
    context: Context, database: Database, jobs: list[AuthorizationJob], groups: list[Sequence[StageProgress]]
):
    recorder = recorders(context, jobs)[0]
    recorder.report(SessionStage.CODE_RECEIVED)
    runs = context.sessions.runs
    await runs.complete(jobs[0], ALICE, new_tokens(), progress=await recorder.take())
    assert await stages_of(database, jobs[0]) == [
        "authorization.started",
        "code_received",
        "credential.stored",
        "authorization.completed",
    ]
    assert list((await row_of(database, jobs[0])).stage_times) == ["code_received", "tokens_stored"]
    assert not groups


async def test_the_end_of_an_attempt_waits_for_its_stages_that_are_being_written(
    context: Context, database: Database, jobs: list[AuthorizationJob], monkeypatch: pytest.MonkeyPatch
):
    begun, go_on = asyncio.Event(), asyncio.Event()
    write = context.sessions.runs.note_stages

    async def note(group: Sequence[StageProgress]) -> None:
        begun.set()
        await go_on.wait()
        await write(group)

    monkeypatch.setattr(context.sessions.runs, "note_stages", note)
    recorder = recorders(context, jobs)[0]
    recorder.report(SessionStage.PROFILE_STARTING)
    await begun.wait()
    recorder.report(SessionStage.CODE_RECEIVED)
    taking = asyncio.create_task(recorder.take())
    await asyncio.wait([taking], timeout=0.01)
    assert not taking.done()
    go_on.set()
    progress = await taking
    assert progress is not None
    assert [stage for stage, _ in progress.news] == [SessionStage.CODE_RECEIVED]
    await context.sessions.runs.release(jobs[0], reason="tests", progress=progress)
    stages = ["authorization.started", "profile_starting", "code_received", "authorization.released"]
    assert await stages_of(database, jobs[0]) == stages


async def test_times_of_stages_outlive_an_outage(
    context: Context, database: Database, jobs: list[AuthorizationJob], monkeypatch: pytest.MonkeyPatch
):
    refused = asyncio.Event()

    async def refuse(_group: Sequence[StageProgress]) -> None:
        refused.set()
        raise DatabaseUnavailableException("it does not answer")

    monkeypatch.setattr(context.sessions.runs, "note_stages", refuse)
    recorder = recorders(context, jobs)[0]
    recorder.report(SessionStage.PROFILE_STARTING)
    await refused.wait()
    progress = await recorder.take()
    await context.sessions.runs.complete(jobs[0], ALICE, new_tokens(), progress=progress)
    assert list((await row_of(database, jobs[0])).stage_times) == ["profile_starting", "tokens_stored"]


async def test_event_tells_the_time_of_the_report(
    context: Context, database: Database, jobs: list[AuthorizationJob], groups: list[Sequence[StageProgress]]
):
    recorder = recorders(context, jobs)[0]
    before = utc_now()
    recorder.report(SessionStage.PROFILE_STARTING)
    after = utc_now()
    await eventually(lambda: groups)
    async with database.reading() as db:
        at = await db.scalar(select(Event.occurred_at).where(Event.event_type == "authorization.stage"))
    assert before <= at <= after
