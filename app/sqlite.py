"""Connections to SQLite: settings that the code relies on, and statements that take one step of the driver's thread.

SQLAlchemy's own cursor takes four (open, execute, fetch, close), each a round trip between two threads: half of the CPU
time of a short transaction.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiosqlite
from sqlalchemy import Connection, event
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
    AsyncAdapt_aiosqlite_dbapi,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import EMPTY_DICT

READ_ONLY: Final = "gologin_read_only"
"""Execution option of a connection that only reads: each statement sees a moment of its own, as on PostgreSQL."""
_BUSY_MS: Final = 15_000


@dataclass(frozen=True, slots=True)
class _Result:
    """State of a cursor after a statement."""

    description: Sequence[Any] | None = None
    rowcount: int = -1
    lastrowid: int | None = None
    arraysize: int = 1


class _Cursor(AsyncAdapt_aiosqlite_cursor):
    """Runs a statement and fetches all its rows in one step of the driver's thread."""

    __slots__ = ()
    _awaitable_cursor_close = False
    _cursor: Any

    def __init__(self, adapt_connection: AsyncAdapt_aiosqlite_connection) -> None:
        # The base would open a cursor of the driver.
        self._adapt_connection = adapt_connection
        self._connection = adapt_connection._connection
        self._cursor = _Result()
        self._soft_closed_memoized = EMPTY_DICT
        self._rows = deque()

    async def _execute_async(self, operation: Any, parameters: Any) -> None:
        await self._run(lambda cursor: cursor.execute(operation, parameters or ()))

    async def _executemany_async(self, operation: Any, seq_of_parameters: Any) -> None:
        await self._run(lambda cursor: cursor.executemany(operation, seq_of_parameters))

    async def _run(self, execute: Callable[[sqlite3.Cursor], object]) -> None:
        connection: Any = self._connection

        def step() -> tuple[_Result, Sequence[Any]]:
            cursor = connection._conn.cursor()
            try:
                execute(cursor)
                rows = cursor.fetchall() if cursor.description else ()
                return _Result(cursor.description, cursor.rowcount, cursor.lastrowid), rows
            finally:
                cursor.close()

        async with self._adapt_connection._execute_mutex:
            self._cursor, rows = await connection._execute(step)
        self._rows = deque(rows)

    def close(self) -> None:
        self._rows.clear()


class _Connection(AsyncAdapt_aiosqlite_connection):
    """A connection whose transactions `BEGIN` alone begins: it knows when there is nothing to roll back."""

    __slots__ = ()
    _cursor_cls = _Cursor  # type: ignore[assignment]

    def rollback(self) -> None:
        if self._connection._connection and self._connection.in_transaction:
            super().rollback()


class _Driver(AsyncAdapt_aiosqlite_dbapi):
    """The driver aiosqlite with connections of ours."""

    def connect(self, *arguments: Any, **options: Any) -> _Connection:
        return _Connection(self, super().connect(*arguments, **options)._connection)


def create_sqlite_engine(url: str, *, pool_size: int) -> AsyncEngine:
    engine = create_async_engine(
        url,
        module=_Driver(aiosqlite, sqlite3),
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        # The driver must not begin transactions by itself: `_begin` does.
        connect_args={"isolation_level": None, "timeout": _BUSY_MS / 1000},
    )
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    engine.dialect.do_terminate = _end  # type: ignore[method-assign]
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "foreign_keys=ON",
        f"busy_timeout={_BUSY_MS}",
        "synchronous=NORMAL",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _end(dbapi_connection: Any) -> None:
    """Close the connection of a cancelled statement as soon as its thread is free, without waiting.

    SQLAlchemy 2.1 waits in a task for the close; a second cancellation (anyio repeats its own) makes it end the
    driver's thread before, and the task waits forever.
    """
    dbapi_connection.driver_connection.stop()


def _begin(connection: Connection) -> None:
    if not connection.get_execution_options().get(READ_ONLY, False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
