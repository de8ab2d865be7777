"""The database: one engine, short transactions, and what must follow a commit. Knows no web framework."""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from sqlalchemy import (
    ColumnElement,
    CursorResult,
    DateTime,
    Double,
    Result,
    cast,
    event,
    func,
    literal,
    make_url,
    text,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection as AsyncSqlConnection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from app import sqlite
from app.config import ProcessRole, Settings
from app.postgresql import (
    FORMS,
    KEEPALIVES,
    SESSION_SETTINGS,
    BoundedTimeLoader,
    connection_arguments,
    missing_settings,
)
from app.utils.exceptions import (
    DatabaseBusyException,
    DatabaseUnavailableException,
    PoolerSettingsException,
    SchemaOutOfDateException,
)
from app.utils.logger import get_logger
from app.utils.outages import (
    COLLISION,
    CONNECTION_REFUSALS,
    READ_ONLY,
    TOO_MANY_CONNECTIONS,
    WRITE_OUTAGES,
    unavailable_reason,
)

_AFTER_COMMIT: Final = "after_commit"
_LISTENERS: Final = "listeners"
QUEUE_CONNECTION: Final = "job-queue"
"""Name of the connections of the job queue on the server."""
_NAME_PREFIX: Final = "gologin-automation "
_PING_TIMEOUT: Final = 2.0
_PROBE: Final = (
    "CREATE TABLE readiness_probe (filler BLOB)",
    "INSERT INTO readiness_probe VALUES (zeroblob(65536))",
    "DROP TABLE readiness_probe",
)
_IDLE_BEFORE_PING: Final = 1.0
"""Seconds after which an idle connection is tried before it is used; one in use tells of a lost server by itself."""
_CHECKED_IN: Final = "checked_in"
_SECONDS_PER_LINE: Final = 10.0
"""An outage is logged once in that time, not once a query."""

log = get_logger(__name__)


class Database:
    """Owns the engine; `close()` it once.

    Args:
        direct_url: URL of PostgreSQL itself, when `url` is of a pooler that gives a server connection to each
            transaction.
        name: the process, as the server shows it.

    SQLite runs in WAL mode with one writer at a time: every writing transaction begins IMMEDIATE, because a deferred
    one that reads first and then writes loses updates of others.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 20,
        direct_url: str | None = None,
        role: ProcessRole = ProcessRole.SERVICE,
        name: str = "gologin-automation",
    ) -> None:
        self._url = url
        self._direct_url = direct_url or url
        self._is_pooled = direct_url not in (None, url)
        self._max_connections = pool_size + role.queue_connections
        self.engine = _create_engine(url, pool_size, name, is_pooled=self._is_pooled)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        if not self.is_sqlite:
            event.listen(self.engine.sync_engine, "checkout", self._ping_when_doubtful)
        # Each statement of READ COMMITTED sees its own snapshot anyway: without a transaction around them, two round
        # trips fewer.
        self._reading_options = (
            {sqlite.READ_ONLY: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        )
        self._listeners: dict[str, list[Callable[[], object]]] = {}
        self._sessions = async_sessionmaker(
            self.engine, expire_on_commit=False, autoflush=False, info={_LISTENERS: self._listeners}
        )
        self._outage_logged_at: float | None = None
        self._outage_at = 0.0
        """Monotonic time of the last failure of this process to reach the database."""
        self._write_outage: str | None = None
        """Reason why a write failed on SQLite, until one has succeeded."""

    @classmethod
    def from_settings(
        cls, settings: Settings, role: ProcessRole, *, pool_size: int | None = None
    ) -> "Database":
        direct_url = settings.database_direct_url
        return cls(
            settings.database_url.get_secret_value(),
            pool_size=pool_size or settings.pool_size(role),
            direct_url=direct_url.get_secret_value() if direct_url else None,
            role=role,
            name=process_name(role, settings.machine_name),
        )

    @asynccontextmanager
    async def transaction(self, *, lock_wait: float | None = None) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises; then `after_commit` hooks run.

        `lock_wait`: seconds for which it waits for the lock of another one on PostgreSQL; None: as long as a statement
        may take. Raises `DatabaseBusyException` then, or when another one is in its way otherwise.

        Raises `DatabaseUnavailableException`; when that comes from the commit, it may have happened all the same.
        """
        with self._outages_named():
            async with self._sessions() as db, db.begin():
                if lock_wait is not None and not self.is_sqlite:
                    await db.execute(text(f"SET LOCAL lock_timeout = {lock_wait * 1000:.0f}"))
                yield db
        for callback in db.info.pop(_AFTER_COMMIT, ()):
            try:
                callback()
            except Exception:  # the change is committed: a failing hook must not tell the caller otherwise
                log.exception("database.after_commit_failed")

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """Reads that take no lock; each sees a moment of its own. Raises `DatabaseUnavailableException`."""
        with self._outages_named():
            async with self._sessions() as db:
                await db.connection(execution_options=self._reading_options)
                yield db

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[AsyncSession]:
        """One statement that writes; on PostgreSQL without the round trips of a transaction. No hooks run after it.

        Raises `DatabaseUnavailableException`, also when the statement may have been committed.
        """
        async with self.transaction() if self.is_sqlite else self.reading() as db:
            yield db

    def listen(self, topic: str, callback: Callable[[], object]) -> None:
        """Call `callback` after each commit of a transaction of this object that has announced `topic`."""
        self._listeners.setdefault(topic, []).append(callback)

    async def migrate(self) -> None:
        """Bring the schema up to date; nothing to do when it is."""
        # Alembic's env.py runs an event loop of its own.
        await asyncio.to_thread(command.upgrade, alembic_config(self._direct_url), "head")

    async def check_schema(self) -> None:
        """Raises `SchemaOutOfDateException` when migrations are missing or the database is newer than the code.

        Raises `PoolerSettingsException`, and `DatabaseUnavailableException` when the server takes no connection now.
        """
        try:
            async with self.engine.connect() as connection:
                current = await connection.run_sync(
                    lambda each: MigrationContext.configure(each).get_current_revision()
                )
                if self._is_pooled:
                    await _check_settings(connection)
        except SQLAlchemyError as error:
            if (reason := unavailable_reason(error)) not in CONNECTION_REFUSALS:
                raise  # with the server's own words, as of a wrong password
            raise DatabaseUnavailableException(self._with_advice(reason)) from error
        if current != (head := _head_revision()):
            raise SchemaOutOfDateException(current, head)

    async def outage(self) -> str | None:
        """Return why the database takes no writes now, within 2 seconds; None when it does."""
        try:
            async with asyncio.timeout(_PING_TIMEOUT):
                return await self._write_problem()
        except TimeoutError:
            return f"it does not answer within {_PING_TIMEOUT:g} seconds"
        except DatabaseUnavailableException as error:
            return error.reason
        except (SQLAlchemyError, OSError) as error:
            return type(error).__name__

    async def _write_problem(self) -> str | None:
        async with self.reading() as db:
            if not self.is_sqlite:
                read_only = await db.scalar(text("SELECT current_setting('transaction_read_only')"))
                return READ_ONLY if read_only == "on" else None
            await db.execute(text("SELECT 1"))
        if self._write_outage is not None:
            # Only after a write has failed: a probe takes the lock, and pages of the file and of its log.
            async with self.transaction() as db:
                for statement in _PROBE:
                    await db.execute(text(statement))
            self._write_outage = None
        return None

    async def open_connection(self, name: str, *, is_direct: bool = True) -> "AsyncConnection[TupleRow]":
        """A connection of the caller's own, PostgreSQL only, in autocommit mode; the server shows its `name`.

        `is_direct`: around a pooler, as listening needs. Raises `DatabaseUnavailableException`.
        """
        url = make_url(self._direct_url if is_direct else self._url).set(drivername="postgresql")
        with self._outages_named():
            try:
                connection = await AsyncConnection.connect(
                    url.render_as_string(hide_password=False),
                    autocommit=True,
                    application_name=name,
                    **connection_arguments(url, is_pooled=self._is_pooled and not is_direct),
                    **KEEPALIVES,
                )
            except psycopg.Error as error:  # as if SQLAlchemy had connected: an outage is known by its error
                raise DBAPIError.instance("connect", None, error, psycopg.Error) from error
        try:
            await connection.execute(FORMS)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Close every connection: those in use as soon as they are given back.

        The pool itself would keep these, and nobody would close them: a task that was cancelled may still roll back.
        """
        event.listen(self.engine.sync_engine, "checkin", lambda _connection, record: record.close())
        await self.engine.dispose()

    @contextmanager
    def _outages_named(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            if (reason := unavailable_reason(error)) is None:
                raise
            reason = self._with_advice(reason)
            if self.is_sqlite and reason in WRITE_OUTAGES:
                self._write_outage = reason
            if reason == COLLISION:
                raise DatabaseBusyException(reason) from error
            now = self._outage_at = time.monotonic()
            if self._outage_logged_at is None or now - self._outage_logged_at >= _SECONDS_PER_LINE:
                self._outage_logged_at = now
                detail = " ".join(str(getattr(error, "orig", error)).split())
                log.error("database.unavailable", reason=reason, detail=detail[:300])
            raise DatabaseUnavailableException(reason) from error

    def _ping_when_doubtful(self, connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        """Replace all connections when one does not work any more, as `pool_pre_ping` does at each checkout.

        Only one that was idle is tried, or one that was used last before an outage.
        """
        checked_in = record.info.get(_CHECKED_IN)  # None: a new connection
        if checked_in is None or checked_in > max(time.monotonic() - _IDLE_BEFORE_PING, self._outage_at):
            return
        dialect = self.engine.dialect
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error

    def _with_advice(self, reason: str) -> str:
        if reason != TOO_MANY_CONNECTIONS:
            return reason
        return (
            f"{reason}; this process opens up to {self._max_connections} (DATABASE_POOL_SIZE, and those of the queue): "
            "raise max_connections above the sum of all processes, lower DATABASE_POOL_SIZE, or put PgBouncer in front"
        )


def process_name(role: ProcessRole, machine: str) -> str:
    """Return the name of this process on the server, which cuts it at 63 bytes."""
    # Containers of one machine may all have the same process id.
    return f"{_NAME_PREFIX}{role} {os.getpid()}-{secrets.token_hex(3)}@{machine}"


def role_of(name: str) -> ProcessRole | None:
    """Return the role of the process that has this name on the server; None when it is not of the service."""
    role = name.removeprefix(_NAME_PREFIX).partition(" ")[0]
    return ProcessRole(role) if name.startswith(_NAME_PREFIX) and role in list(ProcessRole) else None


def after_commit(db: AsyncSession, callback: Callable[[], object]) -> None:
    """Call `callback` once the transaction of `db` has committed; never if it rolls back."""
    db.info.setdefault(_AFTER_COMMIT, []).append(callback)


def announce(db: AsyncSession, topic: str) -> None:
    """Once the transaction of `db` has committed, tell those who listen to `topic`, once."""
    hooks = db.info.setdefault(_AFTER_COMMIT, [])
    hooks.extend(hook for hook in db.info[_LISTENERS].get(topic, ()) if hook not in hooks)


def is_sqlite(db: AsyncSession) -> bool:
    return db.get_bind().dialect.name == "sqlite"


def insert_or_update(db: AsyncSession, model: type[DeclarativeBase]) -> Any:
    """An INSERT of `model` that knows ON CONFLICT, in the dialect of the session."""
    return sqlite_insert(model) if is_sqlite(db) else postgresql_insert(model)


def affected_rows(result: Result[Any]) -> int:
    """Return how many rows an UPDATE or DELETE matched.

    `AsyncSession.execute` declares a `Result`, which is a `CursorResult` for such a statement without RETURNING.
    """
    assert isinstance(result, CursorResult)
    return result.rowcount


def database_clock(db: AsyncSession) -> ColumnElement[float]:
    """Unix seconds by the one clock that all processes share; SQLite's processes share their machine's."""
    if is_sqlite(db):
        return literal(time.time(), Double)
    return cast(func.extract("epoch", func.clock_timestamp()), Double)


class _DatabaseTime(FunctionElement[datetime]):
    type = DateTime(timezone=True)
    inherit_cache = True


def database_time(*, plus: float = 0.0) -> ColumnElement[datetime]:
    """The time in `plus` seconds, by the one clock that all processes share: what leases are set and compared with.

    That of PostgreSQL's server when the statement begins; SQLite's processes share their machine's, to milliseconds.
    """
    return _DatabaseTime(literal(plus, Double))


@compiles(_DatabaseTime, "postgresql")
def _postgresql_time(element: _DatabaseTime, compiler: SQLCompiler, **options: Any) -> str:
    # Not clock_timestamp(): an index cannot be searched with what changes from row to row.
    return f"(statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"


@compiles(_DatabaseTime, "sqlite")
def _sqlite_time(element: _DatabaseTime, compiler: SQLCompiler, **options: Any) -> str:
    # As SQLAlchemy writes datetimes, so that they compare as text.
    shift = f"printf('%+f seconds', {compiler.process(element.clauses, **options)})"
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', {shift}) || '000')"


def alembic_config(url: str) -> Config:
    # The wheel carries alembic/ inside the package; a checkout and the image have it beside the package.
    package = Path(__file__).resolve().parent
    installed = package / "migrations"
    folder = installed if installed.is_dir() else package.parent / "alembic"
    config = Config(str(folder / "alembic.ini"))
    config.set_main_option("script_location", str(folder))
    config.attributes["database_url"] = url
    return config


@cache
def _head_revision() -> str | None:
    """Revision of the newest migration when it is first asked for; to find it takes all their files to be loaded."""
    return ScriptDirectory.from_config(alembic_config("")).get_current_head()


async def _check_settings(connection: AsyncSqlConnection) -> None:
    """Raises `PoolerSettingsException` when the pooler's connections lack settings: it takes none of ours."""
    names = ", ".join(f"'{name}'" for name in SESSION_SETTINGS)
    query = text(f"SELECT name, setting FROM pg_settings WHERE lower(name) IN ({names})")  # noqa: S608  # our own names
    current = {row.name.lower(): row.setting for row in await connection.execute(query)}
    if missing := missing_settings(current):
        raise PoolerSettingsException(missing)


def _create_engine(url: str, pool_size: int, name: str, *, is_pooled: bool) -> AsyncEngine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_async_engine(
            url,
            hide_parameters=True,
            pool_size=pool_size,
            max_overflow=0,
            pool_use_lifo=True,  # the connection that was used last has its plans and catalogue in memory
            pool_timeout=30,
            connect_args={
                **connection_arguments(parsed, is_pooled=is_pooled),
                "fallback_application_name": name,
            },
        )
        event.listen(engine.sync_engine, "connect", _prepare_postgresql)
        event.listen(engine.sync_engine, "checkin", _note_checkin)
        return engine
    if parsed.database and parsed.database != ":memory:" and not parsed.database.startswith("file:"):
        _make_private(Path(parsed.database))
    return sqlite.create_sqlite_engine(url, pool_size=pool_size)


def make_private_folder(folder: Path) -> None:
    """Make the folder for this user alone; one that is there stays as it is. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _make_private(path: Path) -> None:
    """SQLite gives its log and index files the mode of the database's file, which it would make for everybody.

    A file that is there is not even opened: closing it would drop the locks that SQLite holds on it for this process,
    and two writers would damage it (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        make_private_folder(path.parent)
    except OSError as error:
        raise DatabaseUnavailableException(f"{path.parent} cannot be made: {error.strerror}") from error
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise DatabaseUnavailableException(f"{path} cannot be opened: {error.strerror}") from error


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    connection.driver_connection.adapters.register_loader("timestamptz", BoundedTimeLoader)
    cursor = connection.cursor()
    cursor.execute(FORMS)
    cursor.close()
    connection.commit()


def _note_checkin(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_CHECKED_IN] = time.monotonic()
