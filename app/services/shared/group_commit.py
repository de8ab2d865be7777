"""Group commit: what many callers write at once goes into few transactions; each waits for the commit of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.utils.exceptions import DatabaseUnavailableException

T = TypeVar("T")
R = TypeVar("R")

_MAX_GROUP: Final = 200
"""Ceiling of writes in one transaction, so that it stays short."""


class GroupCommit(Generic[T, R]):
    """Writes that share transactions: those that come during one go into the next; none waits for others to come.

    `write` puts items into an open transaction and returns a result for each, in their order.
    """

    def __init__(
        self, *, database: Database, write: Callable[[AsyncSession, Sequence[T]], Awaitable[Sequence[R]]]
    ) -> None:
        self._database = database
        self._write = write
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def add(self, item: T) -> R:
        """The result of `item`, once it is committed. Raises what `write` or the commit raises of it alone.

        A caller who leaves takes nothing with him: the item is written all the same.
        """
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return await result

    async def wait_for_all(self) -> None:
        """Wait until everything that was added is written, or refused."""
        while self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:_MAX_GROUP], self._waiting[_MAX_GROUP:]
                await self._write_group(group)
        finally:
            self._writing = None

    async def _write_group(self, group: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            async with self._database.transaction() as db:
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
