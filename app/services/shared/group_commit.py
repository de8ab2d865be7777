"""Groups: what many callers write, or look up, at once goes into few transactions; each waits for its own result."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from typing import Final, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.utils.exceptions import DatabaseUnavailableException

T = TypeVar("T")
R = TypeVar("R")

GROUP_TASK: Final = "group"
"""Name of the tasks that run groups."""
_MAX_GROUP: Final = 200
"""Ceiling of writes in one transaction, so that it stays short."""
_PATIENCE: Final = 0.1
"""Seconds after which those that came meanwhile form a group beside the one that is under way, if it may."""


class GroupCommit(Generic[T, R]):
    """Writes that share transactions: those that come during one go into the next; none waits for others to come.

    `write` puts items into an open transaction and returns a result for each, in their order. When it raises, each
    item is written by itself. `at_once`: ceiling of groups at once, for writes that may wait for a lock.
    """

    def __init__(
        self,
        *,
        database: Database,
        write: Callable[[AsyncSession, Sequence[T]], Awaitable[Sequence[R]]],
        at_once: int = 1,
    ) -> None:
        self._database = database
        self._write = write
        self._at_once = at_once
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()
        """Tasks that run a group for longer than `_PATIENCE`."""

    async def add(self, item: T) -> R:
        """The result of `item`, once it is committed. Raises what `write` or the commit raises of it alone.

        A caller who leaves takes nothing with him: the item is written all the same.
        """
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        self._start_if_needed()
        return await result

    async def wait_for_all(self) -> None:
        """Wait until everything that was added is written, or refused."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def _begin(self) -> AbstractAsyncContextManager[AsyncSession]:
        return self._database.transaction()

    def _start_if_needed(self) -> None:
        if self._waiting and len(self._late) == len(self._under_way) < self._at_once:
            # In a context of its own: a group is of many requests.
            task = asyncio.create_task(self._write_all(), name=GROUP_TASK, context=Context())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _write_all(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while self._waiting:
            group, self._waiting = self._waiting[:_MAX_GROUP], self._waiting[_MAX_GROUP:]
            patience = asyncio.get_running_loop().call_later(_PATIENCE, self._note_late, task)
            try:
                await self._write_group(group)
            finally:
                patience.cancel()
                self._late.discard(task)
        # Now, not in a callback: what is added until then would wait for nobody.
        self._under_way.discard(task)

    def _note_late(self, task: "asyncio.Task[None]") -> None:
        self._late.add(task)
        self._start_if_needed()

    async def _write_group(self, group: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            async with self._begin() as db:
                results = await self._write(db, [item for item, _ in group])
        except Exception as error:
            # One bad item must not fail the others: each by itself, unless the database is away for all.
            if len(group) > 1 and not isinstance(error, DatabaseUnavailableException):
                for one in group:
                    await self._write_group([one])
                return
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():  # its caller has left
                future.set_result(result)


class GroupLookUp(GroupCommit[T, R]):
    """Look-ups that share queries. A group begins after its items came, so each sees all that was committed before."""

    def _begin(self) -> AbstractAsyncContextManager[AsyncSession]:
        return self._database.reading()
