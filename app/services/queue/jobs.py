"""Delivery of session ids to whoever runs them. The session row is the truth: a job lost here is delivered again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pgqueuer.errors import RetryRequested
from pgqueuer.models import Job
from pgqueuer.ports import RepositoryPort
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, after_commit
from app.models import AuthorizationSession, ConsentMode, utc_now
from app.services.queue.engines import Engine, Manager, MemoryEngine, PostgresqlEngine
from app.utils.logger import get_logger
from app.utils.tasks import wait_for_event
from app.utils.waits import retry_delay

_AUTHORIZE: Final = "authorize"
_ATTEND: Final = "attend"
"""Sessions that a person takes part in: they hold their slot for long, so few of them may run."""
_RANK_ORIGIN: Final = 1_577_836_800
"""2020 began then, in unix seconds."""
_MAX_PRIORITY: Final = 2**31 - 1
_DEQUEUE_TIMEOUT: Final = timedelta(seconds=0.25)
"""A wake-up can be missed; the job then waits this long."""
_GATHER: Final = 0.01
"""Seconds for which a wake-up waits for more to be submitted."""
_FIRST_WAIT, _MAX_WAIT = 0.2, 3.0
"""Seconds before the engine is connected again; doubled each time."""

log = get_logger(__name__)

Handler = Callable[[str], Awaitable[float | None]]


@dataclass(frozen=True)
class QueuedSession:
    """A session that waits for its start."""

    session_id: str
    rank: float
    """The lowest goes first; see `transitions.queue_rank`."""
    not_before: datetime | None
    is_attended: bool = False
    """A person takes part."""
    attempts: int = 0
    """Attempts that it has had."""

    @classmethod
    def from_row(cls, row: AuthorizationSession) -> "QueuedSession":
        is_attended = row.consent == ConsentMode.ATTENDED or bool(row.awaits_person)
        return cls(row.session_id, row.queue_rank, row.not_before, is_attended, row.attempts)

    @property
    def entrypoint(self) -> str:
        return _ATTEND if self.is_attended else _AUTHORIZE

    @property
    def dedupe_key(self) -> str:
        """Key of duplicates. A delivery of an earlier attempt, delayed or not yet noted as done, hides no later one.

        That of a claim that was given back may hide one, until the engine has noted its end.
        """
        start = self.not_before.timestamp() if self.not_before else 0
        return f"{self.session_id}:{self.entrypoint}:{start}:{self.attempts}"

    @property
    def priority(self) -> int:
        """The engine starts with the highest, in 32 bits."""
        return int(max(-_MAX_PRIORITY, min(_RANK_ORIGIN - self.rank, _MAX_PRIORITY)))

    @property
    def delay(self) -> timedelta:
        return max(timedelta(), self.not_before - utc_now()) if self.not_before else timedelta()


class JobQueue:
    """pgqueuer: by priority, at most `slots` at once in this process, over all processes that share PostgreSQL.

    Args:
        attended_limit: sessions with a person that may run at once, in all processes together.
        heartbeat_timeout: seconds after which the jobs of a process that has died are delivered again.
    """

    def __init__(
        self, *, database: Database, slots: int, attended_limit: int, heartbeat_timeout: float
    ) -> None:
        self._engine: Engine = MemoryEngine() if database.is_sqlite else PostgresqlEngine(database)
        self._slots = slots
        self._attended_limit = attended_limit
        self._heartbeat_timeout = timedelta(seconds=heartbeat_timeout)
        self._stopping = asyncio.Event()
        self._manager: Manager | None = None
        self._detached: set[asyncio.Future[float | None]] = set()
        self._paused_until = 0.0
        self._room_changed = asyncio.Event()
        self._submitting: set[asyncio.Task[None]] = set()
        self._is_wake_due = False
        self.is_connected = True
        """No outage is known."""

    async def submit(self, db: AsyncSession, waiting: Sequence[QueuedSession]) -> None:
        """Deliver sessions' ids when their time has come, if the caller's transaction commits.

        One that is waiting already is not doubled. With SQLite a failure is logged: the row is delivered by the next
        look.
        """
        if not waiting:
            return
        if (queries := self._engine.within(db)) is None:
            after_commit(db, lambda: self._start(self._try_to_submit(waiting)))
            return
        await _enqueue(queries, waiting)
        after_commit(db, self._wake_soon)

    async def submit_all(self, waiting: Sequence[QueuedSession]) -> None:
        """The same, in a transaction of its own; a failure is raised."""
        if waiting:
            await _enqueue(await self._engine.to_submit(), waiting)
            self._wake_soon()

    async def run(self, handle: Handler) -> None:
        """Deliver until `stop()`, then wait for the handlers that still run.

        A handler that returns seconds is called again with the same id after them. When the database goes away the
        handlers go on, and deliveries do when it is back.
        """
        loop, attempt = asyncio.get_running_loop(), 1
        while not self._stopping.is_set():
            start, connection_lost = loop.time(), asyncio.Event()
            try:
                async with self._engine.to_deliver(connection_lost) as queries:
                    await self._deliver(queries, connection_lost, handle)
            except Exception as error:
                if self.is_connected:
                    self.is_connected = False
                    log.warning("queue.disconnected", error=type(error).__name__)
                attempt = 1 if loop.time() - start > _MAX_WAIT else attempt + 1
                wait = retry_delay(attempt, base=_FIRST_WAIT, ceiling=_MAX_WAIT)
                await wait_for_event(self._stopping, wait)
        if self._detached:
            await asyncio.wait(self._detached)

    def pause(self, seconds: float) -> None:
        """Take nothing new for so long."""
        self._paused_until = asyncio.get_running_loop().time() + seconds

    def stop(self) -> None:
        """Deliver nothing more."""
        self._stopping.set()
        if self._manager is not None:
            self._manager.shutdown.set()
        self._room_changed.set()

    async def close(self) -> None:
        """Wait for what is being submitted."""
        if self._submitting:
            await asyncio.wait(self._submitting)

    async def _deliver(
        self, queries: RepositoryPort, connection_lost: asyncio.Event, handle: Handler
    ) -> None:
        """Deliver jobs until the stop; raises when the engine's connection is lost."""

        async def deliver(job: Job) -> None:
            await self._run_handler(job, connection_lost, handle)

        manager = Manager(queries, wait_for_room=lambda: self._wait_for_room(manager))
        # A process's own limit is its room: the engine counts this one over all processes.
        manager.entrypoint(_AUTHORIZE)(deliver)
        manager.entrypoint(_ATTEND, concurrency_limit=self._attended_limit)(deliver)
        manager.min_dequeue_poll_interval = _DEQUEUE_TIMEOUT
        self._manager = manager
        if self._stopping.is_set():
            manager.shutdown.set()
        if not self.is_connected:
            self.is_connected = True
            log.info("queue.connected")
        ending = asyncio.create_task(_shut_down_on(connection_lost, manager))
        try:
            await manager.run(
                dequeue_timeout=_DEQUEUE_TIMEOUT,
                # The ends of so many jobs are noted in one statement, at the latest after 0.1 s.
                batch_size=self._slots,
                heartbeat_timeout=self._heartbeat_timeout,
                log_aggregation_interval=timedelta(),
            )
        finally:
            self._manager = None
            ending.cancel()
        if connection_lost.is_set():
            raise ConnectionError("the connection was lost")

    async def _run_handler(self, job: Job, connection_lost: asyncio.Event, handle: Handler) -> None:
        """Run the handler; when the connection is lost it goes on, and its job is delivered again, to no effect."""
        assert job.payload is not None
        if (task := asyncio.current_task()) is not None:
            task.add_done_callback(lambda _: self._room_changed.set())
        handling = asyncio.ensure_future(handle(job.payload.decode()))
        loss = asyncio.create_task(connection_lost.wait())
        try:
            await asyncio.wait([handling, loss], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            handling.cancel()
            raise
        finally:
            loss.cancel()
        if not handling.done():
            self._detached.add(handling)
            handling.add_done_callback(self._detached.discard)
            handling.add_done_callback(lambda _: self._room_changed.set())
            handling.add_done_callback(_log_failure)
            return
        _log_failure(handling)
        again_after = handling.result()
        if again_after is not None:
            raise RetryRequested(delay=timedelta(seconds=again_after))

    async def _wait_for_room(self, manager: Manager) -> int:
        """Wait until this process may take a job; return how many. 0 when it is to stop."""
        while not manager.shutdown.is_set():
            self._room_changed.clear()
            room = self._slots - len(manager.job_context) - len(self._detached)
            if room > 0 and asyncio.get_running_loop().time() >= self._paused_until:
                return room
            # A shutdown, and the end of a pause, are seen by the next look.
            await wait_for_event(self._room_changed, _DEQUEUE_TIMEOUT.total_seconds())
        return 0

    async def _try_to_submit(self, waiting: Sequence[QueuedSession]) -> None:
        try:
            await self.submit_all(waiting)
        except Exception as error:
            sessions = [each.session_id for each in waiting[:10]]
            log.warning("queue.not_submitted", sessions=sessions, error=type(error).__name__)

    def _wake_soon(self) -> None:
        """Wake all processes once for all that is submitted within a moment."""
        if not self._is_wake_due:
            self._is_wake_due = True
            self._start(self._wake())

    async def _wake(self) -> None:
        await wait_for_event(self._stopping, _GATHER)
        self._is_wake_due = False
        try:
            await self._engine.wake()
        except Exception as error:  # they look by themselves, a little later
            log.warning("queue.not_woken", error=type(error).__name__)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        # In a context of its own: it may be for many requests.
        task = asyncio.create_task(work, context=Context())
        self._submitting.add(task)
        task.add_done_callback(self._submitting.discard)


async def _enqueue(queries: RepositoryPort, waiting: Sequence[QueuedSession]) -> None:
    await queries.enqueue(
        [each.entrypoint for each in waiting],
        [each.session_id.encode() for each in waiting],
        [each.priority for each in waiting],
        execute_after=[each.delay for each in waiting],
        dedupe_key=[each.dedupe_key for each in waiting],
        on_conflict="skip",
    )


async def _shut_down_on(connection_lost: asyncio.Event, manager: Manager) -> None:
    await connection_lost.wait()
    manager.shutdown.set()


def _log_failure(handling: "asyncio.Future[float | None]") -> None:
    if not handling.cancelled() and (error := handling.exception()) is not None:
        log.error("queue.handler_failed", exc_info=error)
