"""Message to an endpoint: an event as JSON, signed as Standard Webhooks says (standardwebhooks.com)."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import SecretStr
from standardwebhooks import Webhook

from app.models import Event, utc_now


@dataclass(frozen=True)
class Message:
    message_id: str
    """The same in all tries of one event at one endpoint."""
    body: str


def build_message(endpoint_id: str, event: Event) -> Message:
    data = {
        "id": event.id,
        "account_id": event.account_id,
        "api_app": event.api_app,
        "session_id": event.session_id,
        "profile_id": event.profile_id,
        "actor": event.actor,
        "request_id": event.request_id,
        "data": event.data,
    }
    # With its time, because a restored database gives ids anew that receivers have seen.
    at = round(event.occurred_at.timestamp() * 1_000_000)
    return Message(f"msg_{endpoint_id}_{event.id}_{at}", _body(event.event_type, event.occurred_at, data))


def trial_message(endpoint_id: str, number: str) -> Message:
    """Shaped like an event, which it is not."""
    data = {"id": None, "actor": "service", "data": {"webhook_id": endpoint_id}}
    return Message(f"msg_{endpoint_id}_test_{number}", _body("webhook.test", utc_now(), data))


def signed_headers(message: Message, secrets: Iterable[SecretStr]) -> dict[str, str]:
    """A signature by each of the secrets; they are valid for five minutes."""
    now = utc_now()
    signatures = [
        Webhook(secret.get_secret_value()).sign(message.message_id, now, message.body) for secret in secrets
    ]
    return {
        "Content-Type": "application/json",
        "User-Agent": "gologin-automation",
        "webhook-id": message.message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _body(event_type: str, at: datetime, data: dict[str, Any]) -> str:
    return json.dumps({"type": event_type, "timestamp": at.isoformat(), "data": data}, separators=(",", ":"))
