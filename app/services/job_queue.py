"""Delivery of session ids to whoever runs them. The session row is the truth: a job lost here is delivered again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final

from pgqueuer import PgQueuer
from pgqueuer.adapters.inmemory import InMemoryQueries
from pgqueuer.errors import RetryRequested
from pgqueuer.models import Job

_ENTRYPOINT: Final = "authorize"
_DEQUEUE_TIMEOUT: Final = timedelta(seconds=0.25)
"""A wake-up can be missed; the job then waits this long."""


class JobQueue:
    """pgqueuer in memory: one process, by priority, at most `concurrency` at once."""

    def __init__(self, *, concurrency: int) -> None:
        self._concurrency = concurrency
        self._engine = PgQueuer.in_memory()
        self._submitting: set[asyncio.Task[None]] = set()

    def submit(self, session_id: str, priority: int) -> None:
        """Deliver a session id, higher priorities first; one that is waiting already is not doubled."""
        task = asyncio.create_task(self.submit_all([(session_id, priority)]))
        self._submitting.add(task)
        task.add_done_callback(self._submitting.discard)

    async def submit_all(self, waiting: Sequence[tuple[str, int]]) -> None:
        """The same for many (session id, priority)."""
        if not waiting:
            return
        assert isinstance(self._engine.queries, InMemoryQueries)
        # Its own history is kept for as long as the process lives; ours is the sessions' events.
        await self._engine.queries.clear_queue_log()
        ids = [session_id for session_id, _ in waiting]
        await self._engine.queries.enqueue(
            [_ENTRYPOINT] * len(ids),
            [session_id.encode() for session_id in ids],
            [priority for _, priority in waiting],
            dedupe_key=list(ids),
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
