"""The life of webhooks: who is told of what, where, and with which secret."""

import re
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.clients.webhooks import WebhookAnswer, WebhookClient
from app.database import Database, database_time, is_sqlite
from app.models import (
    DeliveryStatus,
    Event,
    EventType,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookStatus,
    utc_now,
)
from app.services.events import order as event_order
from app.services.events import recorder, type_patterns
from app.services.events.order import Position
from app.services.keys.service import Caller
from app.services.shared.access import MAX_ACCOUNT_PATTERNS, AccessScope
from app.services.webhooks import ordering
from app.services.webhooks.message import signed_headers, trial_message
from app.services.webhooks.ordering import webhook_access
from app.services.webhooks.vault import WebhookVault, new_secret
from app.utils.exceptions import (
    InvalidRequestException,
    RotationUnderWayException,
    TooManyWebhooksException,
    WebhookNotFoundException,
)
from app.utils.handles import APP_NAME, normalize_pattern

_EVENT_TYPE: Final = re.compile(r"[a-z0-9_.*]{1,64}")
_NAME: Final = re.compile(r"[^\x00-\x1f]{0,100}")


@dataclass(frozen=True)
class WebhookChange:
    """Changes to a webhook; None: unchanged, or of a new webhook the value of its key."""

    name: str | None = None
    url: str | None = None
    event_types: list[str] | None = None
    api_apps: list[str] | None = None
    account_patterns: list[str] | None = None

    def values(self) -> dict[str, Any]:
        """Return the changes as they are stored. Raises `InvalidRequestException`."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        if not _NAME.fullmatch(values.get("name", "")):
            raise InvalidRequestException("name: must be at most 100 characters, without control characters")
        event_types, api_apps = values.get("event_types", ()), values.get("api_apps", ())
        if not all(map(_EVENT_TYPE.fullmatch, event_types)):
            raise InvalidRequestException(
                "event_types: must be of a to z, 0 to 9, _ and ., with * for any characters"
            )
        if problem := next(filter(None, map(type_patterns.find_problem, event_types)), None):
            raise InvalidRequestException(f"event_types: {problem}")
        if not all(map(APP_NAME.fullmatch, api_apps)):
            raise InvalidRequestException(
                "api_apps: must be names of OAuth apps: 1 to 64 letters, digits, _ and -"
            )
        try:
            if patterns := values.get("account_patterns"):
                values["account_patterns"] = [normalize_pattern(each) for each in patterns]
        except ValueError as error:
            raise InvalidRequestException(f"account_patterns: {error}") from None
        return values


@dataclass(frozen=True)
class Replay:
    from_event_id: int | None
    """The first event that is sent again; None: there is none."""
    status: WebhookStatus
    """Paused: it is sent once the webhook is resumed."""


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

    async def create(self, change: WebhookChange, caller: Caller) -> tuple[WebhookEndpoint, SecretStr]:
        """Create an endpoint for events recorded from now on; return it with its secret, which is shown once.

        Raises `WebhookUrlRefusedException`, `TooManyWebhooksException`, `InvalidRequestException`,
        `OutOfReachException`.
        """
        assert change.url is not None
        values = change.values()
        await self._client.check(change.url)
        endpoint_id, secret = str(uuid.uuid4()), new_secret()
        defaults: dict[str, Any] = {
            "name": "",
            "event_types": [],
            "api_apps": sorted(caller.access.api_apps),
            "account_patterns": list(caller.access.account_patterns),
        }
        async with self._database.transaction() as db:
            count = await db.scalar(select(func.count()).select_from(WebhookEndpoint).where(is_there()))
            if (count or 0) >= self._max_endpoints:
                raise TooManyWebhooksException(self._max_endpoints)
            position = await event_order.now(db)
            row = WebhookEndpoint(
                **defaults | values,
                endpoint_id=endpoint_id,
                secret=self._vault.seal(endpoint_id, secret),
                after_xact_id=position.xact_id,
                after_event_id=position.event_id,
                created_by=caller.name,
            )
            _check_access(webhook_access(row), caller)
            db.add(row)
            _record(db, EventType.WEBHOOK_CREATED, row, caller, event_types=row.event_types)
        return row, secret

    async def get(
        self, db: AsyncSession, endpoint_id: str, caller: Caller, *, for_update: bool = False
    ) -> WebhookEndpoint:
        query = select(WebhookEndpoint).where(WebhookEndpoint.endpoint_id == endpoint_id, is_there())
        row = await db.scalar(query.with_for_update() if for_update else query)
        if row is None or not caller.access.includes(webhook_access(row)):
            raise WebhookNotFoundException(endpoint_id)
        return row

    async def update(self, endpoint_id: str, change: WebhookChange, caller: Caller) -> WebhookEndpoint:
        """Change a webhook. Pending deliveries go to the new URL; those that it is not for any more are parked.

        Raises `WebhookUrlRefusedException`, `InvalidRequestException`, `OutOfReachException`.
        """
        values = change.values()
        if change.url is not None:
            await self._client.check(change.url)
        async with self._database.transaction() as db:
            row = await self.get(db, endpoint_id, caller, for_update=True)
            if values.get("url", row.url) != row.url:
                row.failing_since = None
            for name, value in values.items():
                setattr(row, name, value)
            _check_access(webhook_access(row), caller)
            _record(db, EventType.WEBHOOK_UPDATED, row, caller, changed=sorted(values))
        return row

    async def rotate(
        self, endpoint_id: str, caller: Caller, *, overlap: timedelta, force: bool = False
    ) -> SecretStr:
        """The new secret, shown once; the old one signs, too, for the time of `overlap`.

        `force`: even while one before that still signs, which ends; else raises `RotationUnderWayException`, so
        that no receiver is left without a secret by a request that is repeated as its answer was lost.
        """
        secret = new_secret()
        async with self._database.transaction() as db:
            row = await self.get(db, endpoint_id, caller, for_update=True)
            signs_until = row.previous_secret_expires_at
            if signs_until is not None and signs_until > utc_now() and not force:
                raise RotationUnderWayException(signs_until)
            row.previous_secret, row.previous_secret_expires_at = row.secret, utc_now() + overlap
            row.secret = self._vault.seal(endpoint_id, secret)
            _record(db, EventType.WEBHOOK_ROTATED, row, caller, overlap_seconds=overlap.total_seconds())
        return secret

    async def pause(self, db: AsyncSession, endpoint_id: str, caller: Caller) -> WebhookEndpoint:
        """Nothing more is sent, and nothing lost; what is being sent ends."""
        row = await self.get(db, endpoint_id, caller, for_update=True)
        if row.status is WebhookStatus.ACTIVE:
            row.status, row.pause_reason = WebhookStatus.PAUSED, f"by {caller.name}"
            _record(db, EventType.WEBHOOK_PAUSED, row, caller, reason=row.pause_reason)
        return row

    async def resume(self, db: AsyncSession, endpoint_id: str, caller: Caller) -> WebhookEndpoint:
        """Go on, attempts counted anew. What waits for another one is tried at once, also when it was not paused."""
        row = await self.get(db, endpoint_id, caller, for_update=True)
        await ordering.repair(db, row.id)
        waiting = update(WebhookDelivery).where(
            WebhookDelivery.endpoint_row_id == row.id,
            WebhookDelivery.status == DeliveryStatus.PENDING,
            WebhookDelivery.next_attempt_at.is_not(None),
        )
        statement = waiting.values(next_attempt_at=database_time(), attempts=0)
        await db.execute(statement.execution_options(synchronize_session=False))
        row.status, row.pause_reason, row.failing_since = WebhookStatus.ACTIVE, None, None
        _record(db, EventType.WEBHOOK_RESUMED, row, caller)
        return row

    async def delete(self, db: AsyncSession, endpoint_id: str, caller: Caller) -> None:
        """Delete a webhook: its secrets at once, its deliveries later in small batches."""
        row = await self.get(db, endpoint_id, caller, for_update=True)
        _record(db, EventType.WEBHOOK_DELETED, row, caller)
        row.status = WebhookStatus.DELETED
        row.url = row.secret = ""
        row.previous_secret = row.previous_secret_expires_at = None

    async def replay(
        self, db: AsyncSession, endpoint_id: str, caller: Caller, *, since: datetime | int
    ) -> Replay:
        """Send again whatever happened since a time, or since an event's id, delivered or not.

        Asked for again before all are taken up it begins anew, later it sends them once more: receivers know what they
        have seen by its message id. What is being sent at the time is not sent again.
        """
        row = await self.get(db, endpoint_id, caller, for_update=True)
        is_included = Event.id >= since if isinstance(since, int) else Event.occurred_at >= since
        query = select(*event_order.ORDER).where(is_included).order_by(*event_order.ORDER).limit(1)
        if is_sqlite(db):  # which would read all events before it
            first_id = select(func.min(Event.id)).where(is_included).scalar_subquery()
            query = select(*event_order.ORDER).where(Event.id == first_id)
        found = (await db.execute(query)).first()
        first = Position(*found) if found else None
        if first and first <= Position(row.after_xact_id, row.after_event_id):
            row.after_xact_id, row.after_event_id = first.xact_id, first.event_id - 1
            _record(db, EventType.WEBHOOK_REPLAYED, row, caller, since_event=first.event_id)
        return Replay(first.event_id if first else None, row.status)

    async def test(self, endpoint_id: str, caller: Caller) -> WebhookAnswer:
        """Send a `webhook.test` now, once, also when it is paused. Raises `DecryptionException`."""
        async with self._database.reading() as db:
            row = await self.get(db, endpoint_id, caller)
            secrets = self._vault.open(row)
        message = trial_message(endpoint_id, str(uuid.uuid4()))
        answer = await self._client.post(row.url, body=message.body, headers=signed_headers(message, secrets))
        async with self._database.transaction() as db:
            _record(db, EventType.WEBHOOK_TESTED, row, caller, status_code=answer.status_code)
        return answer


def is_there() -> ColumnElement[bool]:
    return WebhookEndpoint.status != WebhookStatus.DELETED


def _check_access(access: AccessScope, caller: Caller) -> None:
    """Raises `InvalidRequestException`, `OutOfReachException`."""
    if len(access.account_patterns) > MAX_ACCOUNT_PATTERNS:
        raise InvalidRequestException(f"account_patterns: at most {MAX_ACCOUNT_PATTERNS}")
    caller.access.require_all(access)


def _record(
    db: AsyncSession, event_type: EventType, row: WebhookEndpoint, caller: Caller, **data: Any
) -> None:
    recorder.record(db, event_type, actor=caller.name, webhook_id=row.endpoint_id, name=row.name, **data)
