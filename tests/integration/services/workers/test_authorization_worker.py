"""An attempt stops when its lease is lost, also while its stages are being written."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select, update

from app.context import Context
from app.database import Database
from app.models import AuthorizationSession, Event, SessionStage, SessionStatus
from app.services.authorizations.stages import StageProgress
from app.services.interfaces import AttemptSink, AuthorizationJob
from app.services.workers.authorization_worker import AuthorizationWorker
from tests.fixtures.factories import AddRow

LEASE = 1.5
"""Seconds; the worker renews three times in it."""


class EndlessAutomator:
    """Reports a stage, and waits for a browser that does not go on."""

    def __init__(self) -> None:
        self.is_stopped = False

    async def authorize_account(self, _job: AuthorizationJob, sink: AttemptSink) -> None:
        sink.report_stage(SessionStage.PROFILE_STARTING)
        try:
            await asyncio.Event().wait()
        finally:
            self.is_stopped = True


async def test_lease_lost_while_stages_are_written_stops_the_attempt(
    context: Context, database: Database, add_session: AddRow, monkeypatch: pytest.MonkeyPatch
):
    begun, go_on, written = asyncio.Event(), asyncio.Event(), asyncio.Event()
    sessions = context.sessions
    write = sessions.runs.note_stages

    async def note(group: Sequence[StageProgress]) -> None:
        begun.set()
        await go_on.wait()
        await write(group)
        written.set()

    monkeypatch.setattr(sessions.runs, "note_stages", note)
    automator: Any = EndlessAutomator()
    worker = AuthorizationWorker(
        runs=sessions.runs,
        batches=sessions.pacing,
        automator=automator,
        gologin=context.fleet.gologin,
        queue=sessions.queue,
        lease_seconds=LEASE,
        grace=5,
    )
    row = await add_session()
    running = asyncio.create_task(worker.authorize(row.session_id))
    await begun.wait()
    this_session = AuthorizationSession.session_id == row.session_id
    async with database.transaction() as db:
        await db.execute(update(AuthorizationSession).where(this_session).values(lease_token="of-another"))

    async with asyncio.timeout(60):
        assert await running is None
    assert automator.is_stopped
    go_on.set()
    await written.wait()
    async with database.reading() as db:
        after = (await db.scalars(select(AuthorizationSession).where(this_session))).one()
        events = select(Event.event_type).where(Event.session_id == row.session_id).order_by(Event.id)
        assert list(await db.scalars(events)) == ["authorization.started"]
    assert (after.status, after.lease_token) == (SessionStatus.IN_PROGRESS, "of-another")
    assert (after.stage, after.stage_times) == (None, {})
