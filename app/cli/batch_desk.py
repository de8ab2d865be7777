"""Batches in the database of the settings, or at a service."""

import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Final, Unpack

from app.api.schemas.batch import BatchResponse
from app.client import AsyncClient, Batch, BatchRow
from app.client.options import BatchOptions
from app.context import Context
from app.services.batches import queries
from app.services.batches import rows as batch_rows
from app.services.batches.creation import BatchCommand
from app.services.batches.rows import RowDefaults
from app.services.batches.service import PlacedBatch
from app.services.keys.service import COMMAND_LINE
from app.services.shared.paging import PageRequest
from app.services.workers.base import WorkerGroup
from app.utils.logger import setup_logging

_PAGE: Final = 2000


class LocalBatches:
    poll = 0.0
    """Seconds between two looks at a batch, at least."""
    advice = "does a service or a worker run? --work does the work in this process."
    """Advice when nothing starts."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def place(
        self, content: bytes, *, source: str, again: bool, **options: Unpack[BatchOptions]
    ) -> PlacedBatch:
        """A batch of a CSV; what was placed as the same `source` is that batch, unless `again`."""
        order = BatchCommand(
            batch_rows.from_csv(
                content,
                RowDefaults(options.get("api_app")),
                max_rows=self._context.settings.max_batch_rows,
            ),
            max_running=options.get("max_running"),
            stop_percent=options.get("stop_percent"),
        )
        batches = self._context.sessions.batches
        async with self._context.database.transaction() as db:
            if again:
                await batches.forget_source(db, source, caller=COMMAND_LINE)
            return await batches.request(db, order, caller=COMMAND_LINE, source_hash=source)

    @asynccontextmanager
    async def working(self, *, is_wanted: bool, quietly: bool) -> AsyncIterator[None]:
        """Do the work in this process, too; at the end what it runs may end, the rest is released."""
        context = self._context
        if quietly:
            # `sys.stderr` is rich's stand-in now, which writes above the bar; the usual lines would drown it.
            setup_logging(level="WARNING", environment=context.settings.environment, stream=sys.stderr)
        worker = context.workers.named("authorization")
        group = WorkerGroup([worker] if is_wanted and worker is not None else [])
        group.start()
        try:
            yield
        finally:
            await group.stop(grace=context.settings.shutdown_grace)

    async def batch(self, batch_id: str) -> Batch:
        async with self._context.database.reading() as db:
            view = await queries.view_batch(db, batch_id, caller=COMMAND_LINE)
        return Batch(**vars(BatchResponse.from_view(view)))

    async def batch_results(self, batch_id: str) -> AsyncGenerator[BatchRow, None]:
        page, total = 1, 1
        while (page - 1) * _PAGE < total:
            async with self._context.database.reading() as db:
                results = await queries.fetch_results(
                    db, batch_id, PageRequest(page, _PAGE), caller=COMMAND_LINE
                )
            total = results.total.number
            for row in results.rows:
                yield BatchRow(**vars(row))
            page += 1

    async def cancel_batch(self, batch_id: str) -> None:
        async with self._context.database.transaction() as db:
            await self._context.sessions.batches.cancel(db, batch_id, caller=COMMAND_LINE)
        await self._context.sessions.pacing.pace(batch_id)


class RemoteBatches(AsyncClient):
    poll = 2.0  # a key has 100 requests a minute, for its other users, too
    advice = "do the service's workers run? Its GET /health/ready says so."

    async def place(
        self, content: bytes, *, source: str, again: bool, **options: Unpack[BatchOptions]
    ) -> PlacedBatch:
        """Place a batch once in 24 hours, the life of an idempotency key. One made `again` is found by its id alone."""
        placed = await self.make_batch(content, idempotency_key=None if again else source, **options)
        return PlacedBatch(placed.batch_id, is_new=not placed.existing)

    def working(self, *, is_wanted: bool, quietly: bool) -> AbstractAsyncContextManager[None]:
        """The service does it."""
        return nullcontext()


BatchDesk = LocalBatches | RemoteBatches
