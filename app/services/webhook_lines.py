"""Which events a webhook wants, and whose turn it is.

Deliveries of one account stand in line by the ids of their events: only the first one that is pending has a
time for its next attempt. One that belongs to no account stands alone. Whoever changes a line has locked the endpoint.
"""

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Protocol

from sqlalchemy import ColumnElement, case, null, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.database import database_time
from app.models import DeliveryStatus, WebhookDelivery, WebhookEndpoint
from app.services.reach import Reach


class Told(Protocol):
    """An event, or its delivery."""

    @property
    def event_type(self) -> str: ...
    @property
    def account_id(self) -> str | None: ...
    @property
    def api_app(self) -> str | None: ...


def reach_of(endpoint: WebhookEndpoint) -> Reach:
    return Reach.of(endpoint.api_apps, endpoint.account_patterns)


def wants(endpoint: WebhookEndpoint, event: Told) -> bool:
    patterns = endpoint.event_types or ["*"]
    return reach_of(endpoint).covers(event.account_id, event.api_app) and any(
        fnmatchcase(event.event_type, pattern) for pattern in patterns
    )


async def take_places(session: AsyncSession, endpoint_row_id: int, event_ids: Collection[int]) -> None:
    """Of deliveries that were just made, or made pending again: the first of each account is due now.

    One behind it that had its turn waits again.
    """
    pending = update(WebhookDelivery).where(
        WebhookDelivery.endpoint_row_id == endpoint_row_id, WebhookDelivery.status == DeliveryStatus.PENDING
    )
    made = WebhookDelivery.event_id.in_(event_ids)
    first = pending.where(made, ~_is_behind()).values(next_attempt_at=database_time())
    accounts = select(WebhookDelivery.account_id).where(
        WebhookDelivery.endpoint_row_id == endpoint_row_id, made, WebhookDelivery.next_attempt_at.is_not(None)
    )
    behind = pending.where(
        WebhookDelivery.account_id.in_(accounts),
        WebhookDelivery.event_id > min(event_ids),
        WebhookDelivery.next_attempt_at.is_not(None),
        _is_behind(),
    ).values(next_attempt_at=None)
    for statement in (first, behind):
        await session.execute(statement.execution_options(synchronize_session=False))


async def try_again(session: AsyncSession, row: WebhookDelivery, *, wait: float) -> None:
    """In `wait` seconds; by its turn when one has come before it meanwhile."""
    later = case((_is_behind(), null()), else_=database_time(plus=wait))
    await session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == row.id)
        .values(next_attempt_at=later)
        .execution_options(synchronize_session=False)
    )


async def move_up(session: AsyncSession, done: WebhookDelivery) -> None:
    """The next one of its account is due."""
    following = (
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.endpoint_row_id == done.endpoint_row_id,
            WebhookDelivery.account_id == done.account_id,
            WebhookDelivery.status == DeliveryStatus.PENDING,
        )
        .order_by(WebhookDelivery.event_id)
        .limit(1)
    )
    await session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == following.scalar_subquery(), WebhookDelivery.next_attempt_at.is_(None))
        .values(next_attempt_at=database_time())
        .execution_options(synchronize_session=False)
    )


def _is_behind() -> ColumnElement[bool]:
    """An earlier one of the same account is pending."""
    earlier = aliased(WebhookDelivery)
    return (
        select(earlier.id)
        .where(
            earlier.endpoint_row_id == WebhookDelivery.endpoint_row_id,
            earlier.account_id == WebhookDelivery.account_id,
            earlier.status == DeliveryStatus.PENDING,
            earlier.event_id < WebhookDelivery.event_id,
        )
        .exists()
    )
