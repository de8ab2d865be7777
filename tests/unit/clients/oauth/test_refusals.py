"""Whose fault a refusal of a provider is: standard words, the provider's own, and shapes that no standard has."""

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.clients.oauth.oauth1 import OAuth1App, OAuth1Endpoints, _token_in
from app.clients.oauth.oauth2 import ProviderUser, _classify, user_in
from app.clients.oauth.refusals import ErrorRules, tells_error
from app.services.oauth.provider import OAuthProvider, x_provider
from app.utils.exceptions import (
    AccountRefusedException,
    FailureKind,
    InvalidClientException,
    InvalidGrantException,
    NeedsAttentionException,
    TwitterAPIException,
)

X = x_provider(web_url="https://web", api_url="https://api")
REFRESH = {"grant_type": "refresh_token", "refresh_token": "spent"}
FITBIT = {
    "errors": [{"errorType": "invalid_grant", "message": "Refresh token invalid: ..."}],
    "success": False,
}
FACEBOOK = {"error": {"message": "Error validating access token", "type": "OAuthException", "code": 190}}
NOT_ENROLLED = {
    "title": "Client Forbidden",
    "detail": "you must use keys and tokens from an App that is attached to a Project",
    "reason": "client-not-enrolled",
    "type": "https://api.twitter.com/2/problems/client-forbidden",
}
LOCKED = {"errors": [{"code": 326, "message": "this account is temporarily locked. Please log in"}]}
DEVIANTART = {"error": "invalid_request", "error_description": "The refresh_token is invalid."}
INVALID, CLIENT, ACCOUNT, OTHER = (
    InvalidGrantException,
    InvalidClientException,
    AccountRefusedException,
    TwitterAPIException,
)


def provider(**rules: Any) -> OAuthProvider:
    return replace(X, errors=ErrorRules(**rules))


def answer(
    body: Any, status: int = 400, *, sent: dict[str, str] | None = None, **headers: str
) -> httpx.Response:
    request = httpx.Request("POST", "https://api/token", data=sent or {})
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.Response(status, content=content, headers=headers, request=request)


@pytest.mark.parametrize(
    ("api", "status", "body", "meaning"),
    [
        (X, 400, {"error": "invalid_grant"}, INVALID),
        (
            X,
            400,
            {"error": "invalid_request", "error_description": "Value passed for the token was invalid."},
            INVALID,
        ),
        (X, 400, {"error": "invalid_request"}, INVALID),
        (X, 400, {"error": "invalid_request", "error_description": "Missing required parameter [a]"}, CLIENT),
        (provider(), 400, {"error": "invalid_request"}, OTHER),
        (provider(), 200, {"error": "bad_refresh_token", "error_description": "incorrect"}, INVALID),
        (provider(), 200, {"error": "incorrect_client_credentials"}, CLIENT),
        (provider(), 200, {"ok": False, "error": "invalid_refresh_token"}, INVALID),
        (provider(), 400, FITBIT, INVALID),
        (provider(), 400, FACEBOOK, OTHER),
        (provider(refresh_refused=("190",)), 400, FACEBOOK, INVALID),
        (provider(refresh_refused=(400,)), 400, {"message": "Bad Request", "error": 400}, INVALID),
        (provider(refresh_refused=("Refresh_Token is invalid",)), 400, DEVIANTART, INVALID),
        (provider(refresh_refused=("the",)), 400, DEVIANTART, OTHER),
        (provider(refresh_refused=(403,)), 403, b"<html>Forbidden</html>", INVALID),
        (provider(refresh_refused=(403,)), 503, b"<html>Forbidden</html>", OTHER),
        (provider(), 403, b"<html>Forbidden</html>", OTHER),
        (provider(client_refused=("app_disabled",)), 401, {"errors": [{"code": "APP_DISABLED"}]}, CLIENT),
        (provider(client_refused=(403,)), 403, b"", CLIENT),
        (X, 403, NOT_ENROLLED, CLIENT),
        (X, 403, LOCKED, ACCOUNT),
        (X, 403, {"errors": [{"code": 64, "message": "suspended"}]}, ACCOUNT),
        (X, 403, {"type": "https://api.x.com/2/problems/user-suspended", "detail": "No."}, ACCOUNT),
        (X, 503, LOCKED, OTHER),
    ],
)
def test_a_refused_refresh_is_the_tokens_the_apps_or_the_accounts(
    api: OAuthProvider, status: int, body: Any, meaning: type[TwitterAPIException]
):
    error = _classify(api, answer(body, status, sent=REFRESH))
    assert type(error) is meaning


def test_marks_of_a_refused_refresh_say_nothing_of_other_calls():
    api = provider(refresh_refused=(400,))
    assert type(_classify(api, answer({"error": 400}))) is TwitterAPIException


def test_a_locked_account_needs_a_person_and_the_app_is_not_to_blame():
    error = _classify(X, answer(LOCKED, 403))
    assert isinstance(error, NeedsAttentionException)
    assert (error.error_code, error.kind, error.retryable) == ("ACCOUNT_LOCKED", FailureKind.ACCOUNT, False)
    assert "temporarily locked" in error.message


@pytest.mark.parametrize(
    ("body", "tells"),
    [
        ({"error": "bad_refresh_token"}, True),
        ({"ok": False}, True),
        ({"success": False}, True),
        ({"errors": [{"title": "Forbidden"}]}, True),
        ({"errors": [{"title": "Partial"}], "data": {"id": "1"}}, False),
        ({"error": "odd", "access_token": "a"}, False),
        ({"error": None, "id": 1}, False),
        ([], False),
        (b"<html>", False),
    ],
)
def test_an_error_may_come_with_status_200_and_costs_no_token(body: Any, tells: bool):
    assert tells_error(answer(body, 200)) is tells


@pytest.mark.parametrize(
    ("data", "field", "came"),
    [
        ({"id": ["secret-value"], "username": "ann"}, "data.id", "a list of length 1"),
        ({"id": "1", "username": None}, "data.username", "nothing"),
        ({"id": "1", "username": {"a": "secret-value"}}, "data.username", "an object of length 1"),
        ({"id": "i" * 256, "username": "ann"}, "data.id", "text of length 256"),
        ({"id": "1", "username": True}, "data.username", "a boolean"),
        ({"id": 1.5, "username": "ann"}, "data.id", "a number"),
    ],
)
def test_a_who_am_i_that_cannot_be_read_says_field_what_came_and_what_was_expected(
    data: Any, field: str, came: str
):
    with pytest.raises(TwitterAPIException) as caught:
        user_in(X, answer({"data": data}, 200))
    assert f"{field} must be text or a whole number, 255 characters at most, and {came} came" in str(
        caught.value
    )
    assert "secret-value" not in str(caught.value)


def test_page_in_place_of_json_is_described_by_its_length():
    with pytest.raises(
        TwitterAPIException, match="the body must be a JSON object, and text of length 6 came"
    ):
        user_in(X, answer(b"<html>", 200))


@pytest.mark.parametrize("handle", ["@Ann_L", " ann_l ", "ANN_L\x00", "ann\u200b_l", "\tAnn_l\n"])
def test_handles_of_who_am_i_are_normalised_and_ids_may_have_255_characters(handle: str):
    user = user_in(X, answer({"data": {"id": "i" * 255, "username": handle}}, 200))
    assert (user.username, len(user.id)) == ("ann_l", 255)


def test_an_id_is_stored_without_what_a_database_refuses():
    user = user_in(X, answer(b'{"data": {"id": "a\\u0000\\ud83d", "username": "ann"}}', 200))
    assert user.id == "a"


texts = st.text(max_size=20) | st.sampled_from(
    ("error", "errors", "data", "id", "username", "invalid_grant", "1" * 5000, "a" * 300, "\x00", "\ud83d")
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
names = st.sampled_from(
    ("error", "errors", "data", "id", "username", "type", "code", "detail", "message", "ok", "access_token")
)
bodies = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | texts, inner, max_size=6),
    max_leaves=20,
)
contents = bodies.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=200)
odd_contents = contents | st.sampled_from(
    (b"[" * 200_000, b'{"error":' * 50_000, b"1" * 5000, b"\xef\xbb\xbf{}")
)
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30) | st.sampled_from(
    ("text/html; charset=hex", "text/html; charset=undefined", "1" * 400, "-1", "nan", "1e999")
)
odd_headers = st.dictionaries(
    st.sampled_from(("content-type", "retry-after", "x-rate-limit-reset", "www-authenticate", "x-other")),
    values,
)
statuses = st.sampled_from((200, 302, 400, 401, 402, 403, 404, 418, 429, 500, 503, 599))
RULES = ErrorRules(
    refresh_refused=("190", "a b", 400),
    client_refused=("id",),
    account_refused=("data",),
    token_refused=(401, 403),
)


@given(odd_contents, statuses, odd_headers, st.sampled_from((X, replace(X, errors=RULES))), st.booleans())
def test_any_refusal_is_one_of_our_errors(
    content: bytes, status: int, headers: dict[str, str], api: OAuthProvider, is_refresh: bool
):
    response = answer(content, status, sent=REFRESH if is_refresh else None, **headers)
    error = _classify(api, response)
    assert isinstance(error, TwitterAPIException)
    error.message.encode()
    assert "\x00" not in error.message
    assert len(error.message) < 500


@given(odd_contents, odd_headers)
def test_any_who_am_i_is_an_account_that_can_be_stored_or_one_of_our_errors(
    content: bytes, headers: dict[str, str]
):
    try:
        user = user_in(X, answer(content, 200, **headers))
    except TwitterAPIException:
        return
    assert isinstance(user, ProviderUser)
    assert 0 < len(user.id.encode().decode()) <= 255
    assert "\x00" not in user.id + user.username


@given(odd_contents | st.from_regex(rb"oauth_token=.{0,9}&oauth_token_secret=.{0,9}"), odd_headers)
def test_any_answer_of_oauth_1_is_a_token_or_one_of_our_errors(content: bytes, headers: dict[str, str]):
    endpoints = OAuth1Endpoints(
        request_token_url="https://a", authorize_url="https://a", access_token_url="https://a"
    )
    app = OAuth1App(X, endpoints, "id", SecretStr("secret"), "https://a")
    try:
        token = _token_in(app.api, answer(content, 200, **headers))
    except TwitterAPIException:
        return
    assert token.token.get_secret_value()
