"""What may be changed of a webhook."""

from typing import Any

import pytest

from app.services.webhooks.service import WebhookChange
from app.utils.exceptions import InvalidRequestException


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
    change = WebhookChange(name="", event_types=["app.*"], account_patterns=["@Team_*"], api_apps=["X-1"])
    assert change.values() == {
        "name": "", "event_types": ["app.*"], "account_patterns": ["team_*"], "api_apps": ["X-1"]
    }  # fmt: skip
