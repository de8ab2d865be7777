"""Writes the stages of one attempt in their order, behind the work and never in its way."""

import asyncio
from datetime import datetime
from types import TracebackType
from typing import Self

from app.models import SessionStage, utc_now
from app.services.authorizations.runs import SessionRuns
from app.services.interfaces import AuthorizationJob
from app.utils.exceptions import DatabaseUnavailableException, LeaseLostException
from app.utils.logger import get_logger

log = get_logger(__name__)


class StageRecorder:
    """A context manager around the attempt; on exit everything reported has been written."""

    def __init__(self, runs: SessionRuns, job: AuthorizationJob) -> None:
        self._runs = runs
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._reported: asyncio.Queue[tuple[SessionStage, datetime]] = asyncio.Queue()

    def report(self, stage: SessionStage) -> None:
        """Report a stage from any thread; returns at once."""
        self._loop.call_soon_threadsafe(self._reported.put_nowait, (stage, utc_now()))

    async def flush(self) -> None:
        """Wait until all that was reported is written."""
        await self._reported.join()

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.flush()
        finally:
            self._writer.cancel()
            await asyncio.wait([self._writer])

    async def _write(self) -> None:
        while True:
            stage, at = await self._reported.get()
            try:
                log.info("authorization.stage", stage=stage)
                await self._runs.note_stage(self._job, stage, at)
            except LeaseLostException:
                pass  # the lease's heartbeat ends the attempt
            except DatabaseUnavailableException:
                log.warning("authorization.stage_not_recorded", stage=stage)
            except Exception:
                log.exception("authorization.stage_not_recorded", stage=stage)
            finally:
                self._reported.task_done()
