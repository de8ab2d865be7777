"""How long history is kept; deleted in small batches, so that nothing waits long for a lock."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, select

from app.database import Database
from app.models import AuthorizationSession, Batch, BatchRow, Event, ProfileSync, utc_now

_BATCH: Final = 1000


@dataclass(frozen=True)
class RetentionDays:
    sessions: int
    """Ended ones; also of batches and syncs."""
    events: int


class Retention:
    """Deletes ended sessions, batches, syncs and events that are older than the settings allow."""

    def __init__(self, *, database: Database, days: RetentionDays) -> None:
        self._database = database
        self._days = days

    async def delete_old(self) -> dict[str, int]:
        """Rows deleted, by what they were."""
        ended_before = utc_now() - timedelta(days=self._days.sessions)
        before = utc_now() - timedelta(days=self._days.events)
        return {
            "sessions_deleted": await self._delete(
                AuthorizationSession, AuthorizationSession.completed_at < ended_before
            ),
            "batches_deleted": await self._delete_batches(Batch.completed_at < ended_before),
            "syncs_deleted": await self._delete(ProfileSync, ProfileSync.completed_at < ended_before),
            "events_deleted": await self._delete(Event, Event.occurred_at < before),
        }

    async def _delete_batches(self, is_old: ColumnElement[bool]) -> int:
        """With their rows, a transaction for each: one may have ten thousand."""
        async with self._database.reading() as session:
            batch_ids = (await session.scalars(select(Batch.batch_id).where(is_old))).all()
        for batch_id in batch_ids:
            async with self._database.transaction() as session:
                await session.execute(delete(BatchRow).where(BatchRow.batch_id == batch_id))
                await session.execute(delete(Batch).where(Batch.batch_id == batch_id))
        return len(batch_ids)

    async def _delete(self, model: Any, is_old: ColumnElement[bool]) -> int:
        """A transaction for each batch, until one is not full."""
        deleted = 0
        while True:
            oldest = select(model.id).where(is_old).limit(_BATCH)
            async with self._database.transaction() as session:
                result = await session.execute(delete(model).where(model.id.in_(oldest)))
            count: int = result.rowcount  # type: ignore[attr-defined]
            deleted += count
            if count < _BATCH:
                return deleted
