"""Groups: what many callers write, or look up, at once goes into few transactions; each waits for its own result."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from typing import Any, Final, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.utils.exceptions import DatabaseBusyException, DatabaseUnavailableException
from app.utils.logger import get_logger

T = TypeVar("T")
R = TypeVar("R")

log = get_logger(__name__)

GROUP_TASK: Final = "group"
"""Name of the tasks that run groups."""
_MAX_GROUP: Final = 200
"""Ceiling of writes in one transaction, so that it stays short."""
_LOCK_WAIT: Final = 0.5
"""Seconds for which a group waits for another transaction's lock: its items are then written singly, so that one that
has to wait keeps no other."""
_SINGLE_AT_ONCE: Final = 2
_PATIENCE: Final = 0.1
"""Seconds after which those that came meanwhile form a group beside the one that is under way, if it may."""


class GroupCommit(Generic[T, R]):
    """Writes that share transactions: those that come during one go into the next; none waits for others to come.

    `write` puts items into an open transaction and returns a result for each, in their order. When it raises, each
    item is written by itself, beside the next groups. `at_once`: ceiling of groups at once, for writes that may wait
    for a lock. `place`: items of one place never share a group; None has no place.
    """

    def __init__(
        self,
        *,
        database: Database,
        write: Callable[[AsyncSession, Sequence[T]], Awaitable[Sequence[R]]],
        at_once: int = 1,
        place: Callable[[T], Hashable] = lambda _: None,
    ) -> None:
        self._database = database
        self._write = write
        self._at_once = at_once
        self._place = place
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()
        """Tasks that run a group for longer than `_PATIENCE`."""
        self._singles: set[asyncio.Task[None]] = set()
        self._single_turns = asyncio.Semaphore(_SINGLE_AT_ONCE)

    async def add(self, item: T) -> R:
        """Return the result of `item`, once it is committed. Raises what `write` or the commit raises of it alone.

        A caller who leaves takes nothing with him: the item is written all the same.
        """
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        self._start_if_needed()
        return await result

    async def wait_for_all(self) -> None:
        """Wait until everything that was added is written, or refused."""
        while tasks := self._under_way | self._singles:
            await asyncio.wait(tasks)

    def _begin(self, *, lock_wait: float | None) -> AbstractAsyncContextManager[AsyncSession]:
        return self._database.transaction(lock_wait=lock_wait)

    def _start_if_needed(self) -> None:
        if self._waiting and len(self._late) == len(self._under_way) < self._at_once:
            # In a context of its own: a group is of many requests.
            task = asyncio.create_task(self._write_all(), name=GROUP_TASK, context=Context())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            task.add_done_callback(self._singles.discard)

    async def _write_all(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while group := self._next_group():
            patience = asyncio.get_running_loop().call_later(_PATIENCE, self._note_late, task, len(group))
            try:
                await self._write_group(group)
            finally:
                patience.cancel()
                self._late.discard(task)
            if task in self._singles:
                return
        # Now, not in a callback: what is added until then would wait for nobody.
        self._under_way.discard(task)

    def _note_late(self, task: "asyncio.Task[None]", size: int) -> None:
        if size == 1 and len(self._singles) < _SINGLE_AT_ONCE:  # it may wait for a lock: others need not
            self._under_way.discard(task)
            self._singles.add(task)
        else:
            self._late.add(task)
        self._start_if_needed()

    def _next_group(self) -> list[tuple[T, asyncio.Future[R]]]:
        group: list[tuple[T, asyncio.Future[R]]] = []
        later, places = [], set()
        for each in self._waiting:
            place = self._place(each[0])
            if len(group) == _MAX_GROUP or (place is not None and place in places):
                later.append(each)
            else:
                group.append(each)
                places.add(place)
        self._waiting = later
        return group

    async def _write_group(self, group: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            async with self._begin(lock_wait=_LOCK_WAIT if len(group) > 1 else None) as db:
                results = await self._write(db, [item for item, _ in group])
                assert len(results) == len(group)
        except Exception as error:
            is_away = isinstance(error, DatabaseUnavailableException)
            if len(group) > 1 and (not is_away or isinstance(error, DatabaseBusyException)):
                self._write_singly(group, error)
            else:
                _fail(group, error)
        except BaseException:
            _fail(group, DatabaseUnavailableException("the process is stopping"))
            raise
        else:
            for (_, future), result in zip(group, results, strict=True):
                if not future.done():  # its caller has left
                    future.set_result(result)

    def _write_singly(self, group: Sequence[tuple[T, asyncio.Future[R]]], error: Exception) -> None:
        """One bad item must not fail the others, nor one that waits for a lock keep those that come after it."""
        log.info("group.written_singly", count=len(group), error=type(error).__name__)
        for one in group:
            task = asyncio.create_task(self._write_single(one), name=GROUP_TASK, context=Context())
            self._singles.add(task)
            task.add_done_callback(self._singles.discard)

    async def _write_single(self, one: tuple[T, asyncio.Future[R]]) -> None:
        async with self._single_turns:
            await self._write_group([one])


def _fail(group: Sequence[tuple[Any, asyncio.Future[Any]]], error: Exception) -> None:
    for _, future in group:
        if not future.done():
            future.set_exception(error)


class GroupLookUp(GroupCommit[T, R]):
    """Look-ups that share queries. A group begins after its items came, so each sees all that was committed before."""

    def _begin(self, *, lock_wait: float | None) -> AbstractAsyncContextManager[AsyncSession]:
        return self._database.reading()
