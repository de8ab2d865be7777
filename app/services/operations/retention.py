"""Retention of history: rows are deleted in small batches, so that nothing waits long for a lock."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, delete, func, select, union_all

from app.database import Database, affected_rows
from app.models import (
    OPEN_STATUSES,
    AuthorizationAttempt,
    AuthorizationSession,
    Batch,
    BatchRow,
    DashboardSession,
    DashboardTicket,
    Event,
    EventType,
    Evidence,
    IdempotencyKey,
    ProfileSync,
    SessionStatus,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookStatus,
    utc_now,
)
from app.services.events import order, recorder
from app.services.shared.isolation import for_each, isolate_rows, run_steps

_BATCH_SIZE: Final = 1000
"""Rows of one transaction."""
_ROUTINE: Final = (
    EventType.CREDENTIAL_REFRESHED,
    EventType.CREDENTIAL_REFRESH_FAILED,
    EventType.AUTHORIZATION_STAGE,
    EventType.AUTHORIZATION_STARTED,
    EventType.AUTHORIZATION_RELEASED,
    EventType.PROFILES_SYNCED,
)
"""Types of events that the service's own work makes in great numbers; all others are kept longer: the audit trail."""
_FINAL_STATUSES: Final = [status for status in SessionStatus if status not in OPEN_STATUSES]
"""Named, because the index begins with the status."""


@dataclass(frozen=True)
class RetentionDays:
    sessions: float
    """Ended ones, with their attempts and evidence; also of batches and syncs."""
    events: float
    evidence: float
    webhooks: float
    """Deliveries that are done, with their attempts."""


class Retention:
    """Deletes what is older than the settings allow, the oldest evidence above `max_evidence_bytes`, and the oldest
    events above `max_events`.
    """

    def __init__(
        self,
        *,
        database: Database,
        days: RetentionDays,
        max_evidence_bytes: int,
        max_events: int,
        batch_size: int = _BATCH_SIZE,
    ) -> None:
        self._database = database
        self._days = days
        self._max_events = max_events
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
                "events_deleted": self._delete_events,
                "deliveries_deleted": lambda: self._delete_deliveries(_days_ago(self._days.webhooks)),
                "keys_deleted": lambda: self._delete_expired(IdempotencyKey),
                "evidence_deleted": self._delete_evidence,
                "sign_ins_deleted": lambda: self._delete_expired(DashboardSession),
                "tickets_deleted": lambda: self._delete_expired(DashboardTicket),
            }
        )
        outcome.raise_failure()
        return outcome.values

    async def _delete_events(self) -> int:
        """The last one stays, whatever its age: SQLite would give its id again, and readers go by ids."""
        is_old = Event.occurred_at < _days_ago(self._days.events)
        deleted = await self._delete(
            Event, is_old & (Event.id < select(func.max(Event.id)).scalar_subquery())
        )
        if (first_kept := await self._first_event_to_keep()) is not None:
            deleted += await self._delete_excess_events(first_kept)
        return deleted

    async def _delete_excess_events(self, first_kept: int) -> int:
        """Delete as many events as there are before `first_kept`: routine ones first, then the oldest of all.

        Reads no more than the rows that go, and of each routine type a batch.
        """
        async with self._database.reading() as db:
            query = select(func.count()).select_from(Event).where(Event.id < first_kept)
            excess = await db.scalar(query) or 0
        deleted = 0
        while limit := min(excess - deleted, self._batch_size):
            oldest = select(Event.id).order_by(Event.xact_id, Event.id).limit(limit)
            count = await self._delete_selected_events(_oldest_routine_events(limit), are_evicted=True)
            count = count or await self._delete_selected_events(oldest, are_evicted=False)
            if count == 0:
                break
            deleted += count
        return deleted

    async def _delete_selected_events(self, ids: Select[Any], *, are_evicted: bool) -> int:
        """The last one stays, as in `_delete_events`. `are_evicted`: older events stay, so a mark tells the readers."""
        async with self._database.transaction() as db:
            last = await db.scalar(select(func.max(Event.id)))
            event_ids = [each for each in await db.scalars(ids) if each != last]
            if event_ids:
                await db.execute(delete(Event).where(Event.id.in_(event_ids)))
                if are_evicted:
                    to = max(*event_ids, await order.evicted_to(db))
                    recorder.record(db, EventType.EVENTS_EVICTED, to_event_id=to, count=len(event_ids))
        return len(event_ids)

    async def _first_event_to_keep(self) -> int | None:
        """Return the id of the first event within the maximum count; None when there are not too many."""
        async with self._database.reading() as db:
            # Two queries, because SQLite finds only one end of an index by itself.
            newest = await db.scalar(select(func.max(Event.id))) or 0
            oldest = await db.scalar(select(func.min(Event.id))) or 0
            if newest - oldest < self._max_events:
                return None  # no need to count
            # In the order of the stream, because that index is the smallest.
            newest_first = select(Event.id).order_by(Event.xact_id.desc(), Event.id.desc())
            return await db.scalar(newest_first.offset(self._max_events - 1).limit(1))

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

        return await self._delete_in_batches(AuthorizationSession, is_old, delete_some)

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

        return await self._delete_in_batches(model, is_old, delete_some)

    async def _delete_in_batches(
        self,
        model: Any,
        is_old: ColumnElement[bool],
        delete_some: Callable[[Sequence[int]], Awaitable[int]],
    ) -> int:
        """Call `delete_some`, one transaction, with the ids of a batch of old rows, until one batch is not full."""
        deleted, failed = 0, list[int]()
        while True:
            old = select(model.id).where(is_old, model.id.not_in(failed)).limit(self._batch_size)
            async with self._database.reading() as db:
                ids = (await db.scalars(old)).all()
            outcome = await isolate_rows(ids, delete_some, step=f"delete_{model.__tablename__}")
            deleted += outcome.count
            failed += outcome.failed
            # Without any progress, other processes hold all of these rows, and see to them.
            if (
                len(ids) < self._batch_size
                or not (outcome.count or outcome.failed)
                or len(failed) >= self._batch_size
            ):
                return deleted


def _oldest_routine_events(limit: int) -> Select[Any]:
    """Ids; each type is read from its own end of the index."""
    types = [
        select(Event.id, Event.occurred_at)
        .where(Event.event_type == event_type)
        .order_by(Event.occurred_at)
        .limit(limit)
        .subquery()
        for event_type in _ROUTINE
    ]
    oldest = union_all(*(select(each.c.id, each.c.occurred_at) for each in types)).subquery()
    return select(oldest.c.id).order_by(oldest.c.occurred_at, oldest.c.id).limit(limit)


def _days_ago(days: float) -> datetime:
    return utc_now() - timedelta(days=days)
