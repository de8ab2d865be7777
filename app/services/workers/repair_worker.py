"""Has broken accounts authorised anew."""

from app.services.authorizations.repair import TokenRepair
from app.services.operations.worker_runs import PeriodicRuns
from app.services.workers.base import PeriodicWorker
from app.utils.logger import get_logger

log = get_logger(__name__)


class TokenRepairWorker(PeriodicWorker):
    """A look at a broken account comes within `interval` seconds, from whichever process has the turn."""

    name = "repair"

    def __init__(self, *, repair: TokenRepair, runs: PeriodicRuns, interval: float) -> None:
        super().__init__(runs=runs, interval=interval)
        self._repair = repair

    async def _work(self) -> None:
        if count := await self._repair.run_once():
            log.info("credential.repairs_made", sessions=count)
