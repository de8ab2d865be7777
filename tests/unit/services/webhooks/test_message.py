"""A message of a webhook: the event, signed."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from app.models import Event
from app.services.webhooks.message import build_message, signed_headers
from app.services.webhooks.vault import new_secret


def test_a_message_is_the_event_signed_with_every_secret():
    event = Event(
        id=7, event_type="a.b", occurred_at=datetime(2026, 1, 2, tzinfo=UTC), account_id="ä", actor="me",
        data={"n": 1},
    )  # fmt: skip
    message, secrets = build_message("e1", event), [new_secret(), new_secret()]
    headers = signed_headers(message, secrets)
    for secret in secrets:
        body = Webhook(secret.get_secret_value()).verify(message.body, headers)
        assert (body["type"], body["timestamp"]) == ("a.b", "2026-01-02T00:00:00+00:00")
        assert (body["data"]["id"], body["data"]["account_id"], body["data"]["data"]) == (7, "ä", {"n": 1})
        assert secret.get_secret_value() not in json.dumps(headers) + message.body
    assert headers["webhook-id"] == "msg_e1_7_1767312000000000" == build_message("e1", event).message_id
    event.occurred_at += timedelta(microseconds=1)
    assert build_message("e1", event).message_id != message.message_id, "restored databases give an id twice"
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret().get_secret_value()).verify(message.body, headers)
