"""Deliveries of the service's webhooks: whether they are, and what they tell."""

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterable, Mapping

from .answers import WebhookEvent
from .errors import ServiceError, WebhookRefused
from .exchange import build_value


def verify_webhook(
    secrets: str | Iterable[str], headers: Mapping[str, str], body: bytes | str, *, tolerance: float = 300.0
) -> WebhookEvent:
    """The event of a delivery, signed as Standard Webhooks says (standardwebhooks.com).

    Args:
        secrets: as the service showed them; the old and the new one while they are rotated.
        body: as it came, before any parsing.
        tolerance: seconds that the delivery may be old, or ahead of this machine's clock.

    Raises `WebhookRefused`; `ValueError` for what is no secret.
    """
    named = {name.lower(): value for name, value in headers.items()}
    content = body.encode() if isinstance(body, str) else body
    message_id, sent_at, signatures = (
        named.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")
    )
    if not (message_id and signatures and re.fullmatch(r"[0-9]{1,12}", sent_at)):
        raise WebhookRefused("webhook-id, webhook-timestamp or webhook-signature is missing or malformed")
    if abs(time.time() - int(sent_at)) > tolerance:
        raise WebhookRefused(f"It was signed more than {tolerance:g} seconds ago, or ahead of now")
    signed_content = f"{message_id}.{sent_at}.".encode() + content
    for key in map(_signing_key, [secrets] if isinstance(secrets, str) else secrets):
        expected = b"v1," + base64.b64encode(hmac.digest(key, signed_content, hashlib.sha256))
        if any(hmac.compare_digest(expected, each.encode()) for each in signatures.split()):
            return _webhook_event(message_id, content)
    raise WebhookRefused("No signature is by one of the secrets")


def _signing_key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_") + "==")
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError("a webhook's secret must be given as the service showed it: whsec_ and Base64")
    return key


def _webhook_event(webhook_id: str, content: bytes) -> WebhookEvent:
    try:
        body = json.loads(content)
        own_fields = {"event_type": body["type"], "occurred_at": body["timestamp"], "webhook_id": webhook_id}
        return build_value(WebhookEvent, {**body["data"], **own_fields, "id": body["data"]["id"] or 0})
    except (LookupError, TypeError, ValueError, ServiceError):
        raise WebhookRefused("It is signed, and is no event") from None
