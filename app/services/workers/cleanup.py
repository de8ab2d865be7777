"""Ends what nobody will end any more, and forgets what nobody will ask for."""

import asyncio

from app.services.chromedriver import remove_left_over_folders
from app.services.gologin_service import GoLoginService
from app.services.retention import Retention
from app.services.session_runs import SessionRuns
from app.services.worker_runs import WorkerRuns
from app.services.workers.base import PeriodicWorker
from app.utils.logger import get_logger

log = get_logger(__name__)


class CleanupWorker(PeriodicWorker):
    """Hourly by default: overdue sessions become ``timeout``, left-overs of dead processes go, old rows are deleted."""

    name = "cleanup"

    def __init__(
        self,
        *,
        sessions: SessionRuns,
        gologin: GoLoginService,
        retention: Retention,
        runs: WorkerRuns,
        interval: float,
    ) -> None:
        super().__init__(runs=runs, interval=interval)
        self._sessions = sessions
        self._gologin = gologin
        self._retention = retention

    async def _work(self) -> None:
        timed_out = await self._sessions.end_overdue()
        left_overs = await self._gologin.stop_left_overs()
        folders = await asyncio.to_thread(remove_left_over_folders)
        deleted = await self._retention.delete_old()
        log.info(
            "cleanup.done",
            sessions_timed_out=timed_out,
            left_over_browsers=left_overs,
            left_over_folders=folders,
            **deleted,
        )
