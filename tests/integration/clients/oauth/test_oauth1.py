"""Signed calls: what each answer means, and which call is sent again."""

from dataclasses import replace

import httpx
import pytest
import stamina
from pydantic import SecretStr

from app.clients.oauth.oauth1 import OAuth1App, OAuth1ProviderClient, OAuth1Token
from app.clients.oauth.oauth2 import OAuthProviderClient
from app.services.oauth.provider import x_provider
from app.utils.exceptions import (
    CreditsDepletedException,
    FailureKind,
    InvalidClientException,
    InvalidGrantException,
    TwitterAPIException,
)
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.oauth1 import APP, answer_in, consent
from tests.fixtures.scripted import scripted

NEVER = OAuth1Token(SecretStr("never-issued"), SecretStr("clear-secret"))


@pytest.fixture(autouse=True)
def _no_waiting():
    with stamina.set_testing(True, attempts=2):
        yield


@pytest.fixture
def client(http: httpx.AsyncClient) -> OAuth1ProviderClient:
    return OAuth1ProviderClient(provider=OAuthProviderClient(http=http, timeout=10))


@pytest.fixture
def app(info: SandboxInfo) -> OAuth1App:
    x, own = x_provider(web_url=info.provider_url, api_url=info.provider_url), info.apps[APP]
    assert x.oauth1 is not None
    assert own.client_secret is not None
    return OAuth1App(x, x.oauth1, own.client_id, SecretStr(own.client_secret), own.redirect_uri)


async def granted(
    client: OAuth1ProviderClient, app: OAuth1App, admin: SandboxAdmin, account: str
) -> OAuth1Token:
    asked = await client.request_token(app)
    url = f"{app.endpoints.authorize_url}?oauth_token={asked.token.get_secret_value()}"
    verifier = answer_in(await consent(admin, url, account))["oauth_verifier"]
    return await client.access_token(app, request_token=asked, verifier=SecretStr(verifier))


async def test_token_lives_from_request_to_revocation(client, app, admin, profile):
    token = await granted(client, app, admin, profile.account)
    assert (await client.me(app, token)).username == profile.account
    await client.revoke(app, token)
    with pytest.raises(InvalidGrantException, match="Unauthorized"):
        await client.me(app, token)
    await client.revoke(app, token)  # gone already


@pytest.mark.parametrize(
    "wrong",
    [{"client_secret": SecretStr("wrong")}, {"client_id": "x"}, {"redirect_uri": "http://127.0.0.1/x"}],
    ids=str,
)
async def test_refusal_without_an_account_is_the_apps_fault(client, app, wrong):
    with pytest.raises(InvalidClientException, match=r"Could not authenticate|Callback URL not") as caught:
        await client.request_token(replace(app, **wrong))
    assert (caught.value.kind, caught.value.retryable) == (FailureKind.APP, False)


async def test_a_token_is_not_blamed_for_the_apps_wrong_keys(client, app, admin, profile):
    token = await granted(client, app, admin, profile.account)
    other = replace(app, client_secret=SecretStr("wrong"))
    for call in (client.me, client.revoke):
        with pytest.raises(InvalidClientException):
            await call(other, token)
    assert (await client.me(app, token)).username == profile.account


async def test_a_wrong_verifier_is_an_invalid_grant(client, app):
    asked = await client.request_token(app)
    for token in (asked, NEVER):
        with pytest.raises(InvalidGrantException):
            await client.access_token(app, request_token=token, verifier=SecretStr("clear-verifier"))


@pytest.mark.parametrize(
    ("fault", "retryable"),
    [
        ({"kind": "status", "status": 503}, True),
        ({"kind": "rate_limited"}, True),
        ({"kind": "drop"}, True),
        ({"kind": "status", "status": 404}, False),
        ({"kind": "empty_body"}, False),
        ({"kind": "html", "status": 200}, False),
        (
            {"kind": "status", "status": 200, "body": "oauth_token=clear-tok&oauth_token_secret=clear-tok"},
            False,
        ),
        (
            {"kind": "status", "status": 200, "body": "oauth_token=clear-tok&oauth_callback_confirmed=true"},
            False,
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values()))[:60] if isinstance(value, dict) else "",
)
async def test_a_post_for_a_token_is_sent_once(client, app, admin: SandboxAdmin, fault, retryable):
    await admin.clear_stats()
    await admin.set_fault("provider.oauth1_request_token", **fault)
    with pytest.raises(TwitterAPIException) as caught:
        await client.request_token(app)
    assert (caught.type, caught.value.retryable) == (TwitterAPIException, retryable)
    assert "clear-tok" not in caught.value.message
    assert len(await admin.requests(endpoint="provider.oauth1_request_token")) == 1
    if "confirmed" in str(fault) or fault.get("status") != 200:
        await admin.set_fault("provider.oauth1_access_token", **fault)
        with pytest.raises(TwitterAPIException) as caught:
            await client.access_token(app, request_token=NEVER, verifier=SecretStr("v"))
        assert caught.type is TwitterAPIException
        assert len(await admin.requests(endpoint="provider.oauth1_access_token")) == 1


async def test_who_am_i_is_asked_again_with_another_nonce(client, app, admin: SandboxAdmin, profile):
    token = await granted(client, app, admin, profile.account)
    await admin.set_fault("provider.me", "drop_after", account=profile.account, times=1)
    assert (await client.me(app, token)).username == profile.account
    await admin.set_fault("provider.oauth1_revoke", "status", status=503, account=profile.account, times=1)
    await client.revoke(app, token)
    assert [grant.usable for grant in await admin.grants(profile.account)] == [False]


async def test_the_state_of_app_or_account_is_no_refusal_of_the_token(client, app, admin: SandboxAdmin):
    await admin.set_fault("provider.me", "status", status=402, times=1)
    with pytest.raises(CreditsDepletedException):
        await client.me(app, NEVER)
    await admin.set_fault("provider.me", "status", status=403, times=1)
    with pytest.raises(TwitterAPIException) as caught:
        await client.me(app, NEVER)
    assert caught.type is TwitterAPIException


async def test_a_provider_that_hangs_is_given_up(http, app, admin: SandboxAdmin):
    await admin.set_fault("provider.oauth1_request_token", "hang")
    hasty = OAuth1ProviderClient(provider=OAuthProviderClient(http=http, timeout=0.1))
    with pytest.raises(TwitterAPIException, match=r"\(timeout\): no answer within 0.1 seconds"):
        await hasty.request_token(app)


def test_representation_shows_neither_token_nor_secret(app: OAuth1App):
    assert "clear-secret" not in repr(NEVER)
    assert app.client_secret.get_secret_value() not in repr(app)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "oauth_token=s3cret&oauth_token_secret=s3cret",
            'oauth_callback_confirmed must be "true", and nothing came',
        ),
        (
            "oauth_token=s3cret&oauth_token_secret=s3cret&oauth_callback_confirmed=false",
            'oauth_callback_confirmed must be "true", and text of length 5 came',
        ),
        ("oauth_callback_confirmed=true", "oauth_token must be text, and nothing came"),
        (
            "oauth_callback_confirmed=true&oauth_token=s3cret",
            "oauth_token_secret must be text, and nothing came",
        ),
    ],
)
async def test_unexpected_answer_is_described_by_field_and_length(
    client: OAuth1ProviderClient, app: OAuth1App, body: str, expected: str
):
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    async with scripted(f"{head}{body}".encode()) as server:
        own = replace(app, endpoints=replace(app.endpoints, request_token_url=server.url))
        with pytest.raises(TwitterAPIException) as caught:
            await client.request_token(own)
    assert caught.value.message.endswith(f"the answer is not what was expected: {expected}")
    assert "s3cret" not in str(caught.value)
