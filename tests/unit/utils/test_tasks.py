"""Waits and clean-up that neither lose a cancellation nor are cut short by one."""

import asyncio

import pytest

from app.utils.tasks import SingleFlight, run_shielded, wait_for_event


@pytest.mark.parametrize("ticks", range(5))
async def test_a_cancellation_that_comes_with_the_event_is_not_lost(ticks: int):
    event = asyncio.Event()
    task = asyncio.create_task(wait_for_event(event, 60))
    while not event._waiters:
        await asyncio.sleep(0)
    event.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    is_asked = task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() == is_asked


async def test_an_event_happens_in_time_or_not():
    event = asyncio.Event()
    assert not await wait_for_event(event, 0)
    assert not await wait_for_event(event, 0.001)
    event.set()
    assert await wait_for_event(event, 0)


async def test_the_result_is_passed_on():
    async def work() -> int:
        return 7

    assert await run_shielded(work()) == 7


async def test_an_error_is_passed_on():
    async def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await run_shielded(work())


async def test_work_cancelled_twice_still_ends_and_the_cancellation_continues():
    started, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        await go_on.wait()
        done.set()

    task = asyncio.create_task(run_shielded(work()))
    await started.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_a_cancellation_is_not_replaced_by_an_error_of_the_work():
    started, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        await go_on.wait()
        raise KeyError("x")

    task = asyncio.create_task(run_shielded(work()))
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_shared_work_is_done_once_and_outlives_its_first_caller():
    flight: SingleFlight[str, int] = SingleFlight()
    begun, go_on = 0, asyncio.Event()

    async def work() -> int:
        nonlocal begun
        begun += 1
        await go_on.wait()
        return begun

    first, second = (asyncio.create_task(flight.share("a", work)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    go_on.set()
    assert (await second, first.cancelled()) == (1, True)
    assert await flight.share("a", work) == 2, "the next one begins anew"
