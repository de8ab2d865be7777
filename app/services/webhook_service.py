"""The life of webhooks: who is told of what, where, and with which secret."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.clients.webhooks import WebhookAnswer, WebhookClient
from app.database import Database
from app.models import DeliveryStatus, Event, WebhookDelivery, WebhookEndpoint, WebhookStatus, utc_now
from app.services import event_order, event_service
from app.services.event_order import Position
from app.services.key_service import Caller
from app.services.reach import MAX_ACCOUNT_PATTERNS, Reach
from app.services.webhook_message import signed_headers, trial_message
from app.services.webhook_vault import WebhookVault, new_secret
from app.utils.exceptions import (
    InvalidRequestException,
    RotationUnderWayException,
    TooManyWebhooksException,
    WebhookNotFoundException,
)


@dataclass(frozen=True)
class WebhookOrder:
    """What a caller wants; None: as it is, and of a new webhook as its key has it."""

    name: str | None = None
    url: str | None = None
    event_types: list[str] | None = None
    api_apps: list[str] | None = None
    account_patterns: list[str] | None = None

    def values(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


class WebhookService:
    """A caller sees the webhooks that reach no further than its key; for others, every method raises
    `WebhookNotFoundException`.
    """

    def __init__(
        self, *, database: Database, client: WebhookClient, vault: WebhookVault, max_endpoints: int
    ) -> None:
        self._database = database
        self._client = client
        self._vault = vault
        self._max_endpoints = max_endpoints

    async def create(self, order: WebhookOrder, caller: Caller) -> tuple[WebhookEndpoint, SecretStr]:
        """It is told of what happens from now on; the secret cannot be shown again.

        Raises `WebhookUrlRefusedException`, `TooManyWebhooksException`, `InvalidRequestException`,
        `OutOfReachException`.
        """
        assert order.url is not None
        await self._client.check(order.url)
        endpoint_id, secret = str(uuid.uuid4()), new_secret()
        async with self._database.transaction() as session:
            await self._check_room(session)
            position = await event_order.now(session)
            row = WebhookEndpoint(
                **_defaults(caller) | order.values(),
                endpoint_id=endpoint_id,
                secret=self._vault.seal(endpoint_id, secret),
                after_xact_id=position.xact_id,
                after_event_id=position.event_id,
                created_by=caller.name,
            )
            _check_reach(reach_of(row), caller)
            session.add(row)
            _record(session, "webhook.created", row, caller, event_types=row.event_types)
        return row, secret

    async def get(self, session: AsyncSession, endpoint_id: str, caller: Caller) -> WebhookEndpoint:
        return await self._found(session, endpoint_id, caller)

    async def update(self, endpoint_id: str, order: WebhookOrder, caller: Caller) -> WebhookEndpoint:
        """Events that were taken up for it before go to the new URL, whatever their type.

        Raises `WebhookUrlRefusedException`, `InvalidRequestException`, `OutOfReachException`.
        """
        if order.url is not None:
            await self._client.check(order.url)
        async with self._database.transaction() as session:
            row = await self._found(session, endpoint_id, caller, to_change=True)
            for name, value in order.values().items():
                setattr(row, name, value)
            _check_reach(reach_of(row), caller)
            _record(session, "webhook.updated", row, caller, changed=sorted(order.values()))
        return row

    async def rotate(
        self, endpoint_id: str, caller: Caller, *, overlap: timedelta, force: bool = False
    ) -> SecretStr:
        """The new secret, shown once; the old one signs, too, for the time of `overlap`.

        `force`: even while one before that still signs, which ends; else raises `RotationUnderWayException`, so
        that no receiver is left without a secret by a request that is repeated as its answer was lost.
        """
        secret = new_secret()
        async with self._database.transaction() as session:
            row = await self._found(session, endpoint_id, caller, to_change=True)
            signs_until = row.previous_secret_expires_at
            if signs_until is not None and signs_until > utc_now() and not force:
                raise RotationUnderWayException(signs_until)
            row.previous_secret, row.previous_secret_expires_at = row.secret, utc_now() + overlap
            row.secret = self._vault.seal(endpoint_id, secret)
            _record(session, "webhook.rotated", row, caller, overlap_seconds=overlap.total_seconds())
        return secret

    async def pause(self, session: AsyncSession, endpoint_id: str, caller: Caller) -> WebhookEndpoint:
        """Nothing is sent any more, and nothing lost; what is under way ends."""
        row = await self._found(session, endpoint_id, caller, to_change=True)
        if row.status is WebhookStatus.ACTIVE:
            row.status, row.pause_reason = WebhookStatus.PAUSED, f"by {caller.name}"
            _record(session, "webhook.paused", row, caller, reason=row.pause_reason)
        return row

    async def resume(self, session: AsyncSession, endpoint_id: str, caller: Caller) -> WebhookEndpoint:
        """Go on where it was paused. Whatever waits for another attempt is tried at once, also of an active one."""
        row = await self._found(session, endpoint_id, caller, to_change=True)
        waiting = update(WebhookDelivery).where(
            WebhookDelivery.webhook_id == row.id,
            WebhookDelivery.status == DeliveryStatus.PENDING,
            WebhookDelivery.next_attempt_at > utc_now(),
        )
        await session.execute(
            waiting.values(next_attempt_at=utc_now(), attempts=0).execution_options(synchronize_session=False)
        )
        row.status, row.pause_reason, row.failing_since = WebhookStatus.ACTIVE, None, None
        _record(session, "webhook.resumed", row, caller)
        return row

    async def delete(self, session: AsyncSession, endpoint_id: str, caller: Caller) -> None:
        """Its secrets go at once, its deliveries by and by."""
        row = await self._found(session, endpoint_id, caller, to_change=True)
        _record(session, "webhook.deleted", row, caller)
        row.status = WebhookStatus.DELETED
        row.url = row.secret = ""
        row.previous_secret = row.previous_secret_expires_at = None

    async def replay(
        self, session: AsyncSession, endpoint_id: str, caller: Caller, *, since: datetime | int
    ) -> int | None:
        """Send again whatever happened since a time, or since an event's id, delivered or not.

        The id of the first such event; None: there is none. Asked for twice it is done once, or goes on where it is.
        """
        row = await self._found(session, endpoint_id, caller, to_change=True)
        begins = Event.id >= since if isinstance(since, int) else Event.occurred_at >= since
        first = await _first_event(session, begins)
        if first is None:
            return None
        if first <= Position(row.after_xact_id, row.after_event_id):
            row.after_xact_id, row.after_event_id = first.xact_id, first.event_id - 1
            _record(session, "webhook.replayed", row, caller, since_event=first.event_id)
        return first.event_id

    async def test(self, endpoint_id: str, caller: Caller) -> WebhookAnswer:
        """Send a `webhook.test` now, once, also when it is paused; it is no event. Raises `DecryptionException`."""
        async with self._database.reading() as session:
            row = await self._found(session, endpoint_id, caller)
            secrets = self._vault.open(row)
        message = trial_message(endpoint_id, str(uuid.uuid4()))
        return await self._client.post(row.url, body=message.body, headers=signed_headers(message, secrets))

    async def _found(
        self, session: AsyncSession, endpoint_id: str, caller: Caller, *, to_change: bool = False
    ) -> WebhookEndpoint:
        query = select(WebhookEndpoint).where(WebhookEndpoint.endpoint_id == endpoint_id, is_there())
        row = await session.scalar(query.with_for_update() if to_change else query)
        if row is None or not caller.reach.includes(reach_of(row)):
            raise WebhookNotFoundException(endpoint_id)
        return row

    async def _check_room(self, session: AsyncSession) -> None:
        count = await session.scalar(select(func.count()).select_from(WebhookEndpoint).where(is_there()))
        if (count or 0) >= self._max_endpoints:
            raise TooManyWebhooksException(self._max_endpoints)


def is_there() -> ColumnElement[bool]:
    return WebhookEndpoint.status != WebhookStatus.DELETED


def reach_of(row: WebhookEndpoint) -> Reach:
    return Reach.of(row.api_apps, row.account_patterns)


def _check_reach(reach: Reach, caller: Caller) -> None:
    """Raises `InvalidRequestException`, `OutOfReachException`."""
    if len(reach.account_patterns) > MAX_ACCOUNT_PATTERNS:
        raise InvalidRequestException(f"account_patterns: at most {MAX_ACCOUNT_PATTERNS}")
    caller.reach.require_all_of(reach)


def _defaults(caller: Caller) -> dict[str, Any]:
    return {
        "name": "",
        "event_types": [],
        "api_apps": sorted(caller.reach.api_apps),
        "account_patterns": list(caller.reach.account_patterns),
    }


async def _first_event(session: AsyncSession, begins: ColumnElement[bool]) -> Position | None:
    query = select(*event_order.ORDER).where(begins).order_by(*event_order.ORDER).limit(1)
    row = (await session.execute(query)).first()
    return Position(*row) if row else None


def _record(
    session: AsyncSession, event_type: str, row: WebhookEndpoint, caller: Caller, **data: Any
) -> None:
    event_service.record(
        session, event_type, actor=caller.name, webhook_id=row.endpoint_id, name=row.name, **data
    )
