"""Watch over the whole service: one log line a minute for operators, and the alarms that wake them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from time import monotonic
from typing import Any

from app import __version__
from app.database import Database
from app.services.fleet.reports import FleetReports
from app.services.gologin_service import GoLoginService
from app.services.operations.alarms import AlarmService, Reading
from app.services.operations.counts import count_fleet
from app.services.operations.worker_runs import PeriodicRuns
from app.services.profiles.request_budget import RequestBudget
from app.services.shared.isolation import run_steps
from app.services.workers.base import PeriodicWorker, Worker
from app.utils.logger import get_logger
from app.utils.loop_lag import LoopLag

log = get_logger(__name__)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds beyond which an alarm is raised."""

    waiting_seconds: float
    """Age of the oldest waiting session."""
    pending: int
    failures_per_hour: int
    sync_age_seconds: float
    """Since the last sync that succeeded."""


class MonitorWorker(PeriodicWorker):
    """Every minute by default, on every machine (named by `machine`): each has slots of its own.

    `workers`: those of this process.
    """

    name = "monitor"

    def __init__(
        self,
        *,
        database: Database,
        gologin: GoLoginService,
        gate: RequestBudget,
        alarms: AlarmService,
        loop_lag: LoopLag,
        thresholds: Thresholds,
        reports: FleetReports,
        workers: Callable[[], Sequence[Worker]],
        machine: str,
        runs: PeriodicRuns,
        interval: float,
    ) -> None:
        super().__init__(runs=runs, interval=interval, turn=f"{self.name}:{machine}")
        self._database = database
        self._gologin = gologin
        self._gate = gate
        self._alarms = alarms
        self._loop_lag = loop_lag
        self._thresholds = thresholds
        self._reports = reports
        self._workers = workers
        self._machine = machine
        self._slots_differed = False
        self._began = monotonic()

    async def _work(self) -> None:
        outcome = await run_steps(
            {
                "fleet": self._read_fleet,
                "gologin": self._read_gologin,
                "slots": self._read_slots,
                "report": self._write_reports,
            }
        )
        await self._alarms.update(
            {name: reading for part in outcome.values.values() for name, reading in part.items()}
        )
        outcome.raise_failure()

    async def _read_fleet(self) -> dict[str, Reading]:
        counts = await count_fleet(self._database)
        log.info(
            "monitor.snapshot",
            running_profiles=self._gologin.running_profiles,
            max_concurrent_profiles=self._gologin.max_concurrent_profiles,
            profile_starts_in_progress=self._gologin.starts.in_progress,
            profile_starts_limit=self._gologin.starts.limit,
            loop_lag_p99_ms=self._loop_lag.snapshot().p99_ms,
            **asdict(counts),
        )
        limits, waiting = self._thresholds, counts.oldest_waiting_seconds
        return {
            "waiting_too_long": Reading(
                waiting > limits.waiting_seconds,
                f"the oldest session waits for {waiting:.0f} s, alarm above {limits.waiting_seconds:g} s",
            ),
            "too_many_waiting": Reading(
                counts.pending_authorizations > limits.pending,
                f"{counts.pending_authorizations} sessions wait, alarm above {limits.pending}",
            ),
            "too_many_failures": Reading(
                counts.failures_last_hour > limits.failures_per_hour,
                f"{counts.failures_last_hour} failures in the last hour, alarm above {limits.failures_per_hour}",
            ),
            "quarantined_profiles": Reading(
                counts.quarantined_profiles > 0, f"{counts.quarantined_profiles} profiles are quarantined"
            ),
        }

    async def _read_gologin(self) -> dict[str, Reading]:
        breaker = await self._gate.state()
        age = await self._runs.seconds_since_success("sync")
        if age is None:
            age = monotonic() - self._began
        limit = self._thresholds.sync_age_seconds
        return {
            "gologin_breaker_open": Reading(breaker.is_open, breaker.reason or "closed"),
            "sync_is_old": Reading(
                age > limit, f"no sync has succeeded for {age:.0f} s, alarm above {limit:g} s"
            ),
        }

    async def _read_slots(self) -> dict[str, Reading]:
        """A slot without a lease, or a lease without a slot, on two looks in a row: one of them has leaked."""
        slots, leases = self._gologin.running_profiles, await self._gologin.count_leases()
        differs, differed = slots != leases, self._slots_differed
        self._slots_differed = differs
        detail = f"{slots} slots in use, {leases} profile leases held"
        return {f"slot_leak:{self._machine}": Reading(differs and differed, detail)}

    async def _write_reports(self) -> dict[str, Reading]:
        """Store what every process shows; it is the reading of no alarm."""
        await self._reports.store_machine(
            self._machine,
            {
                "process": self._runs.owner,
                "version": __version__,
                "max_concurrent_profiles": self._gologin.max_concurrent_profiles,
                "profile_starts_in_progress": self._gologin.starts.in_progress,
                "profile_starts_limit": self._gologin.starts.limit,
                "loop_lag_p99_ms": self._loop_lag.snapshot().p99_ms,
                "workers": [_worker_state(worker) for worker in self._workers()],
            },
        )
        await self._reports.store_fleet()
        return {}


def _worker_state(worker: Worker) -> dict[str, Any]:
    values = {"name": worker.name, **asdict(worker.status)}
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()
    }
