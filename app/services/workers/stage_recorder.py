"""Writes the stages of all attempts of a process in groups, behind the work and never in its way."""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from datetime import datetime
from typing import Final

from app.models import SessionStage, utc_now
from app.services.authorizations.runs import SessionRuns
from app.services.authorizations.stages import StageLog, StageProgress
from app.services.interfaces import AuthorizationJob
from app.utils.exceptions import DatabaseUnavailableException
from app.utils.logger import get_logger
from app.utils.tasks import wait_for_event

_GATHER: Final = 0.2
"""Seconds for which a stage waits for those of other sessions; a person's turn waits for none."""

log = get_logger(__name__)


class StageWriter:
    """The one writer of a process."""

    def __init__(self, runs: SessionRuns) -> None:
        self._runs = runs
        self._due: dict[str, StageLog] = {}
        """Logs with unwritten stages, by lease token."""
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._in_flight: set[str] = set()
        self._group_ended = asyncio.Event()

    def add(self, stages: StageLog, *, at_once: bool) -> None:
        """Write what was reported, soon or at once."""
        self._due[stages.job.lease_token] = stages
        if at_once:
            self._hurry.set()
        if self._task is None:
            # In a context of its own: it is for many sessions.
            self._task = asyncio.create_task(self._write_all(), context=Context())

    async def settle(self, stages: StageLog) -> None:
        """Return when nothing of this attempt is being written, or will be: what is left is the caller's."""
        token = stages.job.lease_token
        self._due.pop(token, None)
        while token in self._in_flight:
            await self._group_ended.wait()

    async def _write_all(self) -> None:
        try:
            while self._due:
                await wait_for_event(self._hurry, _GATHER)
                self._hurry.clear()
                due, self._due = self._due, {}
                if group := [taken for each in due.values() if (taken := each.take()) is not None]:
                    self._in_flight, self._group_ended = {*due}, asyncio.Event()
                    try:
                        await self._write(group)
                    finally:
                        self._in_flight = set()
                        self._group_ended.set()
        finally:
            self._task = None

    async def _write(self, group: Sequence[StageProgress]) -> None:
        try:
            await self._runs.note_stages(group)
        except Exception as error:
            is_away = isinstance(error, DatabaseUnavailableException)
            if len(group) > 1 and not is_away:  # one bad row must not fail the others
                for each in group:
                    await self._write([each])
                return
            for each in group:
                log.warning(
                    "authorization.stage_not_recorded",
                    session_id=each.job.session_id,
                    stage=each.stage,
                    exc_info=not is_away,
                )


class StageRecorder:
    """Takes the stages of one attempt."""

    def __init__(self, writer: StageWriter, job: AuthorizationJob) -> None:
        self._writer = writer
        self._stages = StageLog(job)
        self._loop = asyncio.get_running_loop()

    def report(self, stage: SessionStage) -> None:
        """Report a stage from any thread; returns at once."""
        self._loop.call_soon_threadsafe(self._note, stage, utc_now())

    async def take(self) -> StageProgress | None:
        """Return how far the attempt is, for whoever writes its end."""
        await asyncio.sleep(0)  # a report of just now is noted
        await self._writer.settle(self._stages)
        return self._stages.take()

    def restore(self, progress: StageProgress | None) -> None:
        """Take back what could not be written."""
        self._stages.restore(progress)

    def _note(self, stage: SessionStage, at: datetime) -> None:
        log.info("authorization.stage", stage=stage)
        self._stages.add(stage, at)
        self._writer.add(self._stages, at_once=stage is SessionStage.WAITING_FOR_PERSON)
