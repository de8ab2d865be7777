"""The database: one engine, short transactions, and what must follow a commit. Knows no web framework."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import AsyncConnection, DataError
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.rows import TupleRow
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    CursorResult,
    DateTime,
    Dialect,
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
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from app.utils.exceptions import DatabaseUnavailableException, SchemaOutOfDateException
from app.utils.logger import get_logger
from app.utils.outages import READ_ONLY, TOO_MANY_CONNECTIONS, WRITE_OUTAGES, unavailable_reason

_AFTER_COMMIT: Final = "after_commit"
_LISTENERS: Final = "listeners"
_READ_ONLY: Final = "gologin_read_only"
_QUEUE_CONNECTIONS: Final = 2
"""Connections of one process beside its pool: those of the job queue."""
_PING_TIMEOUT: Final = 2.0
_PROBE: Final = (
    "CREATE TABLE readiness_probe (filler BLOB)",
    "INSERT INTO readiness_probe VALUES (zeroblob(65536))",
    "DROP TABLE readiness_probe",
)
_SQLITE_BUSY_MS: Final = 15_000
_IDLE_BEFORE_PING: Final = 1.0
"""Seconds after which an idle connection is tried before it is used; one in use tells of a lost server by itself."""
_CHECKED_IN: Final = "checked_in"
_POSTGRESQL_SESSION: Final = {
    # Milliseconds; the second for a machine that has gone in the middle of a transaction, and left its locks.
    "statement_timeout": "30000",
    "idle_in_transaction_session_timeout": "60000",
    "lock_timeout": "0",
    "intervalstyle": "postgres",
    "search_path": "public",
    "default_transaction_isolation": "read\\ committed",
    "default_transaction_deferrable": "off",
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
}
"""Settings that the code relies on, whatever defaults the database, its role or the environment (`PGOPTIONS`) set.

`default_transaction_read_only` is not among them: a standby, and an operator's stop of all writes, count.
"""
_POSTGRESQL_FORMS: Final = "SET datestyle = 'ISO, MDY'; SET timezone = 'UTC'; SET client_encoding = 'UTF8'"
"""psycopg reads times in this form alone. Not in the options, over which `PGDATESTYLE` and `PGTZ` have precedence."""
_POSTGRESQL_DEADLINES: Final[dict[str, Any]] = {
    "connect_timeout": 10,  # seconds
    "tcp_user_timeout": 15_000,  # milliseconds without an acknowledgement: the server's machine has gone
}
"""A fail-over of the server must not hold the slots: without them a query waits on a dead socket for many minutes."""
_KEEPALIVES: Final[dict[str, Any]] = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2}
"""Seconds; for a connection that listens and sends nothing by itself."""
_TIME_LOADER: Final[Any] = psycopg.adapters.get_loader(psycopg.adapters.types["timestamptz"].oid, Format.TEXT)
"""psycopg's own."""
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_SECONDS_PER_LINE: Final = 10.0
"""An outage is logged once in that time, not once a query."""

log = get_logger(__name__)


class _BoundedTimeLoader(Loader):
    """A PostgreSQL time as a datetime; one that Python cannot hold is the last or the first that it can.

    One row with such a time must not fail every query that reads it.
    """

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._load = _TIME_LOADER(oid, context).load

    def load(self, data: Buffer) -> datetime:
        try:
            moment: datetime = self._load(data).astimezone(UTC)
        except (DataError, OverflowError):
            text = bytes(data)
            return _FIRST if text.endswith(b"BC") or text.startswith((b"-", b"0001")) else _LAST
        return moment


class Database:
    """Owns the engine; `close()` it once.

    SQLite runs in WAL mode with one writer at a time: every writing transaction begins IMMEDIATE, because a deferred
    one that reads first and then writes loses updates of others.
    """

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
        self._url = url
        self._pool_size = pool_size
        self.engine = _create_engine(url, pool_size)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        # Each statement of READ COMMITTED sees its own snapshot anyway: without a transaction around them, two round
        # trips fewer.
        self._reading_options = {_READ_ONLY: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._listeners: dict[str, list[Callable[[], object]]] = {}
        self._sessions = async_sessionmaker(
            self.engine, expire_on_commit=False, autoflush=False, info={_LISTENERS: self._listeners}
        )
        self._outage_logged_at: float | None = None
        self._write_outage: str | None = None
        """Reason why a write failed on SQLite, until one has succeeded."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises; then `after_commit` hooks run.

        Raises `DatabaseUnavailableException`; when that comes from the commit, it may have happened all the same.
        """
        with self._outages_named():
            async with self._sessions() as db, db.begin():
                yield db
        for callback in db.info.pop(_AFTER_COMMIT, ()):
            try:
                callback()
            except Exception:  # the change is committed: a failing hook must not tell the caller otherwise
                log.exception("database.after_commit_failed")

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """Reads that take no write lock; on SQLite of one moment. Raises `DatabaseUnavailableException`."""
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
        await asyncio.to_thread(command.upgrade, alembic_config(self._url), "head")

    async def check_schema(self) -> None:
        """Raises `SchemaOutOfDateException` when migrations are missing or the database is newer than the code."""
        async with self.engine.connect() as connection:
            current = await connection.run_sync(
                lambda each: MigrationContext.configure(each).get_current_revision()
            )
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

    async def open_connection(self, name: str) -> "AsyncConnection[TupleRow]":
        """A connection of the caller's own, PostgreSQL only, in autocommit mode; the server shows its `name`."""
        url = make_url(self._url).set(drivername="postgresql")
        connection = await AsyncConnection.connect(
            url.render_as_string(hide_password=False),
            autocommit=True,
            application_name=name,
            **_postgresql_arguments(url),
            **_KEEPALIVES,
        )
        try:
            await connection.execute(_POSTGRESQL_FORMS)
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
            if reason == TOO_MANY_CONNECTIONS:
                max_connections = self._pool_size + _QUEUE_CONNECTIONS
                reason += (
                    f"; each process of the service opens up to {max_connections} (DATABASE_POOL_SIZE "
                    f"{self._pool_size} and {_QUEUE_CONNECTIONS} of the queue): raise max_connections above "
                    f"{max_connections} times the number of processes, or lower DATABASE_POOL_SIZE"
                )
            if self.is_sqlite and reason in WRITE_OUTAGES:
                self._write_outage = reason
            now = time.monotonic()
            if self._outage_logged_at is None or now - self._outage_logged_at >= _SECONDS_PER_LINE:
                self._outage_logged_at = now
                detail = " ".join(str(getattr(error, "orig", error)).split())
                log.error("database.unavailable", reason=reason, detail=detail[:300])
            raise DatabaseUnavailableException(reason) from error


def after_commit(db: AsyncSession, callback: Callable[[], object]) -> None:
    """Call `callback` once the transaction of `db` has committed; never if it rolls back."""
    db.info.setdefault(_AFTER_COMMIT, []).append(callback)


def announce(db: AsyncSession, topic: str) -> None:
    """Once the transaction of `db` has committed, tell those who listen to `topic`, once."""
    hooks = db.info.setdefault(_AFTER_COMMIT, [])
    hooks.extend(hook for hook in db.info[_LISTENERS].get(topic, ()) if hook not in hooks)


def insert_or_update(db: AsyncSession, model: type[DeclarativeBase]) -> Any:
    """An INSERT of `model` that knows ON CONFLICT, in the dialect of the session."""
    is_sqlite = db.get_bind().dialect.name == "sqlite"
    return sqlite_insert(model) if is_sqlite else postgresql_insert(model)


def affected_rows(result: Result[Any]) -> int:
    """Return how many rows an UPDATE or DELETE matched.

    `AsyncSession.execute` declares a `Result`, which is a `CursorResult` for such a statement without RETURNING.
    """
    assert isinstance(result, CursorResult)
    return result.rowcount


def database_clock(db: AsyncSession) -> ColumnElement[float]:
    """Unix seconds by the one clock that all processes share; SQLite's processes share their machine's."""
    if db.get_bind().dialect.name == "sqlite":
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
    """Revision of the newest migration; to find it takes all their files to be loaded."""
    return ScriptDirectory.from_config(alembic_config("")).get_current_head()


def _create_engine(url: str, pool_size: int) -> AsyncEngine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_async_engine(
            url,
            hide_parameters=True,
            pool_size=pool_size,
            max_overflow=0,
            pool_use_lifo=True,  # the connection that was used last has its plans and catalogue in memory
            pool_timeout=30,
            connect_args=_postgresql_arguments(parsed),
        )
        event.listen(engine.sync_engine, "connect", _prepare_postgresql)
        event.listen(engine.sync_engine, "checkin", _note_checkin)
        event.listen(engine.sync_engine, "checkout", partial(_ping_when_idle, engine.dialect))
        return engine
    if parsed.database and parsed.database != ":memory:" and not parsed.database.startswith("file:"):
        _make_private(Path(parsed.database))
    engine = create_async_engine(
        url,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        # The driver must not begin transactions by itself: `_begin` does.
        connect_args={"isolation_level": None, "timeout": _SQLITE_BUSY_MS / 1000},
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _postgresql_arguments(url: URL) -> dict[str, Any]:
    """Return the arguments of a connection, beside its URL."""
    own_options = " ".join(f"-c {name}={value}" for name, value in _POSTGRESQL_SESSION.items())
    url_options = url.query.get("options", ())
    extra_options = [url_options] if isinstance(url_options, str) else url_options
    return {**_POSTGRESQL_DEADLINES, "options": " ".join([own_options, *extra_options])}


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
    connection.driver_connection.adapters.register_loader("timestamptz", _BoundedTimeLoader)
    cursor = connection.cursor()
    cursor.execute(_POSTGRESQL_FORMS)
    cursor.close()
    connection.commit()


def _note_checkin(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_CHECKED_IN] = time.monotonic()


def _ping_when_idle(dialect: Dialect, connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Replace all connections when one does not work any more, as `pool_pre_ping` does at each checkout."""
    checked_in = record.info.get(_CHECKED_IN)  # None: a new connection
    if checked_in is None or time.monotonic() - checked_in < _IDLE_BEFORE_PING:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "foreign_keys=ON",
        f"busy_timeout={_SQLITE_BUSY_MS}",
        "synchronous=NORMAL",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
