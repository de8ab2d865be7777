"""`verify_webhook` against the `standardwebhooks` library, in both directions."""

import base64
import json
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from app.client import WebhookRefused, verify_webhook
from app.models import Event, utc_now
from app.services.webhooks.message import build_message, signed_headers, trial_message

NEW, OLD, OTHER = (f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}" for _ in range(3))
BODY = json.dumps(
    {
        "type": "authorization.completed",
        "timestamp": "2026-11-21T08:00:00+00:00",
        "data": {"id": 7, "actor": "s\u2028", "data": {}},
    },
    ensure_ascii=False,
).encode()


def signed(secret: str = NEW, *, body: bytes = BODY, ago: float = 0, **changes: str) -> dict[str, str]:
    at = datetime.now(UTC) - timedelta(seconds=ago)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", at, body.decode()),
    }
    return headers | {f"webhook-{name}": value for name, value in changes.items()}


def library(secret: str, headers: dict[str, str], body: bytes) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except (WebhookVerificationError, ValueError):
        return False
    return True


def ours(secret: str, headers: dict[str, str], body: bytes) -> bool:
    try:
        verify_webhook(secret, headers, body)
    except WebhookRefused:
        return False
    return True


def cases() -> dict[str, tuple[dict[str, str], bytes, bool]]:
    """Signed now, not when the tests are collected, which may be many minutes earlier."""
    by_old, by_new = (signed(secret)["webhook-signature"] for secret in (OLD, NEW))
    return {
        "as it was sent": (signed(), BODY, True),
        "names in capitals": ({name.title(): value for name, value in signed().items()}, BODY, True),
        "almost too old": (signed(ago=280), BODY, True),
        "almost too new": (signed(ago=-280), BODY, True),
        "too old": (signed(ago=320), BODY, False),
        "too new": (signed(ago=-320), BODY, False),
        "another secret": (signed(OTHER), BODY, False),
        "another body": (signed(), BODY.replace(b"7", b"8"), False),
        "another id": (signed(id="msg_2"), BODY, False),
        "another time": (signed(timestamp=str(int(time.time()) - 1)), BODY, False),
        "no time": (signed(timestamp="now"), BODY, False),
        "no signature": (signed(signature=""), BODY, False),
        "another version": (signed(signature=by_new.replace("v1,", "v2,")), BODY, False),
        "one of several": (signed(signature=f"v2,x {by_old} {by_new}"), BODY, True),
        "no headers": ({}, BODY, False),
    }  # fmt: skip


@pytest.mark.parametrize("case", cases())
def test_verification_agrees_with_the_library(case: str):
    headers, body, is_good = cases()[case]
    assert (ours(NEW, headers, body), library(NEW, headers, body)) == (is_good, is_good)


def deliver(event: Event | None, *by: str) -> tuple[dict[str, str], bytes]:
    """As the service does."""
    message = trial_message("w1", "t1") if event is None else build_message("w1", event)
    return signed_headers(message, map(SecretStr, by)), message.body.encode()


def test_a_delivery_becomes_the_event_also_while_secrets_are_rotated():
    row = Event(
        id=7,
        event_type="token.read",
        occurred_at=utc_now(),
        account_id="anna",
        actor="me",
        data={"number": 1},
    )
    for signers, known in (((NEW,), NEW), ((NEW, OLD), OLD), ((NEW,), [OLD, NEW]), ((OLD,), (OLD, NEW))):
        event = verify_webhook(known, *deliver(row, *signers))
        assert (event.id, event.event_type, event.occurred_at) == (7, "token.read", row.occurred_at)
        assert (event.account_id, event.api_app, event.data, event.webhook_id) == (
            "anna",
            None,
            {"number": 1},
            build_message("w1", row).message_id,
        )
    headers, body = deliver(row, OLD)
    with pytest.raises(WebhookRefused, match="by one of the secrets"):
        verify_webhook([NEW, OTHER], headers, body)
    with pytest.raises(WebhookRefused):
        verify_webhook([], headers, body)
    assert verify_webhook(OLD, headers, body.decode()).id == 7


def test_a_trial_is_an_event_too():
    event = verify_webhook(NEW, *deliver(None, NEW))
    assert (event.id, event.event_type, event.data) == (0, "webhook.test", {"webhook_id": "w1"})


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b"{", b'{"type": 1}', b'{"type": "a", "timestamp": "x", "data": {"id": 1}}']
)
def test_signed_body_that_is_no_event_is_refused(body: bytes):
    with pytest.raises(WebhookRefused, match="no event"):
        verify_webhook(NEW, signed(body=body), body)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not Base64 in any way: €"])
def test_invalid_secret_is_not_shown(secret: Any):
    with pytest.raises(ValueError, match="whsec_ and Base64") as caught:
        verify_webhook(secret, signed(), BODY)
    assert not secret or secret.removeprefix("whsec_") not in str(caught.value) or secret == "whsec_"
