"""What each answer of the provider's API means, and that no POST is ever sent twice."""

import secrets
from base64 import b64decode
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import unquote_plus

import httpx
import pytest
import stamina

from app.clients.oauth.oauth2 import OAuthProviderClient
from app.clients.oauth.refusals import ErrorRules
from app.services.oauth.provider import OAuthProvider, x_provider
from app.utils.exceptions import (
    CreditsDepletedException,
    FailureKind,
    InvalidClientException,
    InvalidGrantException,
    TwitterAPIException,
)
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from sandbox.oauth import _basic_credentials
from tests.fixtures.scripted import envelope, scripted

REFRESH = {"grant_type": "refresh_token", "refresh_token": "spent-or-unknown"}


@pytest.fixture(autouse=True)
def _no_waiting():
    with stamina.set_testing(True, attempts=2):
        yield


@pytest.fixture
def client(http: httpx.AsyncClient) -> OAuthProviderClient:
    return OAuthProviderClient(http=http, timeout=10)


@pytest.fixture
def x(info: SandboxInfo) -> OAuthProvider:
    return x_provider(web_url=info.provider_url, api_url=info.provider_url)


async def refresh(client: OAuthProviderClient, info: SandboxInfo, **changes: Any) -> None:
    app = info.apps["AIOTT1"]
    await client.token(
        x_provider(web_url=info.provider_url, api_url=info.provider_url),
        **{"client_id": app.client_id, "client_secret": app.client_secret, "form": REFRESH} | changes,
    )


@pytest.fixture
async def fresh_stats(admin: SandboxAdmin) -> SandboxAdmin:
    await admin.clear_stats()
    return admin


async def test_an_unknown_refresh_token_is_an_invalid_grant(client: OAuthProviderClient, info: SandboxInfo):
    with pytest.raises(InvalidGrantException, match="Value passed for the token was invalid") as caught:
        await refresh(client, info)
    assert not caught.value.retryable


async def test_an_unknown_code_is_an_invalid_grant(client: OAuthProviderClient, info: SandboxInfo):
    form = {
        "grant_type": "authorization_code",
        "code": "unknown",
        "redirect_uri": info.apps["AIOTT1"].redirect_uri,
        "code_verifier": "v" * 64,
    }
    with pytest.raises(InvalidGrantException, match="authorization code"):
        await refresh(client, info, form=form)


@pytest.mark.parametrize("secret", ["wrong", None])
async def test_a_wrong_secret_is_the_apps_fault(
    client: OAuthProviderClient, info: SandboxInfo, secret: str | None
):
    with pytest.raises(InvalidClientException) as caught:
        await refresh(client, info, client_secret=secret)
    assert not caught.value.retryable


async def test_id_and_secret_are_form_urlencoded_before_basic(client: OAuthProviderClient, x: OAuthProvider):
    """RFC 6749, 2.3.1; the sandbox decodes them so, too."""
    async with scripted(envelope({})) as server:
        api = replace(x, token_url=server.url)
        with suppress(TwitterAPIException):
            await client.token(api, client_id="a:b c", client_secret="+/%: ü", form=REFRESH)
    (heard,) = server.heard
    credentials = b64decode(heard.headers["authorization"].removeprefix("Basic ")).decode()
    assert credentials == "a%3Ab+c:%2B%2F%25%3A+%C3%BC"
    assert _basic_credentials(heard.headers["authorization"]) == ("a:b c", "+/%: ü")


async def test_a_secret_that_a_refusal_quotes_is_masked_however_it_is_spelt(
    admin: SandboxAdmin, client: OAuthProviderClient, info: SandboxInfo
):
    await admin.set_fault("provider.token", "echo", times=1)
    with pytest.raises(TwitterAPIException) as caught:
        await refresh(client, info, client_secret="se+cr/et%wi th:signs")
    assert "cr/et" not in unquote_plus(caught.value.message)


async def test_a_revocation_of_what_is_gone_already_is_one(
    admin: SandboxAdmin, client: OAuthProviderClient, x: OAuthProvider
):
    await admin.set_fault("provider.revoke", "status", status=400, body={"error": "invalid_token"}, times=1)
    await client.revoke(x, client_id="x", client_secret=None, token="token")


@pytest.mark.parametrize(
    ("fault", "retryable"),
    [
        ({"kind": "status", "status": 500}, True),
        ({"kind": "status", "status": 503}, True),
        ({"kind": "rate_limited"}, True),
        ({"kind": "html"}, True),
        ({"kind": "html", "status": 403}, False),
        ({"kind": "status", "status": 403, "body": {"error": 7, "detail": ["x"]}}, False),
        ({"kind": "status", "status": 400, "body": "[]"}, False),
        ({"kind": "html", "status": 200}, False),
        ({"kind": "empty_body"}, False),
        ({"kind": "truncated_json"}, False),
        ({"kind": "drop"}, True),
    ],
    ids=lambda value: "-".join(map(str, value.values()))[:40] if isinstance(value, dict) else "",
)
async def test_any_other_answer_says_whether_another_attempt_may_help(
    fresh_stats: SandboxAdmin,
    client: OAuthProviderClient,
    info: SandboxInfo,
    fault: dict[str, object],
    retryable: bool,
):
    if fault["kind"] == "truncated_json":
        fault = {"kind": "status", "status": 200, "body": '{"access_token": "clear-tok'}
    await fresh_stats.set_fault("provider.token", **fault)
    with pytest.raises(TwitterAPIException) as caught:
        await refresh(client, info)
    assert caught.type is TwitterAPIException
    assert caught.value.retryable is retryable
    assert "clear-tok" not in caught.value.message
    assert "<" not in caught.value.message
    assert len(await fresh_stats.requests(endpoint="provider.token")) == 1


async def test_an_app_without_credits_is_not_the_accounts_fault(
    fresh_stats: SandboxAdmin, client: OAuthProviderClient, x: OAuthProvider
):
    await fresh_stats.set_fault("provider.me", "status", status=402, body={"title": "CreditsDepleted"})
    with pytest.raises(CreditsDepletedException, match="no API credits left") as caught:
        await client.me(x, "token")
    assert (caught.value.kind, caught.value.retryable) == (FailureKind.APP, False)
    assert len(await fresh_stats.requests(endpoint="provider.me")) == 1


async def test_the_wait_that_the_provider_asks_for_is_kept(
    fresh_stats: SandboxAdmin, client: OAuthProviderClient, x: OAuthProvider
):
    """Too long for a slot to wait behind it: the next attempt does."""
    await fresh_stats.set_fault("provider.me", "rate_limited", seconds=300)
    with pytest.raises(TwitterAPIException) as caught:
        await client.me(x, "token")
    assert 290 < caught.value.retry_after <= 300
    assert len(await fresh_stats.requests(endpoint="provider.me")) == 1


async def test_a_provider_that_hangs_is_given_up(
    http: httpx.AsyncClient, admin: SandboxAdmin, info: SandboxInfo
):
    await admin.set_fault("provider.token", "hang")
    with pytest.raises(TwitterAPIException, match=r"\(timeout\): no answer within 0.1 seconds"):
        await refresh(OAuthProviderClient(http=http, timeout=0.1), info)


async def test_who_am_i_of_an_unknown_token_is_refused(client: OAuthProviderClient, x: OAuthProvider):
    with pytest.raises(TwitterAPIException, match=r"\(401\)") as caught:
        await client.me(x, secrets.token_urlsafe())
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("statuses", "status", "meaning"),
    [
        ((401,), 401, InvalidGrantException),
        ((401,), 403, TwitterAPIException),
        ((401, 403), 403, InvalidGrantException),
        ((403,), 401, TwitterAPIException),
    ],
)
async def test_the_providers_rules_say_which_statuses_of_who_am_i_refuse_a_token(
    client: OAuthProviderClient,
    x: OAuthProvider,
    statuses: tuple[int, ...],
    status: int,
    meaning: type[TwitterAPIException],
):
    refusal = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    async with scripted(refusal) as server:
        api = replace(x, me_url=server.url, errors=ErrorRules(token_refused=statuses))
        with pytest.raises(TwitterAPIException) as caught:
            await client.me(api, "token")
    assert type(caught.value) is meaning


async def test_who_am_i_and_a_revocation_are_asked_again(
    fresh_stats: SandboxAdmin, client: OAuthProviderClient, x: OAuthProvider
):
    await fresh_stats.set_fault("provider.me", "status", status=503)
    await fresh_stats.set_fault("provider.revoke", "status", status=503)
    with pytest.raises(TwitterAPIException):
        await client.me(x, "token")
    with pytest.raises(TwitterAPIException):
        await client.revoke(x, client_id="x", client_secret=None, token="token")
    assert len(await fresh_stats.requests(endpoint="provider.me")) == 2
    assert len(await fresh_stats.requests(endpoint="provider.revoke")) == 2
