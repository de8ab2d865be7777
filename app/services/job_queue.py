"""Delivery of session ids to whoever runs them. The session row is the truth: a job lost here is delivered again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pgqueuer import PgQueuer
from pgqueuer.adapters.inmemory import InMemoryQueries
from pgqueuer.errors import RetryRequested
from pgqueuer.models import Job

from app.models import AuthorizationSession, utc_now

_ENTRYPOINT: Final = "authorize"
_RANK_ORIGIN: Final = 1_577_836_800
"""2020 began then, in unix seconds."""
_DEQUEUE_TIMEOUT: Final = timedelta(seconds=0.25)
"""A wake-up can be missed; the job then waits this long."""


@dataclass(frozen=True)
class Waiting:
    """A session that waits for its start."""

    session_id: str
    rank: float
    """The lowest goes first; see `session_life.queue_rank`."""
    not_before: datetime | None

    @classmethod
    def of(cls, row: AuthorizationSession) -> "Waiting":
        return cls(row.session_id, row.queue_rank, row.not_before)

    @property
    def priority(self) -> int:
        """The engine starts with the highest, in 32 bits."""
        return int(_RANK_ORIGIN - self.rank)

    @property
    def delay(self) -> timedelta:
        return max(timedelta(), self.not_before - utc_now()) if self.not_before else timedelta()


class JobQueue:
    """pgqueuer in memory: one process, by priority, at most `concurrency` at once."""

    def __init__(self, *, concurrency: int) -> None:
        self._concurrency = concurrency
        self._engine = PgQueuer.in_memory()
        self._submitting: set[asyncio.Task[None]] = set()

    def submit(self, waiting: Waiting) -> None:
        """Deliver a session's id when its time has come; one that is waiting already is not doubled."""
        task = asyncio.create_task(self.submit_all([waiting]))
        self._submitting.add(task)
        task.add_done_callback(self._submitting.discard)

    async def submit_all(self, waiting: Sequence[Waiting]) -> None:
        """The same for many."""
        if not waiting:
            return
        assert isinstance(self._engine.queries, InMemoryQueries)
        # Its own history is kept for as long as the process lives; ours is the sessions' events.
        await self._engine.queries.clear_queue_log()
        await self._engine.queries.enqueue(
            [_ENTRYPOINT] * len(waiting),
            [each.session_id.encode() for each in waiting],
            [each.priority for each in waiting],
            execute_after=[each.delay for each in waiting],
            dedupe_key=[each.session_id for each in waiting],
            on_conflict="skip",
        )

    async def run(self, handle: Callable[[str], Awaitable[float | None]]) -> None:
        """Deliver until `stop()`, then wait for the handlers that still run.

        A handler that returns seconds is called again with the same id after them.
        """

        @self._engine.entrypoint(_ENTRYPOINT, concurrency_limit=self._concurrency)
        async def authorize(job: Job) -> None:
            assert job.payload is not None
            again_after = await handle(job.payload.decode())
            if again_after is not None:
                raise RetryRequested(delay=timedelta(seconds=again_after))

        # The engine wants at least two per batch; `concurrency_limit` is the limit that counts.
        await self._engine.run(
            dequeue_timeout=_DEQUEUE_TIMEOUT, batch_size=1, max_concurrent_tasks=max(2, self._concurrency)
        )

    def stop(self) -> None:
        """Deliver nothing more."""
        self._engine.shutdown.set()
