"""Webhooks and their deliveries, as they are shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import DeliveryStatus, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from app.services.shared.access import EVERYTHING, AccessScope
from app.services.shared.paging import Page, PageRequest, fetch_page
from app.services.webhooks.ordering import webhook_access
from app.services.webhooks.service import is_there
from app.utils.exceptions import DeliveryNotFoundException

_COUNT_LIMIT: Final = 10_000
"""Deliveries, at most."""


@dataclass(frozen=True)
class WebhookView:
    row: WebhookEndpoint
    pending: int
    """10,000 at most, as for `parked`."""
    parked: int


async def view(db: AsyncSession, row: WebhookEndpoint) -> WebhookView:
    return (await _views(db, [row]))[0]


async def fetch_all(db: AsyncSession, access: AccessScope) -> list[WebhookView]:
    """The oldest first; there are `WEBHOOK_MAX_ENDPOINTS` at most."""
    rows = (await db.scalars(select(WebhookEndpoint).where(is_there()).order_by(WebhookEndpoint.id))).all()
    return await _views(db, [row for row in rows if access.includes(webhook_access(row))])


async def fetch_deliveries(
    db: AsyncSession,
    endpoint: WebhookEndpoint,
    access: AccessScope,
    request: PageRequest,
    *,
    status: DeliveryStatus | None,
) -> Page[WebhookDelivery]:
    """Return a page of the deliveries that `access` covers: the webhook may have been for more before."""
    deliveries = select(WebhookDelivery).where(WebhookDelivery.endpoint_row_id == endpoint.id)
    if status is not None:
        deliveries = deliveries.where(WebhookDelivery.status == status)
    indexed = None if access == EVERYTHING else deliveries
    query = deliveries.where(access.condition(WebhookDelivery.account_id, WebhookDelivery.api_app))
    return await fetch_page(db, query, WebhookDelivery, request, indexed=indexed)


async def delivery(
    db: AsyncSession, endpoint: WebhookEndpoint, access: AccessScope, delivery_id: int
) -> tuple[WebhookDelivery, Sequence[WebhookAttempt]]:
    """Return a delivery with its attempts, the first one first. Raises `DeliveryNotFoundException`."""
    is_covered = access.condition(WebhookDelivery.account_id, WebhookDelivery.api_app)
    query = select(WebhookDelivery).where(
        WebhookDelivery.id == delivery_id, WebhookDelivery.endpoint_row_id == endpoint.id, is_covered
    )
    row = await db.scalar(query)
    if row is None:
        raise DeliveryNotFoundException(endpoint.endpoint_id, delivery_id)
    attempts = select(WebhookAttempt).where(WebhookAttempt.delivery_id == delivery_id)
    return row, (await db.scalars(attempts.order_by(WebhookAttempt.id))).all()


async def _views(db: AsyncSession, rows: Sequence[WebhookEndpoint]) -> list[WebhookView]:
    if not rows:
        return []
    counts = select(WebhookEndpoint.id, _count(DeliveryStatus.PENDING), _count(DeliveryStatus.PARKED))
    result = await db.execute(counts.where(WebhookEndpoint.id.in_([row.id for row in rows])))
    by_id = {row_id: (pending, parked) for row_id, pending, parked in result}
    return [WebhookView(row, *by_id.get(row.id, (0, 0))) for row in rows]


def _count(status: DeliveryStatus) -> ColumnElement[int]:
    deliveries = (
        select(literal(1))
        .where(WebhookDelivery.endpoint_row_id == WebhookEndpoint.id, WebhookDelivery.status == status)
        .limit(_COUNT_LIMIT)
        .correlate(WebhookEndpoint)
    )
    return select(func.count()).select_from(deliveries.subquery()).scalar_subquery()
