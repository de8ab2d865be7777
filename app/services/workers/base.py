"""Background work: a `Worker` is a loop that ends when told to; a `WorkerGroup` starts, watches and stops them."""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final

from sqlalchemy.ext.asyncio import AsyncSession

from app.database import after_commit
from app.models import utc_now
from app.services.operations.worker_runs import JobLease, PeriodicRuns
from app.services.shared.leases import keep_alive
from app.utils.exceptions import AppException
from app.utils.logger import get_logger
from app.utils.tasks import run_shielded, wait_for_event
from app.utils.waits import retry_delay

_POLL_INTERVAL: Final = 5.0
"""Seconds between two looks at whose turn it is: another process may have asked for it."""

log = get_logger(__name__)


@dataclass
class WorkerStatus:
    """State of a worker, for operators."""

    alive: bool = False
    last_success: datetime | None = None
    """Time of the last success in any process."""
    consecutive_failures: int = 0
    """Failures in a row in this process."""
    last_error: str | None = None
    next_run: datetime | None = None


class Worker(ABC):
    """`run()` goes on until `stop()`; `name` is for logs and health."""

    name: str
    is_maintenance: ClassVar[bool] = True
    """The process is of no use when it fails again and again; False of one that needs an outsider's answer."""

    def __init__(self) -> None:
        self.status = WorkerStatus()
        self._failures: Counter[str] = Counter()
        """Failures in a row, by step."""
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()

    @abstractmethod
    async def run(self) -> None: ...

    def stop(self) -> None:
        """End soon: after the iteration that is under way. A stop before the first loop is not lost."""
        self._stop.set()
        self._wake.set()

    def wake(self) -> None:
        """Look at once whether there is something to do. A wake before the pause is not lost."""
        self._wake.set()

    async def _run_guarded(self, work: Callable[[], Awaitable[int]], *, step: str = "") -> int:
        """Run `work`, recording success or failure in `status`; return its count, 0 on failure."""
        try:
            result = await work()
        except Exception as error:  # the database is away
            self._note_failure(error, step=step)
            return 0
        self._note_success(step=step)
        return result

    def _note_success(self, *, step: str = "") -> None:
        """`step`: of a worker with several; the success of one hides no failure of another."""
        self.status.last_success = utc_now()
        self._failures.pop(step, None)
        self.status.consecutive_failures = max(self._failures.values(), default=0)
        if not self._failures:
            self.status.last_error = None

    def _note_failure(self, error: Exception, *, step: str = "") -> None:
        self._failures[step] += 1
        self.status.consecutive_failures = max(self._failures.values())
        self.status.last_error = error.error_code if isinstance(error, AppException) else type(error).__name__
        if isinstance(error, AppException):
            log.warning("worker.failed", worker=self.name, error_code=error.error_code, error=error.message)
        else:
            log.error("worker.failed", worker=self.name, exc_info=error)

    async def _pause(self, seconds: float) -> None:
        """Wait for the stop or a wake, at most `seconds`."""
        if await wait_for_event(self._wake, seconds) and not self._stop.is_set():
            self._wake.clear()


class PeriodicWorker(Worker):
    """Does its work every `interval` seconds, once over all processes that share the database.

    After a failure it comes back in `retry_interval` seconds, twice that after the next, and so on up to `interval`; a
    failure never ends it.
    """

    def __init__(
        self,
        *,
        runs: PeriodicRuns,
        interval: float,
        retry_interval: float | None = None,
        turn: str | None = None,
    ) -> None:
        """`turn`: whose turns are taken in common; by default all workers of the same name."""
        super().__init__()
        self._turn = turn or self.name
        self._runs = runs
        self._interval = interval
        self._retry_interval = retry_interval or interval

    @abstractmethod
    async def _work(self) -> None:
        """One iteration."""

    async def run_once(self) -> bool:
        """One iteration now, due or not; False when another process is at it. Raises what the work raises."""
        turn = await self._runs.claim(self._turn, force=True)
        if turn is None:
            return False
        await self._run_with_lease(turn)
        return True

    async def request_run(self, db: AsyncSession) -> None:
        """Once the caller's transaction has committed: be due now, in whichever process looks first."""
        await self._runs.make_due(db, self._turn)
        after_commit(db, self.wake)

    async def run(self) -> None:
        while not self._stop.is_set():
            try:
                pause = await self._if_due()
            except Exception as error:  # the database is away
                self._note_failure(error)
                pause = _POLL_INTERVAL
            await self._pause(pause)

    async def _if_due(self) -> float:
        """Work if it is time and our turn; seconds until the next look."""
        if (wait := await self._seconds_until_due()) > 0:
            return min(wait, _POLL_INTERVAL)
        turn = await self._runs.claim(self._turn)
        if turn is None:
            return _POLL_INTERVAL
        try:
            await self._run_with_lease(turn)
        except Exception as error:
            self._note_failure(error)
        return min(await self._seconds_until_due(), _POLL_INTERVAL)

    async def _seconds_until_due(self) -> float:
        """Read the schedule into the status; return the seconds until the next run, 0 when it is due."""
        schedule = await self._runs.schedule(self._turn)
        self.status.next_run, self.status.last_success = schedule.next_run, schedule.last_success
        return max(0.0, (schedule.next_run - utc_now()).total_seconds())

    async def _run_with_lease(self, turn: JobLease) -> None:
        """The work under the turn's lease; the next turn is due in `interval`, sooner after a failure."""
        next_in, succeeded = self._retry_in(), False
        try:
            async with keep_alive(
                lambda: self._runs.renew(self._turn, turn), seconds=self._runs.lease_seconds
            ):
                await self._work()
            next_in, succeeded = self._interval, True
            self._note_success()
        except asyncio.CancelledError:
            next_in = 0.0  # stopped in the middle: whoever is next may go on at once
            raise
        finally:
            await run_shielded(self._runs.finish(self._turn, turn, succeeded=succeeded, next_in=next_in))

    def _retry_in(self) -> float:
        attempt = self.status.consecutive_failures + 1
        return retry_delay(attempt, base=self._retry_interval, ceiling=self._interval)


class WorkerGroup:
    """The process's workers: signal all, drain all within the grace period, cancel the rest."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = workers
        self.died = asyncio.Event()
        """Set when one has ended by an error: it does not come back."""
        self._tasks: dict[asyncio.Task[None], Worker] = {}

    def get(self, name: str) -> Worker | None:
        return next((worker for worker in self.workers if worker.name == name), None)

    def start(self) -> None:
        for worker in self.workers:
            task = asyncio.create_task(worker.run(), name=f"worker-{worker.name}")
            worker.status.alive = True
            task.add_done_callback(self._note_end)
            self._tasks[task] = worker

    def signal_stop(self) -> None:
        for worker in self.workers:
            worker.stop()

    async def stop(self, *, grace: float) -> None:
        """Seconds of `grace` for all together."""
        self.signal_stop()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=grace)
        for task in late:
            log.warning("worker.cancelled", worker=self._tasks[task].name, grace_seconds=grace)
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def started(self) -> list[Worker]:
        """Workers of this process; none in a process that leaves the work to others."""
        return list(self._tasks.values())

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks[task].status.alive = False
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("worker.died", worker=self._tasks[task].name, exc_info=error)
            self.died.set()
