"""From events to deliveries: one row for each event that an endpoint wants, in the order of the events.

Rows and the endpoint's position change in one transaction, so that no event is left out, and none comes twice by a
crash. A replay moves the position back: then the rows that are there become pending again.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from sqlalchemy import Row, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, insert_or_update
from app.models import DeliveryStatus, Event, WebhookDelivery, WebhookEndpoint, WebhookStatus, utc_now
from app.services import event_order
from app.services.event_order import Position
from app.services.reach import Reach

_BATCH: Final = 500

EventRow = Row[int, int, str, str | None, str | None]
_COLUMNS: Final = (Event.xact_id, Event.id, Event.event_type, Event.account_id, Event.api_app)


class WebhookFanout:
    """Any number of processes may run it at once."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def run_once(self) -> int:
        """A batch for every active endpoint that has not seen all events; how many events were looked at."""
        return sum([await self._advance(webhook_id) for webhook_id in await self._behind()])

    async def _behind(self) -> list[int]:
        active = select(
            WebhookEndpoint.id, WebhookEndpoint.after_xact_id, WebhookEndpoint.after_event_id
        ).where(WebhookEndpoint.status == WebhookStatus.ACTIVE)
        async with self._database.reading() as session:
            endpoints = (await session.execute(active)).all()
            if not endpoints:
                return []
            newest = await event_order.newest(session)
        return [row.id for row in endpoints if (row.after_xact_id, row.after_event_id) < newest]

    async def _advance(self, webhook_id: int) -> int:
        query = select(WebhookEndpoint).where(
            WebhookEndpoint.id == webhook_id, WebhookEndpoint.status == WebhookStatus.ACTIVE
        )
        async with self._database.transaction() as session:
            endpoint = await session.scalar(query.with_for_update())
            if endpoint is None:
                return 0
            events = await _events_after(session, endpoint)
            if wanted := _wanted(endpoint, events):
                await _enqueue(session, endpoint, wanted)
            if events:
                endpoint.after_xact_id, endpoint.after_event_id = events[-1].xact_id, events[-1].id
        return len(events)


async def _events_after(session: AsyncSession, endpoint: WebhookEndpoint) -> Sequence[EventRow]:
    query = select(*_COLUMNS).where(event_order.after(_position(endpoint)), event_order.settled(session))
    return (await session.execute(query.order_by(*event_order.ORDER).limit(_BATCH))).all()


def _wanted(endpoint: WebhookEndpoint, events: Iterable[EventRow]) -> list[EventRow]:
    reach = Reach.of(endpoint.api_apps, endpoint.account_patterns)
    patterns = endpoint.event_types or ["*"]
    return [
        event
        for event in events
        if reach.covers(event.account_id, event.api_app)
        and any(fnmatchcase(event.event_type, pattern) for pattern in patterns)
    ]


async def _enqueue(session: AsyncSession, endpoint: WebhookEndpoint, events: Iterable[EventRow]) -> None:
    """The first of each account is due now, the others when it is done."""
    waiting = await _accounts_waiting(session, endpoint, {event.account_id or "" for event in events})
    rows = []
    for event in events:
        account = event.account_id or ""
        rows.append(
            {
                "webhook_id": endpoint.id,
                "xact_id": event.xact_id,
                "event_id": event.id,
                "event_type": event.event_type,
                "account_id": account,
                "next_attempt_at": None if account in waiting else utc_now(),
            }
        )
        waiting.add(account)
    insert = insert_or_update(session, WebhookDelivery).values(rows)
    again = {
        "status": DeliveryStatus.PENDING,
        "attempts": 0,
        "next_attempt_at": insert.excluded.next_attempt_at,
        "completed_at": None,
        "lease_token": None,
        "lease_owner": None,
        "lease_expires_at": None,
    }
    columns = [WebhookDelivery.webhook_id, WebhookDelivery.event_id]
    await session.execute(insert.on_conflict_do_update(index_elements=columns, set_=again))


async def _accounts_waiting(session: AsyncSession, endpoint: WebhookEndpoint, accounts: set[str]) -> set[str]:
    """Those with an earlier delivery that is pending. Later ones are there in a replay; they are made to wait."""
    query = select(WebhookDelivery.account_id).where(
        WebhookDelivery.webhook_id == endpoint.id,
        WebhookDelivery.status == DeliveryStatus.PENDING,
        WebhookDelivery.account_id.in_(accounts),
        tuple_(WebhookDelivery.xact_id, WebhookDelivery.event_id) <= tuple_(*_position(endpoint)),
    )
    return set(await session.scalars(query.distinct()))


def _position(endpoint: WebhookEndpoint) -> Position:
    return Position(endpoint.after_xact_id, endpoint.after_event_id)
