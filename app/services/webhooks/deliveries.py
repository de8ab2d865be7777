"""The database's side of delivering: who sends what is due, and what becomes of it.

Whoever changes deliveries locks their endpoint; `ordering` says whose turn it is.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydantic import SecretStr
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import flag_modified

from app.clients.webhooks import WebhookAnswer
from app.database import Database, database_time
from app.models import (
    DeliveryStatus,
    Event,
    EventType,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookStatus,
    utc_now,
)
from app.services.events import recorder
from app.services.shared.isolation import UsableRows, isolate_rows
from app.services.shared.leases import clear_lease, has_no_lease, renew_lease, take_lease
from app.services.webhooks import ordering
from app.services.webhooks.message import Message, build_message
from app.services.webhooks.vault import WebhookVault
from app.utils.exceptions import DecryptionException
from app.utils.logger import get_logger
from app.utils.waits import jittered

_MAX_FOUND: Final = 20
"""Deliveries that are claimed one by one at once, when one of them cannot be claimed."""
_JITTER: Final = 0.2
_MAX_RETRY_AFTER: Final = 3600.0
_LOST: Final = "Not sent: the event was deleted before (EVENT_…_RETENTION_DAYS and _COUNT of its class)"
_UNWANTED: Final = "Not sent: the webhook is no longer for this type, app or account"
_UNREADABLE: Final = "its secret opens with none of ENCRYPTION_KEYS"

log = get_logger(__name__)


@dataclass(frozen=True)
class DeliveryLimits:
    retry_waits: Sequence[float]
    """Seconds before the second attempt, the third and so on; after the last one the delivery is parked."""
    pause_after: timedelta
    """Time of nothing but failures after which the endpoint is paused."""
    concurrency: int
    """Ceiling of deliveries at once of one endpoint in one process."""
    lease: float
    """Seconds."""


@dataclass(frozen=True)
class Claim:
    """A delivery that this process sends now."""

    delivery_id: int
    lease_token: str
    url: str
    secrets: Sequence[SecretStr]
    message: Message
    is_trial: bool
    """The endpoint fails: it is tried with this one alone."""
    endpoint_changed_at: datetime
    """Time of the endpoint's last change: a result from before it says nothing of the endpoint."""


class WebhookDeliveries:
    """`owner`: this process's name in the leases."""

    def __init__(
        self, *, database: Database, vault: WebhookVault, limits: DeliveryLimits, owner: str
    ) -> None:
        self._database = database
        self._vault = vault
        self.limits = limits
        self._owner = owner
        self._usable = UsableRows(WebhookDelivery.id, step="claim_deliveries")

    async def due_endpoints(self) -> Sequence[int]:
        """Active ones for which something is due."""
        is_due = select(WebhookDelivery.id).where(
            WebhookDelivery.endpoint_row_id == WebhookEndpoint.id, *_is_due()
        )
        query = select(WebhookEndpoint.id).where(
            WebhookEndpoint.status == WebhookStatus.ACTIVE, is_due.exists()
        )
        async with self._database.reading() as db:
            return (await db.scalars(query)).all()

    async def claim(self, endpoint_row_id: int, *, under_way: int) -> list[Claim] | None:
        """Claim the deliveries due longest, as many as `under_way` leaves room for, each of another account.

        No more than is sent at once, so that nothing is sent to who was paused, deleted or moved meanwhile. What cannot
        be sent is parked here. None: nothing was due, or nothing is free.
        """
        if under_way >= self.limits.concurrency:
            return None
        claimed = 0

        async def claim(condition: ColumnElement[bool]) -> list[Claim] | None:
            nonlocal claimed
            claims = await self._claim(endpoint_row_id, under_way + claimed, condition)
            claimed += len(claims or ())
            return claims

        async def find(condition: ColumnElement[bool]) -> Sequence[int]:
            due = select(WebhookDelivery.id).where(
                WebhookDelivery.endpoint_row_id == endpoint_row_id, condition, *_is_due()
            )
            async with self._database.reading() as db:
                ids = await db.scalars(due.order_by(WebhookDelivery.next_attempt_at).limit(_MAX_FOUND))
                return ids.all()

        return await self._usable.claim(claim, find)

    async def _claim(
        self, endpoint_row_id: int, under_way: int, condition: ColumnElement[bool]
    ) -> list[Claim] | None:
        async with self._database.transaction() as db:
            endpoint = await _locked(db, endpoint_row_id)
            if endpoint is None or endpoint.status is not WebhookStatus.ACTIVE:
                return None
            ceiling = 1 if endpoint.failing_since else self.limits.concurrency
            if not (due := await _find_due(db, endpoint, condition, limit=max(ceiling - under_way, 0))):
                return None
            try:
                secrets = self._vault.open(endpoint)
            except DecryptionException:
                _pause(db, endpoint, _UNREADABLE)
                return None
            claims = []
            for row, event in due:
                if event is None or not ordering.wants(endpoint, event):
                    reason = _UNWANTED if event else _LOST
                    db.add(WebhookAttempt(delivery_id=row.id, milliseconds=0, error=reason))
                    clear_lease(row)
                    await _park(db, endpoint, row)
                    continue
                token = take_lease(row, owner=self._owner, seconds=self.limits.lease)
                message = build_message(endpoint.endpoint_id, event)
                is_trial = endpoint.failing_since is not None
                claims.append(
                    Claim(row.id, token, endpoint.url, secrets, message, is_trial, endpoint.updated_at)
                )
            return claims

    async def renew(self, claim: Claim) -> bool:
        """Keep the lease; False when it is lost."""
        seconds = self.limits.lease
        return await renew_lease(self._database, WebhookDelivery, *_lease_guard(claim), seconds=seconds)

    async def apply(self, endpoint_row_id: int, results: Sequence[tuple[Claim, WebhookAnswer]]) -> None:
        """Apply results; those whose lease was lost change nothing."""
        by_id = {claim.delivery_id: (claim, answer) for claim, answer in results}

        async def apply(delivery_ids: Sequence[int]) -> int:
            async with self._database.transaction() as db:
                endpoint = await _locked(db, endpoint_row_id)
                if endpoint is None:
                    return 0
                answers = []
                for claim, answer in (by_id[delivery_id] for delivery_id in delivery_ids):
                    row = await db.scalar(
                        select(WebhookDelivery).where(*_lease_guard(claim)).with_for_update()
                    )
                    if row is not None:
                        if claim.endpoint_changed_at == endpoint.updated_at:
                            answers.append(answer)
                        await self._apply_one(db, endpoint, row, answer)
                if answers and endpoint.status is WebhookStatus.ACTIVE:
                    self._judge(db, endpoint, answers)
            return len(delivery_ids)

        await isolate_rows(list(by_id), apply, step="apply_deliveries")

    async def _apply_one(
        self, db: AsyncSession, endpoint: WebhookEndpoint, row: WebhookDelivery, answer: WebhookAnswer
    ) -> None:
        db.add(
            WebhookAttempt(
                delivery_id=row.id,
                started_at=answer.started_at,
                milliseconds=answer.milliseconds,
                status_code=answer.status_code,
                error=answer.error,
                answer=answer.answer,
            )
        )
        clear_lease(row)
        row.attempts += 1
        if answer.succeeded:
            await _complete(db, row, DeliveryStatus.DELIVERED)
        elif (wait := next_wait(self.limits.retry_waits, row.attempts, answer.retry_after)) is None:
            await _park(db, endpoint, row)
        else:
            await ordering.try_again(db, row, wait=wait)

    def _judge(self, db: AsyncSession, endpoint: WebhookEndpoint, answers: Collection[WebhookAnswer]) -> None:
        """Note whether the endpoint works, fails, or has taken nothing for too long, whatever the reason."""
        if any(answer.succeeded for answer in answers):
            endpoint.failing_since = None
        else:
            endpoint.failing_since = endpoint.failing_since or utc_now()
            if any(answer.is_gone for answer in answers):
                _pause(db, endpoint, "it answered 410: it wants no more")
            elif utc_now() - endpoint.failing_since >= self.limits.pause_after:
                hours = self.limits.pause_after.total_seconds() / 3600
                _pause(db, endpoint, f"every delivery has failed for {hours:g} hours")
        if endpoint.status is WebhookStatus.ACTIVE and db.is_modified(endpoint):
            flag_modified(endpoint, "updated_at")  # nobody has changed it


def next_wait(waits: Sequence[float], attempts: int, retry_after: float | None) -> float | None:
    """Seconds after so many failed attempts; None: no more are made.

    By chance a fifth more or less, so that many do not come together; the endpoint may ask for more, up to an hour.
    """
    if attempts > len(waits):
        return None
    wait = jittered(waits[attempts - 1], _JITTER)
    return max(wait, min(retry_after or 0.0, _MAX_RETRY_AFTER))


async def _locked(db: AsyncSession, endpoint_row_id: int) -> WebhookEndpoint | None:
    query = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_row_id)
    return await db.scalar(query.with_for_update())


async def _find_due(
    db: AsyncSession, endpoint: WebhookEndpoint, condition: ColumnElement[bool], *, limit: int
) -> list[tuple[WebhookDelivery, Event | None]]:
    query = (
        select(WebhookDelivery, Event)
        .outerjoin(Event, Event.id == WebhookDelivery.event_id)
        .where(WebhookDelivery.endpoint_row_id == endpoint.id, condition, *_is_due())
        .order_by(WebhookDelivery.next_attempt_at)
        .limit(limit)
        .with_for_update(of=WebhookDelivery, skip_locked=True)
    )
    return [(row, event) for row, event in await db.execute(query)]


def _is_due() -> tuple[ColumnElement[bool], ...]:
    return (
        WebhookDelivery.status == DeliveryStatus.PENDING,
        WebhookDelivery.next_attempt_at <= database_time(),
        has_no_lease(WebhookDelivery),
    )


def _lease_guard(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return WebhookDelivery.id == claim.delivery_id, WebhookDelivery.lease_token == claim.lease_token


async def _park(db: AsyncSession, endpoint: WebhookEndpoint, row: WebhookDelivery) -> None:
    await _complete(db, row, DeliveryStatus.PARKED)
    log.warning("webhook.parked", webhook_id=endpoint.endpoint_id, delivery_id=row.id, event_id=row.event_id)


async def _complete(db: AsyncSession, row: WebhookDelivery, status: DeliveryStatus) -> None:
    row.status, row.completed_at, row.next_attempt_at = status, utc_now(), None
    await db.flush()
    await ordering.advance(db, row)


def _pause(db: AsyncSession, endpoint: WebhookEndpoint, reason: str) -> None:
    endpoint.status, endpoint.pause_reason = WebhookStatus.PAUSED, reason
    recorder.record(
        db, EventType.WEBHOOK_PAUSED, webhook_id=endpoint.endpoint_id, name=endpoint.name, reason=reason
    )
    log.warning("webhook.paused", webhook_id=endpoint.endpoint_id, name=endpoint.name, reason=reason)
