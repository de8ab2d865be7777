"""The life of a worker: it goes on after failures, and ends when told to."""

import asyncio

from app.services.workers.base import PeriodicWorker, Worker, WorkerGroup
from app.utils.exceptions import GoLoginAPIException
from tests.fixtures.logs import logged
from tests.fixtures.waiting import eventually


class Counting(PeriodicWorker):
    """Raises `errors` one after the other, then succeeds."""

    name = "counting"

    def __init__(
        self, *errors: Exception, interval: float = 0.001, retry_interval: float | None = None
    ) -> None:
        super().__init__(interval=interval, retry_interval=retry_interval)
        self.errors = list(errors)
        self.count = 0

    async def run_once(self) -> None:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)


class Deaf(Worker):
    """Ends only when cancelled."""

    name = "deaf"

    async def run(self) -> None:
        await asyncio.Event().wait()


class Dying(Worker):
    name = "dying"

    async def run(self) -> None:
        raise RuntimeError("gone")


async def test_it_runs_again_and_again():
    worker = Counting()
    group = WorkerGroup([worker])
    group.start()
    await eventually(lambda: worker.count >= 3)
    await group.stop(grace=5)
    assert worker.status.last_success is not None


async def test_a_stop_before_the_first_loop_is_not_lost():
    worker = Counting()
    worker.stop()
    async with asyncio.timeout(5):
        await worker.run()
    assert worker.count == 0


async def test_a_stop_wakes_a_worker_that_waits_for_its_hour():
    worker = Counting(interval=3600)
    group = WorkerGroup([worker])
    group.start()
    await eventually(lambda: worker.status.next_run)
    async with asyncio.timeout(5):
        await group.stop(grace=60)
    assert worker.count == 1


async def test_failures_are_counted_and_end_nothing(caplog):
    worker = Counting(GoLoginAPIException(500, "down"), RuntimeError(), interval=3600, retry_interval=0.001)
    group = WorkerGroup([worker])
    group.start()
    await eventually(lambda: worker.count == 3)
    await group.stop(grace=5)
    assert worker.status.consecutive_failures == 0
    assert worker.status.last_error is None
    assert len(logged(caplog, "worker.failed")) == 2


async def test_the_last_failure_is_told_by_its_code():
    worker = Counting(GoLoginAPIException(500, "down"), interval=3600)
    group = WorkerGroup([worker])
    group.start()
    await eventually(lambda: worker.status.next_run)
    assert (worker.status.consecutive_failures, worker.status.last_error) == (1, "GOLOGIN_API_ERROR")
    assert worker.status.last_success is None
    await group.stop(grace=5)


async def test_a_worker_that_died_is_seen(caplog):
    group = WorkerGroup([Counting(interval=3600), Dying()])
    group.start()
    assert group.all_alive
    await eventually(lambda: not group.all_alive)
    assert [worker.status.alive for worker in group.workers] == [True, False]
    assert [line["worker"] for line in logged(caplog, "worker.died")] == ["dying"]
    await group.stop(grace=5)


async def test_who_does_not_leave_within_the_grace_is_cancelled_and_named(caplog):
    group = WorkerGroup([Counting(), Deaf()])
    group.start()
    async with asyncio.timeout(5):
        await group.stop(grace=0.02)
    assert [line["worker"] for line in logged(caplog, "worker.cancelled")] == ["deaf"]
    assert not any(worker.status.alive for worker in group.workers)


async def test_a_stop_without_a_start_is_fine():
    await WorkerGroup([Counting()]).stop(grace=5)
