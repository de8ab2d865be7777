"""The database's side of delivering: who sends what is due, and what becomes of it.

Deliveries of one account go out one after the other: only the first one that is pending has a time for its next
attempt, and when it is done, delivered or parked, the one behind it gets one. Whoever changes this locks the endpoint.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from pydantic import SecretStr
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.clients.webhooks import WebhookAnswer
from app.database import Database, database_time
from app.models import (
    DeliveryStatus,
    Event,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookStatus,
    utc_now,
)
from app.services import event_service
from app.services.leases import new_lease_token
from app.services.webhook_message import Message, message_of
from app.services.webhook_vault import WebhookVault
from app.utils.logger import get_logger

_JITTER: Final = 0.2
_LONGEST_RETRY_AFTER: Final = 3600.0
_PER_SLOT: Final = 4
"""Deliveries that are claimed together, for each that is sent at once."""

log = get_logger(__name__)


@dataclass(frozen=True)
class DeliveryLimits:
    retry_waits: Sequence[float]
    """Seconds before the second attempt, the third and so on; after the last one the delivery is parked."""
    pause_after: timedelta
    """Of nothing but failures."""
    concurrency: int
    """Of one endpoint, in one process."""
    lease: float
    """Seconds."""


@dataclass(frozen=True)
class Claim:
    """What this process may send, each of another account; all under one lease."""

    webhook_id: int
    lease_token: str
    url: str
    secrets: Sequence[SecretStr]
    messages: Mapping[int, Message | None]
    """By the id of the delivery. None: the event has been deleted meanwhile."""


class WebhookDeliveries:
    """`owner`: this process's name in the leases."""

    def __init__(
        self, *, database: Database, vault: WebhookVault, limits: DeliveryLimits, owner: str
    ) -> None:
        self._database = database
        self._vault = vault
        self.limits = limits
        self._owner = owner

    async def due_endpoints(self) -> Sequence[int]:
        """Active ones for which something is due."""
        is_due = select(WebhookDelivery.id).where(
            WebhookDelivery.webhook_id == WebhookEndpoint.id, *_is_due()
        )
        query = select(WebhookEndpoint.id).where(
            WebhookEndpoint.status == WebhookStatus.ACTIVE, is_due.exists()
        )
        async with self._database.reading() as session:
            return (await session.scalars(query)).all()

    async def claim(self, webhook_id: int) -> Claim | None:
        """What is due longest; a single one while the endpoint fails. None: nothing is.

        Raises `DecryptionException`.
        """
        query = select(WebhookEndpoint).where(
            WebhookEndpoint.id == webhook_id, WebhookEndpoint.status == WebhookStatus.ACTIVE
        )
        async with self._database.transaction() as session:
            endpoint = await session.scalar(query)
            if endpoint is None:
                return None
            limit = 1 if endpoint.failing_since else self.limits.concurrency * _PER_SLOT
            messages, token = {}, new_lease_token()
            for row, event in await _due(session, endpoint, limit):
                row.lease_token, row.lease_owner = token, self._owner
                row.lease_expires_at = database_time(plus=self.limits.lease)
                messages[row.id] = message_of(endpoint.endpoint_id, event) if event else None
            secrets = self._vault.open(endpoint)
        return Claim(endpoint.id, token, endpoint.url, secrets, messages) if messages else None

    async def renew(self, claim: Claim) -> bool:
        """Keep the lease; False when all of it is lost."""
        async with self._database.transaction() as session:
            renewed = await session.execute(
                update(WebhookDelivery)
                .where(*_held(claim))
                .values(lease_expires_at=database_time(plus=self.limits.lease))
            )
        return bool(renewed.rowcount)  # type: ignore[attr-defined]

    async def apply(self, claim: Claim, answers: Mapping[int, WebhookAnswer]) -> None:
        """By the id of the delivery; what has none was not sent and is due again at once."""
        async with self._database.transaction() as session:
            endpoint = await session.scalar(
                select(WebhookEndpoint).where(WebhookEndpoint.id == claim.webhook_id).with_for_update()
            )
            if endpoint is None:
                return
            rows = await session.scalars(select(WebhookDelivery).where(*_held(claim)).with_for_update())
            for row in rows.all():
                row.lease_token = row.lease_owner = row.lease_expires_at = None
                if answer := answers.get(row.id):
                    await self._apply_one(session, endpoint, row, answer)
                elif claim.messages[row.id] is None:
                    await _park(session, endpoint, row)
            if endpoint.status is WebhookStatus.ACTIVE and answers:
                self._judge(session, endpoint, answers.values())

    async def _apply_one(
        self, session: AsyncSession, endpoint: WebhookEndpoint, row: WebhookDelivery, answer: WebhookAnswer
    ) -> None:
        session.add(
            WebhookAttempt(
                delivery_id=row.id,
                started_at=answer.started_at,
                milliseconds=answer.milliseconds,
                status_code=answer.status_code,
                error=answer.error,
                answer=answer.answer,
            )
        )
        row.attempts += 1
        if answer.succeeded:
            await _complete(session, row, DeliveryStatus.DELIVERED)
        elif (wait := next_wait(self.limits.retry_waits, row.attempts, answer.retry_after)) is None:
            await _park(session, endpoint, row)
        else:
            row.next_attempt_at = utc_now() + timedelta(seconds=wait)

    def _judge(
        self, session: AsyncSession, endpoint: WebhookEndpoint, answers: Collection[WebhookAnswer]
    ) -> None:
        """Whether the endpoint works, fails, or has failed for too long."""
        if any(answer.succeeded for answer in answers):
            endpoint.failing_since = None
            return
        endpoint.failing_since = endpoint.failing_since or utc_now()
        if any(answer.is_gone for answer in answers):
            _pause(session, endpoint, "it answered 410: it wants no more")
        elif utc_now() - endpoint.failing_since >= self.limits.pause_after:
            hours = self.limits.pause_after.total_seconds() / 3600
            _pause(session, endpoint, f"every delivery has failed for {hours:g} hours")


def next_wait(waits: Sequence[float], attempts: int, retry_after: float | None) -> float | None:
    """Seconds after so many failed attempts; None: no more are made.

    By chance a fifth more or less, so that many do not come together; the endpoint may ask for more, up to an hour.
    """
    if attempts > len(waits):
        return None
    wait = waits[attempts - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
    return max(wait, min(retry_after or 0.0, _LONGEST_RETRY_AFTER))


async def _due(
    session: AsyncSession, endpoint: WebhookEndpoint, limit: int
) -> list[tuple[WebhookDelivery, Event | None]]:
    query = (
        select(WebhookDelivery, Event)
        .outerjoin(Event, Event.id == WebhookDelivery.event_id)
        .where(WebhookDelivery.webhook_id == endpoint.id, *_is_due())
        .order_by(WebhookDelivery.next_attempt_at)
        .limit(limit)
        .with_for_update(of=WebhookDelivery, skip_locked=True)
    )
    return [(row, event) for row, event in await session.execute(query)]


def _is_due() -> tuple[ColumnElement[bool], ...]:
    return (
        WebhookDelivery.status == DeliveryStatus.PENDING,
        WebhookDelivery.next_attempt_at <= utc_now(),
        WebhookDelivery.lease_expires_at.is_(None) | (WebhookDelivery.lease_expires_at < database_time()),
    )


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return WebhookDelivery.id.in_(claim.messages), WebhookDelivery.lease_token == claim.lease_token


async def _park(session: AsyncSession, endpoint: WebhookEndpoint, row: WebhookDelivery) -> None:
    await _complete(session, row, DeliveryStatus.PARKED)
    log.warning("webhook.parked", webhook_id=endpoint.endpoint_id, delivery_id=row.id, event_id=row.event_id)


async def _complete(session: AsyncSession, row: WebhookDelivery, status: DeliveryStatus) -> None:
    """It is done, and the next one of its account is due."""
    row.status, row.completed_at, row.next_attempt_at = status, utc_now(), None
    await session.flush()
    following = (
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.webhook_id == row.webhook_id,
            WebhookDelivery.account_id == row.account_id,
            WebhookDelivery.status == DeliveryStatus.PENDING,
        )
        .order_by(WebhookDelivery.xact_id, WebhookDelivery.event_id)
        .limit(1)
    )
    await session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == following.scalar_subquery(), WebhookDelivery.next_attempt_at.is_(None))
        .values(next_attempt_at=utc_now())
        .execution_options(synchronize_session=False)
    )


def _pause(session: AsyncSession, endpoint: WebhookEndpoint, reason: str) -> None:
    endpoint.status, endpoint.pause_reason = WebhookStatus.PAUSED, reason
    event_service.record(
        session, "webhook.paused", webhook_id=endpoint.endpoint_id, name=endpoint.name, reason=reason
    )
    log.warning("webhook.paused", webhook_id=endpoint.endpoint_id, name=endpoint.name, reason=reason)
