"""pgqueuer's two homes: in memory beside SQLite for one process, in PostgreSQL for any number of them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Protocol, cast

import psycopg
from pgqueuer.adapters.drivers.psycopg import PsycopgDriver
from pgqueuer.adapters.inmemory import InMemoryDriver, InMemoryQueries
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.adapters.persistence.sqlstate import DEADLOCK_DETECTED, UNIQUE_VIOLATION
from pgqueuer.core.qm import QueueManager
from pgqueuer.models import Job
from pgqueuer.ports import RepositoryPort
from pgqueuer.ports.driver import Driver
from pgqueuer.ports.repository import EntrypointExecutionParameter
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import dict_row
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import QUEUE_CONNECTION, Database

_LOST_RACE: Final = (DEADLOCK_DETECTED, UNIQUE_VIOLATION)
"""Another process was first at the last place of a limit: pgqueuer looks again."""
_WAKE_TYPE: Final = "table_changed_event"
_WAKE: Final = text(
    f"""
    SELECT pg_notify('ch_pgqueuer', json_build_object(
        'channel', 'ch_pgqueuer', 'operation', 'insert', 'sent_at', now(), 'table', 'pgqueuer',
        'type', '{_WAKE_TYPE}'
    )::text)
    """
)
"""pgqueuer's own notification, once for many jobs: its trigger sent one with each commit, and commits with a
notification wait for each other on the whole server."""


class Engine(Protocol):
    async def to_submit(self) -> RepositoryPort:
        """Return the queue to submit to, whether or not this process delivers any."""
        ...

    def within(self, db: AsyncSession) -> RepositoryPort | None:
        """Return the queue as a part of the transaction; None when it is not in the database."""
        ...

    async def wake(self) -> None:
        """Let every process look for jobs now."""
        ...

    def to_deliver(self, connection_lost: asyncio.Event) -> AbstractAsyncContextManager[RepositoryPort]:
        """Return the source of jobs while the block runs; sets `connection_lost` when nothing comes any more."""
        ...


class MemoryEngine:
    def __init__(self) -> None:
        self._queries = InMemoryQueries(driver=_InMemoryDriver())

    async def to_submit(self) -> RepositoryPort:
        # Its own history is kept for as long as the process lives; ours is the sessions' events.
        await self._queries.clear_queue_log()
        return self._queries

    def within(self, db: AsyncSession) -> None:
        return None

    async def wake(self) -> None:
        """The engine sees its own jobs."""

    @asynccontextmanager
    async def to_deliver(self, connection_lost: asyncio.Event) -> AsyncIterator[RepositoryPort]:
        yield self._queries


class PostgresqlEngine:
    """pgqueuer over PostgreSQL; migration 005 creates its tables and keeps its history empty."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def to_submit(self) -> RepositoryPort:
        # `enqueue`, which alone is called of this queue and the next, needs no more of a driver than `fetch`.
        return Queries(cast(Driver, _PooledDriver(self._database)))

    def within(self, db: AsyncSession) -> RepositoryPort:
        return Queries(cast(Driver, _TransactionDriver(db)))

    async def wake(self) -> None:
        async with self._database.reading() as db:  # one statement: no transaction is needed
            await db.execute(_WAKE)

    @asynccontextmanager
    async def to_deliver(self, connection_lost: asyncio.Event) -> AsyncIterator[RepositoryPort]:
        async with (
            await self._database.open_connection(QUEUE_CONNECTION, is_direct=False) as working,
            await self._database.open_connection(QUEUE_CONNECTION) as listening,
        ):
            yield Queries(_ListeningDriver(working, listening, connection_lost))


@dataclass
class Manager(QueueManager):
    """Takes as many jobs at once as this process has room for, and waits while it has none."""

    wait_for_room: Callable[[], Awaitable[int]] = field(kw_only=True)
    """Returns the number of jobs that may be taken; 0 at the shutdown."""

    async def fetch_jobs(
        self, batch_size: int, global_concurrency_limit: int | None, heartbeat_timeout: timedelta
    ) -> AsyncGenerator[Job, None]:
        while room := await self.wait_for_room():
            self.queries.driver.expect_wake()  # type: ignore[attr-defined]
            jobs = await self.queries.dequeue(
                batch_size=min(room, batch_size),
                entrypoints={
                    name: EntrypointExecutionParameter(each.parameters.concurrency_limit)
                    for name, each in self.entrypoint_registry.items()
                },
                queue_manager_id=self.queue_manager_id,
                global_concurrency_limit=global_concurrency_limit,
                heartbeat_timeout=heartbeat_timeout,
            )
            if not jobs:
                return
            for job in jobs:
                yield job

    async def _effective_dequeue_timeout(self, dequeue_timeout: timedelta) -> timedelta:
        """Look again after `dequeue_timeout`, whatever waits: pgqueuer asks the database for a shorter time."""
        return dequeue_timeout


class _WakesOnce:
    """Part of a driver that listens: passes one wake-up on for each look at the queue.

    pgqueuer keeps all of them, and looks once for each: those that come while the process has no room are many.
    """

    _is_awake = False

    def expect_wake(self) -> None:
        """A look begins: what comes from now on may be missed by it."""
        self._is_awake = False

    async def add_listener(self, channel: str, callback: Callable[[Any], None]) -> None:
        def pass_on(payload: Any) -> None:
            if _WAKE_TYPE in str(payload):
                if self._is_awake:
                    return
                self._is_awake = True
            callback(payload)

        await super().add_listener(channel, pass_on)  # type: ignore[misc]


class _InMemoryDriver(_WakesOnce, InMemoryDriver):
    pass


class _PooledDriver:
    """Driver of pgqueuer for occasional statements: it takes a connection of the service's own pool."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        async with self._database.transaction() as db:
            return await _TransactionDriver(db).fetch(query, *args)


class _TransactionDriver:
    """Driver of pgqueuer for statements of a transaction of ours."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        pooled = await (await self._db.connection()).get_raw_connection()
        assert isinstance(pooled.driver_connection, AsyncConnection)
        cursor = AsyncRawCursor(pooled.driver_connection, row_factory=dict_row)
        try:
            await cursor.execute(query, args or None)
        except psycopg.Error as error:  # as if SQLAlchemy had run it: an outage is known by its error
            raise DBAPIError.instance(
                query, None, error, psycopg.Error, hide_parameters=True, dialect=self._db.get_bind().dialect
            ) from error
        return await cursor.fetchall()


class _ListeningDriver(_WakesOnce, PsycopgDriver):
    """Listens on a connection of its own: waiting for a notification locks the connection for up to a second."""

    def __init__(
        self,
        work_connection: "AsyncConnection[Any]",
        listen_connection: "AsyncConnection[Any]",
        connection_lost: asyncio.Event,
    ) -> None:
        super().__init__(listen_connection)
        self._working = PsycopgDriver(work_connection)
        self._connection_lost = connection_lost

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """A failure here ends the manager's run."""
        try:
            return await self._working.fetch(query, *args)
        except psycopg.Error as error:
            if error.sqlstate not in _LOST_RACE:
                self._connection_lost.set()
            raise

    async def execute(self, query: str, *args: object) -> str:
        return await self._working.execute(query, *args)

    async def watch_notifies(self) -> None:
        try:
            await super().watch_notifies()
        except psycopg.Error:
            self._connection_lost.set()
