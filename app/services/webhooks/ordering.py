"""Filter of a webhook's events, and their order for each account.

Deliveries of one account stand in line by the ids of their events: only the first one that is pending has a
time for its next attempt. One that belongs to no account stands alone. Whoever changes a line has locked the endpoint.
"""

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any, Protocol

from sqlalchemy import ColumnElement, case, false, null, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.database import database_time
from app.models import DeliveryStatus, EventClass, EventType, WebhookDelivery, WebhookEndpoint, class_of
from app.services.shared.access import AccessScope


class EventRef(Protocol):
    """An event, or its delivery."""

    @property
    def event_type(self) -> str: ...
    @property
    def account_id(self) -> str | None: ...
    @property
    def api_app(self) -> str | None: ...


def webhook_access(endpoint: WebhookEndpoint) -> AccessScope:
    return AccessScope.from_lists(endpoint.api_apps, endpoint.account_patterns)


def wants(endpoint: WebhookEndpoint, event: EventRef) -> bool:
    return webhook_access(endpoint).covers(event.account_id, event.api_app) and _wants_type(
        endpoint, event.event_type
    )


def wanted_classes(endpoint: WebhookEndpoint) -> set[EventClass]:
    return {class_of(each) for each in EventType if _wants_type(endpoint, each)}


async def enqueue(db: AsyncSession, endpoint_row_id: int, event_ids: Collection[int]) -> None:
    """Place deliveries that were just made, or made pending again: the first of each account is due now.

    One behind it that had its turn waits again.
    """
    pending = _pending(endpoint_row_id)
    is_new = (WebhookDelivery.endpoint_row_id == endpoint_row_id, WebhookDelivery.event_id.in_(event_ids))
    has_no_account = (WebhookDelivery.account_id.is_(None), WebhookDelivery.next_attempt_at.is_(None))
    accounts = select(WebhookDelivery.account_id).where(*is_new, WebhookDelivery.next_attempt_at.is_not(None))
    is_behind = (
        WebhookDelivery.account_id.in_(accounts),
        # Not by `is_not`: SQLite would read all that have their turn, of any account.
        WebhookDelivery.next_attempt_at.is_(None).is_(false()),
        _is_behind(),
    )
    await _set_time(db, *pending, *is_new, *has_no_account, time=database_time())
    await _begin_lines(db, endpoint_row_id, is_new)
    await _set_time(db, *pending, *is_behind, time=null())


async def repair(db: AsyncSession, endpoint_row_id: int) -> None:
    """Lines whose first one has no time go on: the one that was before it may have been deleted."""
    await _begin_lines(db, endpoint_row_id, _pending(endpoint_row_id))


async def try_again(db: AsyncSession, row: WebhookDelivery, *, wait: float) -> None:
    """Try again in `wait` seconds, or in turn when another has come before it meanwhile."""
    time = case((_is_behind(), null()), else_=database_time(plus=wait))
    await _set_time(db, WebhookDelivery.id == row.id, time=time)


async def advance(db: AsyncSession, delivery: WebhookDelivery) -> None:
    """The next one of its account is due."""
    next_id = (
        select(WebhookDelivery.id)
        .where(*_pending(delivery.endpoint_row_id), WebhookDelivery.account_id == delivery.account_id)
        .order_by(WebhookDelivery.event_id)
        .limit(1)
    )
    is_waiting = WebhookDelivery.next_attempt_at.is_(None)
    await _set_time(db, WebhookDelivery.id == next_id.scalar_subquery(), is_waiting, time=database_time())


def _wants_type(endpoint: WebhookEndpoint, event_type: str) -> bool:
    return any(fnmatchcase(event_type, pattern) for pattern in endpoint.event_types or ["*"])


async def _begin_lines(
    db: AsyncSession, endpoint_row_id: int, conditions: tuple[ColumnElement[bool], ...]
) -> None:
    """Make the first delivery due of each account that has one of these, unless it has its time already."""
    accounts = select(WebhookDelivery.account_id).where(*conditions).distinct().subquery()
    first = aliased(WebhookDelivery)
    heads = select(
        select(first.id)
        .where(
            first.endpoint_row_id == endpoint_row_id,
            first.account_id == accounts.c.account_id,
            first.status == DeliveryStatus.PENDING,
        )
        .order_by(first.event_id)
        .limit(1)
        .correlate(accounts)
        .scalar_subquery()
    )
    waiting = (WebhookDelivery.id.in_(heads.select_from(accounts)), WebhookDelivery.next_attempt_at.is_(None))
    await _set_time(db, *waiting, time=database_time())


async def _set_time(db: AsyncSession, *conditions: ColumnElement[bool], time: ColumnElement[Any]) -> None:
    await db.execute(
        update(WebhookDelivery)
        .where(*conditions)
        .values(next_attempt_at=time)
        .execution_options(synchronize_session=False)
    )


def _pending(endpoint_row_id: int) -> tuple[ColumnElement[bool], ...]:
    return (
        WebhookDelivery.endpoint_row_id == endpoint_row_id,
        WebhookDelivery.status == DeliveryStatus.PENDING,
    )


def _is_behind() -> ColumnElement[bool]:
    """An earlier one of the same account is pending."""
    other = aliased(WebhookDelivery)
    return (
        select(other.id)
        .where(
            other.endpoint_row_id == WebhookDelivery.endpoint_row_id,
            other.account_id == WebhookDelivery.account_id,
            other.status == DeliveryStatus.PENDING,
            other.event_id < WebhookDelivery.event_id,
        )
        .exists()
    )
