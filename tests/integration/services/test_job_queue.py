"""Deliveries from the engine itself, in memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from app.services.job_queue import JobQueue, Waiting
from tests.fixtures.waiting import eventually

Handler = Callable[[str], Awaitable[float | None]]


@asynccontextmanager
async def delivering(queue: JobQueue, handle: Handler) -> AsyncIterator[None]:
    running = asyncio.create_task(queue.run(handle))
    try:
        yield
    finally:
        queue.stop()
        async with asyncio.timeout(10):
            await running


def waiting(*ids: tuple[str, int]) -> list[Waiting]:
    """Pairs of an id and how urgent it is."""
    return [Waiting(session_id, 1.7e9 - 600 * urgency, None) for session_id, urgency in ids]


def collector() -> tuple[list[str], Handler]:
    handled: list[str] = []

    async def handle(session_id: str) -> None:
        handled.append(session_id)

    return handled, handle


async def test_higher_priorities_come_first_and_equals_in_their_order():
    queue = JobQueue(concurrency=1)
    handled, handle = collector()
    await queue.submit_all(waiting(("low", 1), ("middle-1", 5), ("high", 9), ("middle-2", 5)))
    async with delivering(queue, handle):
        await eventually(lambda: len(handled) == 4)
    assert handled == ["high", "middle-1", "middle-2", "low"]


async def test_one_that_waits_already_is_not_doubled():
    queue = JobQueue(concurrency=1)
    handled, handle = collector()
    await queue.submit_all(waiting(("a", 5), ("b", 5)))
    await queue.submit_all(waiting(("a", 5), ("last", 1)))
    async with delivering(queue, handle):
        await eventually(lambda: "last" in handled)
    assert handled == ["a", "b", "last"]


async def test_one_that_was_delivered_can_come_again():
    queue = JobQueue(concurrency=1)
    handled, handle = collector()
    async with delivering(queue, handle):
        await queue.submit_all(waiting(("a", 5)))
        await eventually(lambda: handled == ["a"])
        # the engine forgets a job a moment after its handler has returned
        async with asyncio.timeout(10):
            while handled != ["a", "a"]:
                await queue.submit_all(waiting(("a", 5)))
                await asyncio.sleep(0)


async def test_a_handler_that_asks_for_it_is_called_again():
    queue = JobQueue(concurrency=1)
    handled: list[str] = []

    async def handle(session_id: str) -> float | None:
        handled.append(session_id)
        return 0.01 if len(handled) < 3 else None

    async with delivering(queue, handle):
        queue.submit(*waiting(("a", 5)))
        await eventually(lambda: len(handled) == 3)
    assert handled == ["a"] * 3


async def test_no_more_than_the_limit_at_once():
    queue = JobQueue(concurrency=2)
    running, most, done = 0, 0, 0

    async def handle(_session_id: str) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await eventually(lambda: running == 2 or done == 4)
        await asyncio.sleep(0)
        running -= 1
        done += 1

    await queue.submit_all(waiting(*((str(number), 5) for number in range(5))))
    async with delivering(queue, handle):
        await eventually(lambda: done == 5)
    assert most == 2


async def test_a_handler_that_fails_stops_nobody_else():
    queue = JobQueue(concurrency=1)
    handled: list[str] = []

    async def handle(session_id: str) -> None:
        handled.append(session_id)
        if session_id == "bad":
            raise RuntimeError

    await queue.submit_all(waiting(("bad", 9), ("good", 1)))
    async with delivering(queue, handle):
        await eventually(lambda: "good" in handled)
    assert handled == ["bad", "good"]


async def test_stopped_it_delivers_nothing_more_and_waits_for_what_runs():
    queue = JobQueue(concurrency=1)
    started, go_on = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def handle(session_id: str) -> None:
        started.set()
        await go_on.wait()
        ended.append(session_id)

    await queue.submit_all(waiting(("first", 9), ("second", 1)))
    running = asyncio.create_task(queue.run(handle))
    await started.wait()
    queue.stop()
    await asyncio.sleep(0)
    assert not running.done()
    go_on.set()
    async with asyncio.timeout(10):
        await running
    assert ended == ["first"]


async def test_a_stop_before_the_start_is_not_lost():
    queue = JobQueue(concurrency=1)
    handled, handle = collector()
    queue.stop()
    async with asyncio.timeout(10):
        await queue.run(handle)
    assert handled == []


async def test_nothing_to_submit_is_fine():
    await JobQueue(concurrency=1).submit_all([])
