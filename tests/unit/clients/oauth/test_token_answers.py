"""No optional field of a token answer costs the tokens."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.clients.answers import fields_in
from app.clients.oauth.token_answers import (
    MAX_TOKEN_LIFE,
    UnusableAnswerError,
    lifetime,
    split_scopes,
    token_response,
    tokens_in,
)

GOOD = {"token_type": "bearer", "access_token": "the-access", "refresh_token": "the-refresh"}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (7200, 7200),
        ("7200", 7200),
        (" 7200 ", 7200),
        (7199.5, 7199),
        ("7199.5", 7199),
        (1, 1),
        (0, None),
        (-1, None),
        ("-7200", None),
        (0.4, None),
        ("", None),
        ("soon", None),
        (None, None),
        (True, None),
        ([7200], None),
        ({"seconds": 7200}, None),
        (float("nan"), None),
        (float("inf"), MAX_TOKEN_LIFE),
        (10**18, MAX_TOKEN_LIFE),
        (10**400, MAX_TOKEN_LIFE),
        (-(10**400), None),
        ("9" * 5000, MAX_TOKEN_LIFE),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_lifetime_is_read_leniently_or_is_unknown(given: Any, seconds: int | None):
    assert lifetime(given) == seconds
    assert token_response({**GOOD, "expires_in": given}).expires_in == seconds


@pytest.mark.parametrize(
    ("given", "scopes"),
    [
        ("a.read b.write", ("a.read", "b.write")),
        ("a.read,b.write", ("a.read", "b.write")),
        ("a;b", ("a", "b")),
        (["a", "b"], ("a", "b")),
        (["a b", "c"], ("a", "b", "c")),
        (["a", 7, None, ["b"], "a"], ("a",)),
        ("a\x00b \ud800", ("ab",)),
        ("", ()),
        (None, ()),
        (7, ()),
        ({"a": 1}, ()),
        ("x" * 501, ()),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_scopes_are_read_in_every_form(given: Any, scopes: tuple[str, ...]):
    assert split_scopes(given) == scopes
    assert token_response({**GOOD, "scope": given}).scopes == scopes


def test_the_number_of_scopes_has_a_ceiling():
    assert len(split_scopes([f"s{number}" for number in range(100_000)])) == 200


@pytest.mark.parametrize("refresh_token", [None, "", 7, [], "two\nlines", "caf\u00e9"])
def test_an_unreadable_refresh_token_does_not_cost_the_access_token(refresh_token: Any):
    answer = token_response({**GOOD, "refresh_token": refresh_token})
    assert (answer.access_token.get_secret_value(), answer.refresh_token) == ("the-access", None)


@pytest.mark.parametrize("token_type", ["bearer", "Bearer", "BearerToken", "bot", "", None, 7, ["mac"]])
def test_a_token_that_a_bearer_header_carries_is_taken(token_type: Any):
    assert token_response({**GOOD, "token_type": token_type}).access_token == SecretStr("the-access")


@pytest.mark.parametrize(
    ("changes", "problem", "held"),
    [
        ({"token_type": "mac"}, "token_type: mac came, bearer was expected", ["the-refresh", "the-access"]),
        ({"token_type": " DPoP"}, "token_type: dpop came", ["the-refresh", "the-access"]),
        ({"access_token": None}, "access_token: nothing came", ["the-refresh"]),
        ({"access_token": ""}, "access_token: str of length 0 came", ["the-refresh"]),
        ({"access_token": "caf\u00e9-secret"}, "access_token: str of length 11 came", ["the-refresh"]),
        ({"access_token": ["the-access"]}, "access_token: list of length 1 came", ["the-refresh"]),
        ({"access_token": 7, "refresh_token": 8}, "access_token: int came", []),
    ],
)
def test_an_unusable_answer_names_the_field_and_what_it_holds(
    changes: dict[str, Any], problem: str, held: list[str]
):
    fields = GOOD | changes
    with pytest.raises(UnusableAnswerError, match=problem) as caught:
        token_response(fields)
    assert "secret" not in str(caught.value)
    assert [token.get_secret_value() for token in tokens_in(fields)] == held


def test_an_answer_without_fields_is_named():
    with pytest.raises(UnusableAnswerError, match="neither a JSON object nor a form"):
        token_response({})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.integers(10**300, 10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OPTIONAL = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("expires_in", "scope", "refresh_token", "id_token", "expires_at"), ANYTHING)
    | {"token_type": ANYTHING.filter(lambda value: not isinstance(value, str) or len(value) < 3)},
)


@given(OPTIONAL)
def test_no_optional_field_costs_the_access_token(optional: dict[str, Any]):
    fields = fields_in(json.dumps({**optional, "access_token": "the-access"}).encode(), "application/json")
    answer = token_response(fields)
    assert answer.access_token.get_secret_value() == "the-access"
    assert answer.expires_in is None or 1 <= answer.expires_in <= MAX_TOKEN_LIFE
    for scope in answer.scopes:
        assert "\x00" not in scope
        scope.encode()


@given(st.dictionaries(st.sampled_from([*GOOD, "expires_in", "scope"]), ANYTHING))
def test_an_arbitrary_answer_grants_tokens_or_names_its_problem(fields: dict[str, Any]):
    try:
        answer = token_response(fields)
    except UnusableAnswerError:
        return
    answer.access_token.get_secret_value().encode("ascii")


def test_a_token_is_not_shown():
    assert "the-" not in repr(token_response(GOOD))
