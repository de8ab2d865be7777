"""Single sign-on at a provider that answers wrongly, slowly or for others: the answer is refused with a sentence."""

import json
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from tests.fixtures.api import Api, OpenApi
from tests.fixtures.dashboard import OWN, SESSION_COOKIE, PageBrowser, page_browser, shown_text
from tests.fixtures.openid import (
    BEGIN,
    CALLBACK,
    CLIENT_ID,
    CLIENT_SECRET,
    OpenIdServer,
    answer,
    begin,
    come_back,
    openid_server,
    public,
    sign_in,
    signed,
    signed_with,
    signing_key,
    unsigned,
)
from tests.fixtures.scripted import Slow

DISCOVERY = "/.well-known/openid-configuration"
pytestmark = pytest.mark.databases("sqlite")


@pytest_asyncio.fixture
async def api(open_api: OpenApi, server: OpenIdServer) -> AsyncIterator[Api]:
    async with open_api(workers=False, **server.settings()) as opened:
        yield opened


@pytest_asyncio.fixture
async def browser(api: Api) -> AsyncIterator[PageBrowser]:
    async with page_browser(api, None) as opened:
        yield opened


async def test_wrong_id_tokens_are_refused(api: Api, server: OpenIdServer, browser: PageBrowser):
    now = int(time.time())
    other = OpenIdServer(key=signing_key(1))
    changes: dict[str, dict[str, Any]] = {
        "another nonce": {"nonce": "another"},
        "no nonce": {"nonce": None},
        "another audience": {"aud": "another"},
        "another audience, this party": {"aud": "another", "azp": CLIENT_ID},
        "no audience": {"aud": None},
        "more audiences without authorized party": {"aud": [CLIENT_ID, "another"]},
        "another authorized party": {"azp": "another"},
        "another issuer": {"iss": "https://another.example"},
        "expired": {"exp": now - 120},
        "endless": {"exp": float("nan")},
        "expiry as text": {"exp": "9999999999"},
        "no expiry": {"exp": None},
        "of the future": {"iat": now + 600},
        "not yet": {"nbf": now + 600},
        "nobody": {"sub": ""},
        "no text as subject": {"sub": 1},
        "long subject": {"sub": "x" * 256},
    }
    signatures: dict[str, Callable[..., str]] = {
        "no algorithm": unsigned,
        "client secret": partial(signed_with, CLIENT_SECRET),
        "public key as secret": partial(signed_with, json.dumps(server.keys[0])),
        "another key": lambda _, claims: signed(other, claims, kid=server.key.kid),
        "changed claims": lambda given, claims: _swapped(signed(given, claims), signed(given, {"sub": "b"})),
        "critical header": partial(signed, crit=["exp"], exp=1),
        "header that is none": lambda given, claims: "x" + signed(given, claims),
        "no token": lambda _given, _claims: "a.b",
        "no claims": lambda given, _claims: signed(given, []),  # type: ignore[arg-type]
        "deep claims": lambda given, claims: signed(given, claims | {"groups": _nested(200)}),
        "large": lambda given, claims: signed(given, claims | {"x": "y" * 150_000}),
        "no ASCII": lambda given, claims: signed(given, claims) + "é",
    }
    for name, claims in changes.items():
        server.claims = claims
        await assert_refused(browser, server, name)
    server.claims = {}
    for name, sign in signatures.items():
        server.sign = sign
        await assert_refused(browser, server, name)
    server.sign = None
    assert (await sign_in(browser, server)).status_code == 200
    for aud, azp in (([CLIENT_ID], None), ([CLIENT_ID, "another"], CLIENT_ID)):
        server.claims = {"aud": aud, "azp": azp, "exp": now - 30, "iat": now + 30}  # clocks differ a little
        assert (await sign_in(browser, server)).status_code == 200


async def assert_refused(browser: PageBrowser, server: OpenIdServer, name: str) -> None:
    browser.client.cookies.clear()
    back = await sign_in(browser, server)
    assert (back.status_code, "SSO_REFUSED" in back.text) == (401, True), (name, shown_text(back))
    assert "ID token is" in shown_text(back), name
    assert SESSION_COOKIE not in browser.client.cookies, name


def _swapped(token: str, other: str) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{other.split('.')[1]}.{signature}"


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


async def test_keys_are_fetched_again_once_for_an_unknown_one(server: OpenIdServer, browser: PageBrowser):
    assert (await sign_in(browser, server)).status_code == 200
    server.key, server.keys = signing_key(1), [public(signing_key(1))]
    assert (await sign_in(browser, server)).status_code == 200
    assert server.heard.count("/keys") == 2
    server.key, server.keys = signing_key(2), [public(signing_key(2))]  # again within 30 seconds
    back = await sign_in(browser, server)
    assert (back.status_code, "signed with an unknown key" in shown_text(back)) == (401, True)
    assert (server.heard.count("/keys"), server.heard.count(DISCOVERY)) == (2, 1)


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ([public(signing_key(0), alg="RS512")], 401),
        ([public(signing_key(0), use="enc")], 502),
        ([{"kty": "oct", "k": "c2VjcmV0", "kid": "key 0"}], 502),
        ([{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "key 0"}], 502),
        ([{"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"}, 1, public(signing_key(0))], 200),
    ],
)
async def test_key_signs_what_it_is_for(
    server: OpenIdServer, browser: PageBrowser, keys: list[Any], status: int
):
    server.keys = keys
    assert (await sign_in(browser, server)).status_code == status


async def test_token_without_key_id_needs_a_single_key(server: OpenIdServer, browser: PageBrowser):
    server.sign = partial(signed, kid=None)
    assert (await sign_in(browser, server)).status_code == 200
    server.sign, server.key = None, signing_key(1)
    server.keys = [public(signing_key(0)), public(signing_key(1))]
    assert (await sign_in(browser, server)).status_code == 200
    server.sign = partial(signed, kid=None)
    await assert_refused(browser, server, "several keys")


@pytest.mark.parametrize(
    ("path", "instead", "problem"),
    [
        (DISCOVERY, answer(b"{}" + b" " * 300_000), "larger than 256,000 bytes"),
        (DISCOVERY, answer(b"[" * 5_000), "no JSON object"),
        (DISCOVERY, answer({}, 302, Location="/elsewhere"), "HTTP 302"),
        (DISCOVERY, answer({}, Content_Type="text/html"), "no JSON object"),
        (DISCOVERY, answer({"issuer": "https://another.example"}), "authorization_endpoint"),
        (DISCOVERY, b"nothing", "cannot be reached"),
        (DISCOVERY, Slow(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", 0.05), "within 0.5 s"),
        ("/keys", answer({}, 302, Location="/elsewhere"), "HTTP 302"),
        ("/keys", answer({"keys": []}), "no key that can sign"),
        ("/keys", answer({"keys": "k"}), "no key that can sign"),
        ("/token", answer({"access_token": "x"}), "no ID token"),
        ("/token", answer({"error": "<b>invalid_client</b>"}, 401), "refuses this service: invalid_client"),
        ("/token", answer(b"", 500), "HTTP 500"),
        ("/token", Slow(b"HTTP/1.1 200 OK\r\n\r\n", 0.05), "within 0.5 s"),
    ],
)
async def test_provider_that_answers_wrongly_is_told_and_keys_still_sign_in(
    open_api: OpenApi, server: OpenIdServer, path: str, instead: bytes | Slow, problem: str
):
    """Nothing that it sends makes the service wait, read on or follow."""
    server.instead[path] = instead
    settings = server.settings(oauth_api_timeout=0.5)
    async with open_api(workers=False, **settings) as api, page_browser(api, None) as browser:
        if path == DISCOVERY:
            page = await browser.client.post(BEGIN, headers=OWN)
        else:
            page = await sign_in(browser, server)
        assert (page.status_code, "SSO_UNAVAILABLE" in page.text) == (502, True), shown_text(page)
        assert problem in shown_text(page)
        assert "/elsewhere" not in server.heard
        assert (await browser.sign_in()).status_code == 303
        asked = len(server.heard)
        if path == DISCOVERY:  # all that press the button in these seconds share one answer
            assert (await browser.client.post(BEGIN, headers=OWN)).status_code == 502
            assert len(server.heard) == asked


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"issuer": "https://another.example"}, "of another issuer"),
        ({"token_endpoint": "http://login.example.com/token"}, "without https"),
        ({"jwks_uri": "file:///etc/passwd"}, "without https"),
        ({"authorization_endpoint": "nowhere"}, "no address"),
        ({"jwks_uri": None}, "jwks_uri"),
    ],
)
async def test_discovery_document_must_be_of_the_issuer_and_lead_to_safe_addresses(
    server: OpenIdServer, browser: PageBrowser, metadata: dict[str, Any], problem: str
):
    server.metadata = metadata
    page = await browser.client.post(BEGIN, headers=OWN)
    assert (page.status_code, problem in shown_text(page)) == (502, True), shown_text(page)


async def test_refusal_of_the_provider_is_shown_as_text(server: OpenIdServer, browser: PageBrowser):
    state = server.consent(await begin(browser))["state"]
    hostile = "<script>alert(1)</script> <img src=x> token=abcdef12345 " + "x" * 5_000
    page = await come_back(browser, {"state": state, "error": "access_denied", "error_description": hostile})
    assert page.status_code == 401
    shown = shown_text(page)
    assert "The provider refuses the sign-in: access_denied: token=[masked]" in shown
    assert "alert(1)" not in page.text
    assert len(shown) < 1_200
    without_state = await come_back(browser, {"error": "access_denied", "error_description": "phishing"})
    assert "phishing" not in without_state.text


@pytest.mark.parametrize(
    ("announced", "issuer", "status"),
    [(True, None, 401), (True, "own", 200), (False, "https://another.example", 401), (False, "own", 200)],
)
async def test_callback_names_its_issuer_where_the_provider_says_so(
    server: OpenIdServer, browser: PageBrowser, announced: bool, issuer: str | None, status: int
):
    """RFC 9207: an answer of another provider is not taken for one of this."""
    server.metadata = {"authorization_response_iss_parameter_supported": announced}
    query = server.consent(await begin(browser))
    if issuer is not None:
        query["iss"] = server.url if issuer == "own" else issuer
    assert (await come_back(browser, query)).status_code == status


async def test_code_of_another_sign_in_is_refused(api: Api, server: OpenIdServer, browser: PageBrowser):
    """An answer whose code was begun elsewhere (RFC 9700, 4.5): the verifier does not fit."""
    async with page_browser(api, None) as other:
        stolen = server.consent(await begin(other))
    own = server.consent(await begin(browser))
    back = await come_back(browser, own | {"code": stolen["code"]})
    assert (back.status_code, "refuses the code" in shown_text(back)) == (401, True)
    for wrong in ({"code": ""}, {"code": "x" * 5_000}):
        query = server.consent(await begin(browser)) | wrong
        back = await come_back(browser, query)
        assert (back.status_code, "has no code" in shown_text(back)) == (401, True)
    query = server.consent(await begin(browser))
    back = await browser.get(f"{CALLBACK}?{urlencode(query)}&code={query['code']}")
    assert (back.status_code, "says something twice" in shown_text(back)) == (401, True)


async def test_client_authenticates_as_the_provider_takes_it(open_api: OpenApi):
    async with openid_server(is_public=True) as server:
        settings = server.settings()
        async with open_api(workers=False, **settings) as api, page_browser(api, None) as browser:
            assert (await sign_in(browser, server)).status_code == 200
    async with openid_server() as server:
        server.metadata = {"token_endpoint_auth_methods_supported": ["private_key_jwt"]}
        async with open_api(workers=False, **server.settings()) as api, page_browser(api, None) as browser:
            back = await sign_in(browser, server)
            assert (back.status_code, "takes no client secret" in shown_text(back)) == (502, True)
