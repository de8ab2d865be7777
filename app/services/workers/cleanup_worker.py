"""Ends what nobody will end any more, and forgets what nobody will ask for."""

import asyncio

from app.services.authorizations.runs import SessionRuns
from app.services.browser.chromedriver import remove_orphaned_folders
from app.services.gologin_service import GoLoginService
from app.services.operations.retention import Retention
from app.services.operations.worker_runs import PeriodicRuns
from app.services.shared.isolation import run_steps
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
        runs: PeriodicRuns,
        interval: float,
    ) -> None:
        super().__init__(runs=runs, interval=interval)
        self._sessions = sessions
        self._gologin = gologin
        self._retention = retention

    async def _work(self) -> None:
        outcome = await run_steps(
            {
                "sessions_timed_out": self._sessions.end_overdue,
                "left_over_browsers": self._gologin.stop_orphans,
                "left_over_folders": lambda: asyncio.to_thread(remove_orphaned_folders),
                "deleted": self._retention.delete_old,
            }
        )
        deleted = outcome.values.pop("deleted", {})
        log.info("cleanup.done", **outcome.values, **deleted)
        outcome.raise_failure()
