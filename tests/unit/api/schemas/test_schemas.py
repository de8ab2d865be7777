"""What a POST may say, and how an account is spelt afterwards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.api.schemas.authorization import AuthorizeRequest
from app.utils.handles import normalize_handle


@pytest.mark.parametrize("given_as", ["alice", "@alice", "ALICE", "@Alice", "  @alice  "])
def test_spellings_of_an_account_are_one_account(given_as: str):
    assert AuthorizeRequest(account_id=given_as, api_app="A").account_id == "alice"


@pytest.mark.parametrize("value", ["a" * 64, "@" + "a" * 64, "_", "0"])
def test_longest_and_shortest_handles_are_accepted(value: str):
    assert normalize_handle(value) == value.removeprefix("@")


@pytest.mark.parametrize("value", ["a-b", "a.b", "Anna.B+news@Example.org", "@a.b"])
def test_handles_of_other_providers_are_accepted(value: str):
    assert normalize_handle(value) == value.removeprefix("@").lower()


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "@",
        "@@alice",
        "a b",
        "-a",
        "..",
        "ä",
        "a\nb",
        "a" * 65,
        "a" * 129,
        "a/../b",
        "a%",
        "a:b",
    ],
)
def test_invalid_account_is_refused(value: str):
    with pytest.raises(ValidationError):
        AuthorizeRequest(account_id=value, api_app="A")


@given(st.text())
def test_normalised_handle_is_stable(value: str):
    try:
        account = normalize_handle(value)
    except ValueError:
        return
    assert normalize_handle(account) == account
    assert account.isascii()


def test_the_action_is_accepted_and_ignored():
    assert AuthorizeRequest(account_id="a", api_app="A", action="authorize")


@pytest.mark.parametrize(
    "body",
    [
        {"api_app": "A"},
        {"account_id": "a"},
        {"account_id": 7, "api_app": "A"},
        {"account_id": "a", "api_app": ""},
        {"account_id": "a", "api_app": "x" * 65},
        {"account_id": "a", "api_app": "A", "action": "revoke"},
        {"account_id": "a", "api_app": "A", "unknown": 1},
    ],
)
def test_invalid_body_is_refused(body: dict[str, object]):
    with pytest.raises(ValidationError):
        AuthorizeRequest.model_validate(body)
