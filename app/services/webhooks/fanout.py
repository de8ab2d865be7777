"""Fan-out of events to deliveries: one row for each event that an endpoint wants.

Rows and the endpoint's position change in one transaction, so that no event is left out, and none comes twice by a
crash. A replay moves the position back: then the rows that are there become pending again.
"""

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, insert_or_update
from app.models import DeliveryStatus, Event, EventType, WebhookDelivery, WebhookEndpoint, WebhookStatus
from app.services.events import order, recorder
from app.services.events.order import Position
from app.services.shared.leases import NO_LEASE, has_no_lease
from app.services.webhooks import ordering
from app.utils.exceptions import DatabaseUnavailableException
from app.utils.logger import get_logger

_BATCH_SIZE: Final = 500
"""Events of one transaction."""

EventRow = Row[int, int, str, str | None, str | None]
_COLUMNS: Final = (Event.xact_id, Event.id, Event.event_type, Event.account_id, Event.api_app)

log = get_logger(__name__)


class WebhookFanout:
    """Any number of processes may run it at once."""

    def __init__(self, *, database: Database, batch_size: int = _BATCH_SIZE) -> None:
        self._database = database
        self._batch_size = batch_size

    async def run_once(self) -> int | None:
        """A batch for every active endpoint that has not seen all events; how many events were looked at.

        None: no endpoint is active.
        """
        behind = await self._find_behind()
        if behind is None:
            return None
        count = 0
        for endpoint_row_id in behind:
            try:
                count += await self._advance(endpoint_row_id)
            except DatabaseUnavailableException:
                raise
            except Exception:  # it delays no other endpoint
                log.exception("webhook.fanout_failed", endpoint_row_id=endpoint_row_id)
        return count

    async def _find_behind(self) -> list[int] | None:
        """Return the ids of active endpoints that have not seen all events; None: no endpoint is active."""
        active = select(
            WebhookEndpoint.id, WebhookEndpoint.after_xact_id, WebhookEndpoint.after_event_id
        ).where(WebhookEndpoint.status == WebhookStatus.ACTIVE)
        async with self._database.reading() as db:
            endpoints = (await db.execute(active)).all()
            if not endpoints:
                return None
            newest = await order.newest_position(db)
        return [row.id for row in endpoints if (row.after_xact_id, row.after_event_id) < newest]

    async def _advance(self, endpoint_row_id: int) -> int:
        query = select(WebhookEndpoint).where(
            WebhookEndpoint.id == endpoint_row_id, WebhookEndpoint.status == WebhookStatus.ACTIVE
        )
        async with self._database.transaction() as db:
            endpoint = await db.scalar(query.with_for_update(skip_locked=True))
            if endpoint is None:  # or in use: it has its turn in the next round
                return 0
            is_later = order.is_after(Position(endpoint.after_xact_id, endpoint.after_event_id))
            unseen = select(*_COLUMNS).where(is_later, order.is_settled(db)).order_by(*order.ORDER)
            events = (await db.execute(unseen.limit(self._batch_size))).all()
            if matching := [event for event in events if ordering.wants(endpoint, event)]:
                await _enqueue(db, endpoint, matching)
            if events:
                await _note_lost(db, endpoint, events[-1])
                await db.execute(
                    update(WebhookEndpoint)
                    .where(WebhookEndpoint.id == endpoint.id)
                    .values(
                        after_xact_id=events[-1].xact_id,
                        after_event_id=events[-1].id,
                        updated_at=WebhookEndpoint.updated_at,  # nobody has changed it
                    )
                    .execution_options(synchronize_session=False)
                )
        return len(events)


async def _enqueue(db: AsyncSession, endpoint: WebhookEndpoint, events: Iterable[EventRow]) -> None:
    rows = [
        {
            "endpoint_row_id": endpoint.id,
            "event_id": event.id,
            "event_type": event.event_type,
            "account_id": event.account_id,
            "api_app": event.api_app,
        }
        for event in events
    ]
    reset = {
        "status": DeliveryStatus.PENDING,
        "attempts": 0,
        "next_attempt_at": None,
        "completed_at": None,
        **NO_LEASE,
    }
    insert = insert_or_update(db, WebhookDelivery).values(rows)
    columns = [WebhookDelivery.endpoint_row_id, WebhookDelivery.event_id]
    is_free = has_no_lease(WebhookDelivery)  # what is being sent is told anyway
    await db.execute(insert.on_conflict_do_update(index_elements=columns, set_=reset, where=is_free))
    await ordering.enqueue(db, endpoint.id, [event.id for event in events])


async def _note_lost(db: AsyncSession, endpoint: WebhookEndpoint, last: EventRow) -> None:
    """Record that retention deleted events before they were delivered to this endpoint.

    It leaves the last event, so that whoever has seen all that there were still finds the one it stands at. Deleted
    events of a class that is kept for a shorter time are told once, with the batch that goes beyond them.
    """
    oldest = await db.scalar(select(func.min(Event.id))) or 0
    deleted_to = await order.deleted_to(db, ordering.wanted_classes(endpoint))
    last_lost = max(oldest - 1, deleted_to if deleted_to <= last.id else 0)
    if (first := endpoint.after_event_id + 1) <= last_lost:
        data: dict[str, Any] = {"from_event_id": first, "to_event_id": last_lost}
        data |= {"webhook_id": endpoint.endpoint_id, "name": endpoint.name}
        recorder.record(db, EventType.WEBHOOK_EVENTS_LOST, **data)
        log.error("webhook.events_lost", **data)
