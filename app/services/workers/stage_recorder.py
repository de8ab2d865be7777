"""Writes the stages of all attempts of a process in groups, behind the work and never in its way."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from datetime import datetime
from typing import Final

from app.models import SessionStage, utc_now
from app.services.authorizations.runs import SessionRuns
from app.services.authorizations.stages import StageLog, StageProgress
from app.services.interfaces import AuthorizationJob
from app.utils.exceptions import DatabaseBusyException, DatabaseUnavailableException
from app.utils.logger import get_logger
from app.utils.tasks import wait_for_event

_GATHER: Final = 0.2
"""Seconds for which a stage waits for those of other sessions; a person's turn waits for none."""

_SETTLE_WAIT: Final = 2.0
_AWAY_PAUSE: Final = 1.0
"""Seconds until stages are tried again while the database is away."""

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
        self._settling: set[str] = set()
        """Lease tokens of attempts whose rest is the caller's."""
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
        """Return when nothing of this attempt is being written, or will be: what is left is the caller's.

        After `_SETTLE_WAIT` seconds it returns all the same, because new tokens may wait for it; what is written later
        changes nothing once the lease has ended.
        """
        token = stages.job.lease_token
        self._due.pop(token, None)
        self._settling.add(token)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_WAIT):
                    while token in self._in_flight:
                        await self._group_ended.wait()
        finally:
            self._settling.discard(token)

    async def _write_all(self) -> None:
        try:
            while self._due:
                await wait_for_event(self._hurry, _GATHER)
                self._hurry.clear()
                due, self._due = self._due, {}
                group = [(each, taken) for each in due.values() if (taken := each.take()) is not None]
                if group:
                    self._in_flight, self._group_ended = {*due}, asyncio.Event()
                    try:
                        await self._write(group)
                    finally:
                        self._in_flight = set()
                        self._group_ended.set()
        finally:
            self._task = None

    async def _write(self, group: Sequence[tuple[StageLog, StageProgress]]) -> None:
        try:
            await self._runs.note_stages([progress for _, progress in group])
        except Exception as error:
            is_away = isinstance(error, DatabaseUnavailableException)
            if len(group) > 1 and (not is_away or isinstance(error, DatabaseBusyException)):
                for each in group:  # one bad row must not fail the others
                    await self._write([each])
                return
            for stages, progress in group:
                if is_away:  # written later, or with the attempt's end
                    stages.restore(progress)
                    if stages.job.lease_token not in self._settling:
                        self._due.setdefault(stages.job.lease_token, stages)
                log.warning(
                    "authorization.stage_not_recorded",
                    session_id=progress.job.session_id,
                    stage=progress.stage,
                    is_tried_again=is_away,
                    exc_info=not is_away,
                )
            if is_away:
                await asyncio.sleep(_AWAY_PAUSE)


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
