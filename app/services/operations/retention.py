"""Retention of history: rows are deleted in small batches, so that nothing waits long for a lock."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, select

from app.database import Database, affected_rows
from app.models import (
    OPEN_STATUSES,
    AuthenticationRequest,
    AuthorizationAttempt,
    AuthorizationSession,
    Batch,
    BatchRow,
    DashboardSession,
    DashboardTicket,
    Evidence,
    IdempotencyKey,
    ProfileSync,
    SessionStatus,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookStatus,
    utc_now,
)
from app.services.operations.batched_deletes import BATCH_SIZE, delete_in_batches
from app.services.operations.event_retention import EventRetention
from app.services.operations.history_retention import HistoryRetention
from app.services.shared.isolation import for_each, isolate_rows, run_steps

_FINAL_STATUSES: Final = [status for status in SessionStatus if status not in OPEN_STATUSES]
"""Named, because the index begins with the status."""


@dataclass(frozen=True)
class RetentionDays:
    sessions: float
    """Ended ones, with their attempts and evidence; also of batches and syncs."""
    evidence: float
    webhooks: float
    """Deliveries that are done, with their attempts."""


class Retention:
    """Deletes what is older than the settings allow, and the oldest evidence above `max_evidence_bytes`."""

    def __init__(
        self,
        *,
        database: Database,
        days: RetentionDays,
        events: EventRetention,
        history: HistoryRetention,
        max_evidence_bytes: int,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self._database = database
        self._days = days
        self._events = events
        self._history = history
        self._max_evidence_bytes = max_evidence_bytes
        self._batch_size = batch_size

    async def delete_old(self) -> dict[str, int]:
        """Rows deleted, by what they were. Raises what the first failing step raises, after all the others have run."""
        ended_before = _days_ago(self._days.sessions)
        outcome = await run_steps(
            {
                "sessions_deleted": lambda: self._delete_sessions(ended_before),
                "batches_deleted": lambda: self._delete_batches(Batch.completed_at < ended_before),
                "syncs_deleted": lambda: self._delete(ProfileSync, ProfileSync.completed_at < ended_before),
                "hours_counted": self._events.count_hours,
                "events_deleted": self._events.delete_old,
                "deliveries_deleted": lambda: self._delete_deliveries(_days_ago(self._days.webhooks)),
                "keys_deleted": lambda: self._delete_expired(IdempotencyKey),
                "evidence_deleted": self._delete_evidence,
                "sign_ins_deleted": lambda: self._delete_expired(DashboardSession),
                "tickets_deleted": lambda: self._delete_expired(DashboardTicket),
                "sign_in_requests_deleted": lambda: self._delete_expired(AuthenticationRequest),
                "event_partitions_made": self._events.make_partitions,
                "history_deleted": self._history.delete_old,
                "history_hours_summed_up": self._history.sum_up,
            }
        )
        outcome.raise_failure()
        return outcome.values

    async def _delete_batches(self, is_old: ColumnElement[bool]) -> int:
        """Delete old batches with their rows, a transaction for each: one may have ten thousand."""

        async def delete_one(batch_id: str) -> int:
            async with self._database.transaction() as db:
                result = await db.execute(delete(Batch).where(Batch.batch_id == batch_id, is_old))
                if affected_rows(result):
                    await db.execute(delete(BatchRow).where(BatchRow.batch_id == batch_id))
            return 1

        async with self._database.reading() as db:
            batch_ids = (await db.scalars(select(Batch.batch_id).where(is_old))).all()
        return (await for_each(batch_ids, delete_one, step="delete_batches")).count

    async def _delete_sessions(self, ended_before: datetime) -> int:
        """Delete old sessions with all that belongs to them; one that is just being tried again is left alone."""
        is_old = AuthorizationSession.status.in_(_FINAL_STATUSES) & (
            AuthorizationSession.completed_at < ended_before
        )

        async def delete_some(ids: Sequence[int]) -> int:
            old = select(AuthorizationSession.session_id).where(AuthorizationSession.id.in_(ids), is_old)
            async with self._database.transaction() as db:
                session_ids = (await db.scalars(old.with_for_update(skip_locked=True))).all()
                for model in (AuthorizationAttempt, Evidence, AuthorizationSession):
                    await db.execute(delete(model).where(model.session_id.in_(session_ids)))
            return len(session_ids)

        return await delete_in_batches(
            self._database, AuthorizationSession, is_old, delete_some, batch_size=self._batch_size
        )

    async def _delete_deliveries(self, done_before: datetime) -> int:
        """Delete old deliveries with their attempts, all of deleted webhooks, and then those webhooks."""
        is_deleted = WebhookEndpoint.status == WebhookStatus.DELETED
        of_deleted = WebhookDelivery.endpoint_row_id.in_(select(WebhookEndpoint.id).where(is_deleted))
        deleted = await self._delete(WebhookDelivery, WebhookDelivery.completed_at < done_before)
        deleted += await self._delete(WebhookDelivery, of_deleted)
        await self._delete(WebhookEndpoint, is_deleted)
        return deleted

    async def _delete_evidence(self) -> int:
        """The old, then the oldest until the rest fits."""

        async def delete_some(ids: Sequence[int]) -> int:
            async with self._database.transaction() as db:
                await db.execute(delete(Evidence).where(Evidence.id.in_(ids)))
            return len(ids)

        deleted = await self._delete(Evidence, Evidence.taken_at < _days_ago(self._days.evidence))
        failed: list[int] = []
        while len(failed) < self._batch_size and (ids := await self._oldest_excess_evidence(failed)):
            outcome = await isolate_rows(ids, delete_some, step="delete_evidence")
            deleted += outcome.count
            failed += outcome.failed
        return deleted

    async def _oldest_excess_evidence(self, failed: Sequence[int]) -> list[int]:
        """Ids of those that are too many, a batch of them at most, without those that cannot be deleted."""
        oldest = (
            select(Evidence.id, Evidence.size_bytes)
            .where(Evidence.id.not_in(failed))
            .order_by(Evidence.taken_at, Evidence.id)
            .limit(self._batch_size)
        )
        async with self._database.reading() as db:
            total = await db.scalar(select(func.sum(Evidence.size_bytes))) or 0
            rows = (await db.execute(oldest)).all()
        ids = []
        for row in rows:
            if total <= self._max_evidence_bytes:
                break
            ids.append(row.id)
            total -= row.size_bytes
        return ids

    async def _delete_expired(self, model: Any) -> int:
        return await self._delete(model, model.expires_at <= utc_now())

    async def _delete(self, model: Any, is_old: ColumnElement[bool]) -> int:
        async def delete_some(ids: Sequence[int]) -> int:
            # Asked twice: a row may change while PostgreSQL waits for it, and only what stands here is asked again.
            query = delete(model).where(model.id.in_(ids), is_old)
            async with self._database.transaction() as db:
                result = await db.execute(query)
            return affected_rows(result)

        return await delete_in_batches(
            self._database, model, is_old, delete_some, batch_size=self._batch_size
        )


def _days_ago(days: float) -> datetime:
    return utc_now() - timedelta(days=days)
