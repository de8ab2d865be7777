"""Ends what nobody will end any more."""

from app.services.authorization_service import AuthorizationService
from app.services.workers.base import PeriodicWorker
from app.utils.logger import get_logger

log = get_logger(__name__)


class CleanupWorker(PeriodicWorker):
    """Hourly by default: sessions that run or wait for too long become ``timeout``."""

    name = "cleanup"

    def __init__(self, *, authorizations: AuthorizationService, interval: float) -> None:
        super().__init__(interval=interval)
        self._authorizations = authorizations

    async def run_once(self) -> None:
        if ended := await self._authorizations.end_overdue():
            log.warning("cleanup.sessions_timed_out", sessions=ended)
