"""What an operator wants to see of the whole, once a minute in one log line."""

from app.services.authorization_service import AuthorizationService
from app.services.gologin_service import GoLoginService
from app.services.workers.base import PeriodicWorker
from app.utils.logger import get_logger
from app.utils.loop_lag import LoopLag

log = get_logger(__name__)


class MonitorWorker(PeriodicWorker):
    """Every minute by default."""

    name = "monitor"

    def __init__(
        self,
        *,
        authorizations: AuthorizationService,
        gologin: GoLoginService,
        loop_lag: LoopLag,
        interval: float,
    ) -> None:
        super().__init__(interval=interval)
        self._authorizations = authorizations
        self._gologin = gologin
        self._loop_lag = loop_lag

    async def run_once(self) -> None:
        counts = await self._authorizations.counts()
        log.info(
            "monitor.snapshot",
            running_profiles=self._gologin.running_profiles,
            max_concurrent_profiles=self._gologin.max_concurrent_profiles,
            pending_authorizations=counts.pending,
            running_authorizations=counts.in_progress,
            failures_last_hour=counts.failed_last_hour,
            loop_lag_p99_ms=self._loop_lag.snapshot().p99_ms,
        )
