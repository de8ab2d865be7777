"""The life of a worker: it goes on after failures, and ends when told to."""

import asyncio
from collections.abc import Callable

import pytest

from app.database import Database
from app.services.operations.worker_runs import PeriodicRuns
from app.services.workers.base import PeriodicWorker, Worker, WorkerGroup
from app.utils.exceptions import GoLoginAPIException
from tests.fixtures.logs import logged
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite")


class Counting(PeriodicWorker):
    """Raises `errors` one after the other, then succeeds."""

    name = "counting"

    def __init__(
        self,
        runs: PeriodicRuns,
        *errors: Exception,
        interval: float = 0.001,
        retry_interval: float | None = None,
    ) -> None:
        super().__init__(runs=runs, interval=interval, retry_interval=retry_interval)
        self.errors = list(errors)
        self.count = 0

    async def _work(self) -> None:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)


NewWorker = Callable[..., Counting]


@pytest.fixture
def runs(database: Database) -> PeriodicRuns:
    return PeriodicRuns(database=database, owner="here:1", lease_seconds=20)


@pytest.fixture
def new_worker(runs: PeriodicRuns) -> NewWorker:
    return lambda *errors, **intervals: Counting(runs, *errors, **intervals)


class Deaf(Worker):
    """Ends only when cancelled."""

    name = "deaf"

    async def run(self) -> None:
        await asyncio.Event().wait()


class Dying(Worker):
    name = "dying"

    async def run(self) -> None:
        raise RuntimeError("gone")


async def test_worker_runs_again_and_again(new_worker: NewWorker):
    worker = new_worker()
    group = WorkerGroup([worker])
    group.start()
    await eventually(lambda: worker.count >= 3)
    await group.stop(grace=5)
    assert worker.status.last_success is not None


async def test_a_stop_before_the_first_loop_is_not_lost(new_worker: NewWorker):
    worker = new_worker()
    worker.stop()
    async with asyncio.timeout(30):
        await worker.run()
    assert worker.count == 0


async def test_a_stop_wakes_a_worker_that_waits_for_its_hour(new_worker: NewWorker):
    worker = new_worker(interval=3600)
    group = WorkerGroup([worker])
    group.start()
    await eventually(lambda: worker.status.next_run)
    async with asyncio.timeout(30):
        await group.stop(grace=60)
    assert worker.count == 1


async def test_failures_are_counted_and_end_nothing(new_worker: NewWorker, caplog):
    worker = new_worker(GoLoginAPIException(500, "down"), RuntimeError(), interval=3600, retry_interval=0.001)
    group = WorkerGroup([worker])
    group.start()
    await eventually(lambda: worker.count == 3)
    await group.stop(grace=5)
    assert worker.status.consecutive_failures == 0
    assert worker.status.last_error is None
    assert len(logged(caplog, "worker.failed")) == 2


@pytest.mark.databases("sqlite", long="postgresql")
async def test_each_failure_doubles_the_time_until_the_next_try(new_worker: NewWorker):
    worker = new_worker(*[RuntimeError()] * 9, interval=60, retry_interval=10)
    waits = []
    for _ in range(5):
        waits.append(worker._retry_in())
        with pytest.raises(RuntimeError):
            await worker.run_once()
        worker._note_failure(RuntimeError())
    assert waits == [10, 20, 40, 60, 60]


@pytest.mark.databases("sqlite", long="postgresql")
async def test_a_turn_that_was_asked_for_is_taken_at_once(new_worker: NewWorker, database: Database):
    worker = new_worker(interval=3600)
    group = WorkerGroup([worker])
    group.start()
    await eventually(lambda: worker.count == 1)
    async with database.transaction() as db:
        await worker.request_run(db)
    await eventually(lambda: worker.count == 2)
    await group.stop(grace=5)


@pytest.mark.databases("sqlite", "postgresql")
async def test_run_by_hand_ignores_the_schedule_but_not_another_run(
    new_worker: NewWorker, runs: PeriodicRuns
):
    first, second = new_worker(interval=3600), new_worker(interval=3600)
    assert await first.run_once()
    assert await second.run_once()
    turn = await runs.claim("counting", force=True)
    assert not await second.run_once()
    await runs.finish("counting", turn, succeeded=True, next_in=0)
    assert await second.run_once()


async def test_last_failure_is_shown_by_its_code(new_worker: NewWorker):
    worker = new_worker(GoLoginAPIException(500, "down"), interval=3600)
    group = WorkerGroup([worker])
    group.start()
    await eventually(lambda: worker.status.consecutive_failures)
    assert (worker.status.consecutive_failures, worker.status.last_error) == (1, "GOLOGIN_API_ERROR")
    assert worker.status.last_success is None
    await group.stop(grace=5)


async def test_a_worker_that_died_is_seen(new_worker: NewWorker, caplog):
    group = WorkerGroup([new_worker(interval=3600), Dying()])
    group.start()
    assert all(each.status.alive for each in group.started)
    await eventually(lambda: not all(each.status.alive for each in group.started))
    assert [worker.status.alive for worker in group.workers] == [True, False]
    assert [line["worker"] for line in logged(caplog, "worker.died")] == ["dying"]
    await group.stop(grace=5)


async def test_worker_that_does_not_stop_within_the_grace_is_cancelled_and_named(
    new_worker: NewWorker, caplog
):
    group = WorkerGroup([new_worker(), Deaf()])
    group.start()
    async with asyncio.timeout(30):
        await group.stop(grace=0.02)
    assert [line["worker"] for line in logged(caplog, "worker.cancelled")] == ["deaf"]
    assert not any(worker.status.alive for worker in group.workers)


async def test_a_stop_without_a_start_is_fine(new_worker: NewWorker):
    await WorkerGroup([new_worker()]).stop(grace=5)
