"""Background work: a `Worker` is a loop that ends when told to; a `WorkerGroup` starts, watches and stops them."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.models import utc_now
from app.utils.exceptions import AppException
from app.utils.logger import get_logger

log = get_logger(__name__)


@dataclass
class WorkerStatus:
    """What an operator wants to know of a worker."""

    alive: bool = False
    last_success: datetime | None = None
    consecutive_failures: int = 0
    last_error: str | None = None
    next_run: datetime | None = None


class Worker(ABC):
    """`run()` goes on until `stop()`; `name` is for logs and health."""

    name: str

    def __init__(self) -> None:
        self.status = WorkerStatus()
        self._stop = asyncio.Event()

    @abstractmethod
    async def run(self) -> None: ...

    def stop(self) -> None:
        """End soon: after the iteration that is under way. A stop before the first loop is not lost."""
        self._stop.set()

    def _succeeded(self) -> None:
        self.status.last_success = utc_now()
        self.status.consecutive_failures, self.status.last_error = 0, None

    def _failed(self, error: Exception) -> None:
        self.status.consecutive_failures += 1
        self.status.last_error = error.error_code if isinstance(error, AppException) else type(error).__name__

    async def _pause(self, seconds: float) -> None:
        """Wait for the stop, at most `seconds`."""
        self.status.next_run = utc_now() + timedelta(seconds=seconds)
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return


class PeriodicWorker(Worker):
    """Calls `run_once` every `interval` seconds, `retry_interval` after a failure; a failure never ends it."""

    def __init__(self, *, interval: float, retry_interval: float | None = None) -> None:
        super().__init__()
        self._interval = interval
        self._retry_interval = retry_interval or interval

    @abstractmethod
    async def run_once(self) -> None:
        """One iteration; tests and the CLI call it directly."""

    async def run(self) -> None:
        while not self._stop.is_set():
            await self._pause(self._interval if await self._iterate() else self._retry_interval)

    async def _iterate(self) -> bool:
        try:
            await self.run_once()
        except AppException as error:
            self._failed(error)
            log.warning("worker.failed", worker=self.name, error_code=error.error_code, error=error.message)
            return False
        except Exception as error:
            self._failed(error)
            log.exception("worker.failed", worker=self.name)
            return False
        self._succeeded()
        return True


class WorkerGroup:
    """The process's workers: signal all, drain all within the grace period, cancel the rest."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = workers
        self._tasks: dict[asyncio.Task[None], Worker] = {}

    def start(self) -> None:
        for worker in self.workers:
            task = asyncio.create_task(worker.run(), name=f"worker-{worker.name}")
            worker.status.alive = True
            task.add_done_callback(self._ended)
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
    def all_alive(self) -> bool:
        return all(worker.status.alive for worker in self.workers)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks[task].status.alive = False
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("worker.died", worker=self._tasks[task].name, exc_info=error)
