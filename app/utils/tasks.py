"""Small asyncio helpers."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most `seconds`; whether it happened."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


async def run_until(event: asyncio.Event, work: Coroutine[Any, Any, object]) -> None:
    """Run `work` to its end, or cancel it when the event happens. Raises what it raises."""
    tasks = (asyncio.ensure_future(work), asyncio.create_task(event.wait()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_shielded(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end even when the caller is cancelled meanwhile; the cancellation then goes on.

    For clean-up that must not be left half-done. `work` must have deadlines of its own.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except Exception:
            break  # raised again by result() below
    if cancelled is not None:
        if task.exception() is not None:
            raise cancelled from task.exception()
        raise cancelled
    return task.result()


class SingleFlight(Generic[K, T]):
    """Work that many ask for at once is done once, and goes on when those who asked have left."""

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Task[T]] = {}

    async def share(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the work under `key`, which begins now unless it is under way. Raises what it raises."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(work())
            task.add_done_callback(lambda finished: self._note_end(key, finished))
        return await asyncio.shield(task)

    async def cancel(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _note_end(self, key: K, task: asyncio.Task[T]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # looked at, should nobody have stayed to hear of it
