"""Clean-up that a cancellation does not cut short."""

import asyncio

import pytest

from app.utils.tasks import uninterrupted


async def test_the_result_is_passed_on():
    async def work() -> int:
        return 7

    assert await uninterrupted(work()) == 7


async def test_an_error_is_passed_on():
    async def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await uninterrupted(work())


async def test_cancelled_twice_the_work_still_ends_and_the_cancellation_goes_on():
    started, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        await go_on.wait()
        done.set()

    task = asyncio.create_task(uninterrupted(work()))
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

    task = asyncio.create_task(uninterrupted(work()))
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
