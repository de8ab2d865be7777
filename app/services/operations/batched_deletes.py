"""Deletion of rows in small batches, so that nothing waits long for a lock."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, select

from app.database import Database
from app.services.shared.isolation import isolate_rows

BATCH_SIZE: Final = 1000
"""Rows of one transaction."""


async def delete_in_batches(
    database: Database,
    model: Any,
    is_old: ColumnElement[bool],
    delete_some: Callable[[Sequence[int]], Awaitable[int]],
    *,
    batch_size: int = BATCH_SIZE,
) -> int:
    """Call `delete_some`, one transaction, with the ids of a batch of old rows, until one batch is not full.

    Return the sum of what it returns: the rows that it has deleted.
    """
    deleted, failed = 0, list[int]()
    while True:
        old = select(model.id).where(is_old, model.id.not_in(failed)).limit(batch_size)
        async with database.reading() as db:
            ids = (await db.scalars(old)).all()
        outcome = await isolate_rows(ids, delete_some, step=f"delete_{model.__tablename__}")
        deleted += outcome.count
        failed += outcome.failed
        # Without any progress, other processes hold all of these rows, and see to them.
        if len(ids) < batch_size or not (outcome.count or outcome.failed) or len(failed) >= batch_size:
            return deleted
