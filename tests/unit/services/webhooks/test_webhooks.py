"""When a delivery is tried again, what reaches how far, and what is sent."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from app.config import Settings
from app.models import Event
from app.services.shared.access import EVERYTHING, AccessScope
from app.services.webhooks.deliveries import next_wait
from app.services.webhooks.message import message_of, signed_headers
from app.services.webhooks.service import WebhookChange
from app.services.webhooks.vault import new_secret
from app.utils.exceptions import InvalidRequestException

WAITS = Settings.model_fields["webhook_retry_waits"].default
PATTERNS = st.lists(st.text("ab*", min_size=1, max_size=4), max_size=3).map(tuple)
REACHES = st.builds(AccessScope, st.frozensets(st.sampled_from("XY"), max_size=2), PATTERNS)


def test_a_delivery_is_tried_for_about_a_day_and_then_no_more():
    waits = [next_wait(WAITS, attempts, None) for attempts in range(1, len(WAITS) + 1)]
    assert all(0.8 * wanted <= wait <= 1.2 * wanted for wait, wanted in zip(waits, WAITS, strict=True))
    assert 0.9 < sum(WAITS) / 86_400 < 1.1
    assert next_wait(WAITS, len(WAITS) + 1, 5) is None


@pytest.mark.parametrize(
    ("asked", "least", "most"), [(None, 4, 6), (-5, 4, 6), (1, 4, 6), (60, 60, 60), (1e9, 3600, 3600)]
)
def test_an_endpoint_may_ask_for_more_time_within_bounds(asked: float | None, least: float, most: float):
    wait = next_wait(WAITS, 1, asked)
    assert wait is not None
    assert least <= wait <= most


@given(REACHES, REACHES, st.text("ab", max_size=5), st.sampled_from("XYZ"))
def test_included_filter_covers_nothing_more(outer: AccessScope, inner: AccessScope, account: str, app: str):
    if outer.includes(inner) and inner.covers(account, app):
        assert outer.covers(account, app)
    assert outer.includes(outer)
    assert EVERYTHING.includes(outer)


@pytest.mark.parametrize(
    "wrong",
    [
        {"event_types": ["Authorization.*"]}, {"event_types": ["a b"]}, {"event_types": [""]},
        {"account_patterns": ["a[b]?"]}, {"account_patterns": [""]}, {"api_apps": ["A B"]}, {"name": "a\nb"},
        {"name": "a" * 101},
    ],
)  # fmt: skip
def test_invalid_change_is_refused_with_its_field(wrong: dict[str, Any]):
    (field,) = wrong
    with pytest.raises(InvalidRequestException, match=field):
        WebhookChange(**wrong).values()


def test_change_is_stored_in_normal_form():
    order = WebhookChange(name="", event_types=["app.*"], account_patterns=["@Team_*"], api_apps=["X-1"])
    assert order.values() == {
        "name": "", "event_types": ["app.*"], "account_patterns": ["team_*"], "api_apps": ["X-1"]
    }  # fmt: skip


def test_a_message_is_the_event_signed_with_every_secret():
    event = Event(
        id=7, event_type="a.b", occurred_at=datetime(2026, 1, 2, tzinfo=UTC), account_id="ä", actor="me",
        data={"n": 1},
    )  # fmt: skip
    message, secrets = message_of("e1", event), [new_secret(), new_secret()]
    headers = signed_headers(message, secrets)
    for secret in secrets:
        body = Webhook(secret.get_secret_value()).verify(message.body, headers)
        assert (body["type"], body["timestamp"]) == ("a.b", "2026-01-02T00:00:00+00:00")
        assert (body["data"]["id"], body["data"]["account_id"], body["data"]["data"]) == (7, "ä", {"n": 1})
        assert secret.get_secret_value() not in json.dumps(headers) + message.body
    assert headers["webhook-id"] == "msg_e1_7_1767312000000000" == message_of("e1", event).message_id
    event.occurred_at += timedelta(microseconds=1)
    assert message_of("e1", event).message_id != message.message_id, "restored databases give an id twice"
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret().get_secret_value()).verify(message.body, headers)
