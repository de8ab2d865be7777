"""Webhooks and their deliveries, as they are shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import DeliveryStatus, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from app.services.listing import Page, PageRequest, page_of
from app.services.reach import Reach
from app.services.webhook_service import is_there, reach_of
from app.utils.exceptions import DeliveryNotFoundException


@dataclass(frozen=True)
class WebhookView:
    row: WebhookEndpoint
    pending: int
    parked: int


async def view(session: AsyncSession, row: WebhookEndpoint) -> WebhookView:
    return (await _views(session, [row]))[0]


async def all_within(session: AsyncSession, reach: Reach) -> list[WebhookView]:
    """The oldest first; there are `WEBHOOK_MAX_ENDPOINTS` at most."""
    rows = (
        await session.scalars(select(WebhookEndpoint).where(is_there()).order_by(WebhookEndpoint.id))
    ).all()
    return await _views(session, [row for row in rows if reach.includes(reach_of(row))])


async def page_of_deliveries(
    session: AsyncSession, webhook_id: int, request: PageRequest, *, status: DeliveryStatus | None
) -> Page[WebhookDelivery]:
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    if status is not None:
        query = query.where(WebhookDelivery.status == status)
    return await page_of(session, query, WebhookDelivery, request)


async def delivery(
    session: AsyncSession, endpoint: WebhookEndpoint, delivery_id: int
) -> tuple[WebhookDelivery, Sequence[WebhookAttempt]]:
    """With its attempts, the first one first. Raises `DeliveryNotFoundException`."""
    query = select(WebhookDelivery).where(
        WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == endpoint.id
    )
    row = await session.scalar(query)
    if row is None:
        raise DeliveryNotFoundException(endpoint.endpoint_id, delivery_id)
    attempts = select(WebhookAttempt).where(WebhookAttempt.delivery_id == delivery_id)
    return row, (await session.scalars(attempts.order_by(WebhookAttempt.id))).all()


async def _views(session: AsyncSession, rows: Sequence[WebhookEndpoint]) -> list[WebhookView]:
    counts = await _counts(session, [row.id for row in rows])
    return [
        WebhookView(
            row,
            pending=counts.get((row.id, DeliveryStatus.PENDING), 0),
            parked=counts.get((row.id, DeliveryStatus.PARKED), 0),
        )
        for row in rows
    ]


async def _counts(session: AsyncSession, ids: Sequence[int]) -> dict[tuple[int, DeliveryStatus], int]:
    columns = (WebhookDelivery.webhook_id, WebhookDelivery.status)
    undelivered = (DeliveryStatus.PENDING, DeliveryStatus.PARKED)
    query = (
        select(*columns, func.count())
        .where(WebhookDelivery.webhook_id.in_(ids), WebhookDelivery.status.in_(undelivered))
        .group_by(*columns)
    )
    return {(webhook_id, status): count for webhook_id, status, count in await session.execute(query)}
