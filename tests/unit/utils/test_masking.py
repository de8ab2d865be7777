"""Secrets are masked in texts of somebody else's."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.utils.masking import mask_line, mask_text

SECRET = "pl4nted"


@pytest.mark.parametrize(
    "text",
    [
        f"https://h/path?anything={SECRET}&more={SECRET}",
        f"https://user@h:1/path#access_token={SECRET}",
        f"at f (https://h/app.js?v={SECRET}:1:2)",
        f"Authorization: Bearer {SECRET}",
        f"authorization: basic {SECRET}==",
        f"{{'Authorization': 'Digest {SECRET}'}}",
        f"(b'authorization', b'Bearer {SECRET}Key')",
        f"sent bearer {SECRET}-1 to it",
        f"sent Basic {SECRET}=",
        f'{{"access_token":"{SECRET}"}}',
        f"refresh_token = '{SECRET}'",
        f"clientSecret: {SECRET}",
        f"client_secret={SECRET}&x=1",
        f'"password": "{SECRET}"',
        f"passwd={SECRET}",
        f"auth_token={SECRET}; path=/",
        f"code={SECRET}",
        f"state: {SECRET}",
        f"x-api-key: {SECRET}",
        f"socks5://user:{SECRET}@proxy:1080 refused",
        f"http://user:p/{SECRET}@proxy:8080/path refused",
        f"http://{SECRET}@proxy:8080",
        f"proxy=user:{SECRET}@proxy:1080",
        f"proxy.example.com:8080:user:{SECRET}",
        f"/keys/gla_01234567_{SECRET}{SECRET}{SECRET}",
        f"whsec_{SECRET}/{SECRET}+{SECRET}=",
    ],
)
def test_a_secret_is_known_by_its_place_or_its_name(text: str):
    assert SECRET not in mask_text(text)


@pytest.mark.parametrize("length", [16, 24, 32, 64])
def test_a_secret_without_a_name_is_known_by_its_look(length: int):
    secret = secrets.token_hex(length)
    assert secret[:12] not in mask_text(f"got {secret}, went on")


@pytest.mark.parametrize(
    "text",
    [
        "OAuth_Consent_Error_Detail",
        "Failed to load resource: the server responded with a status of 500 () https://h/i/api/2/oauth2/consent",
        "TypeError: x is undefined",
        "error code: 1015",
        "Log in to X / X",
        "https://x.com/@anna and http://h:80/@anna at 12:30:45, app.js:10:20, mailto anna@example.com",
        "HTTP basic authentication failed.",
        "Bearer token is missing",
        'WWW-Authenticate: Basic realm=api, Bearer realm="api", authorization_uri="https://h/"',
        "state: in_progress, code=unavailable",
        "at 12:34:56:789, from 2001:10:20:30 and 2001:db8:10:20:30, [21/Nov/2026:12:34:56]",
        "<a href='mailto:anna@example.com'>",
    ],
)
def test_text_that_an_operator_needs_stays(text: str):
    assert mask_text(text) == text


@given(st.text(st.characters(codec="ascii"), min_size=6), st.text(), st.text())
def test_a_known_secret_never_stays(secret: str, before: str, after: str):
    """The text around it is arbitrary; a secret of the mask's own letters cannot be told from it."""
    masked = mask_text(f"{before}{secret}{after}", secrets={secret})
    assert secret not in masked.replace("[masked]", "")


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a-",
        "a.",
        "1",
        "http://",
        "a:(",
        "a:80:",
        "token",
        "cookie_",
        "bearer ",
        "basic=",
        "code:",
        "mailto:",
        "h://a@",
    ],
)
@pytest.mark.timeout(30)
def test_a_long_word_takes_no_long_time(text: str):
    """Linear work takes half a second, quadratic work two minutes."""
    mask_text(text * (400_000 // len(text)))


def test_our_own_keys_are_known_in_a_log_line():
    for place in ("/keys/", "X-API-Key: ", "Authorization: Bearer ", "(b'authorization', b'bearer "):
        assert mask_line(f"{place}gla_01234567_abcdefghijklmnop-1") == f"{place}gla_01234567_[masked]"


def test_in_a_log_line_only_the_values_of_a_url_go():
    line = "GET http://h/callback?code=abc&state=def&scope=x said code=abc"
    assert mask_line(line) == "GET http://h/callback?code=[masked]&state=[masked]&scope=x said code=abc"
    line = "http://h/callback?oauth_token=abc&oauth_verifier=def, http://h/callback?denied=abc"
    assert mask_line(line) == (
        "http://h/callback?oauth_token=[masked]&oauth_verifier=[masked] http://h/callback?denied=[masked]"
    )
