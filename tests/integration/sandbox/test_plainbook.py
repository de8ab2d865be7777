"""Plainbook over HTTP, with a client that is not ours: what a browser would see, and what a program gets."""

import re
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client

from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.plainbook import consent, signed_in, ticket_in

from .conftest import VERIFIER

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
async def client(info: SandboxInfo):
    app = info.plainbook_app
    async with AsyncOAuth2Client(
        app.client_id,
        app.client_secret,
        token_endpoint_auth_method="client_secret_post",
        revocation_endpoint_auth_method="client_secret_post",
        redirect_uri=app.redirect_uri,
        scope=" ".join(app.scopes),
        code_challenge_method="S256",
        trust_env=False,
    ) as client:
        yield client


@pytest.fixture
async def browser(admin: SandboxAdmin, profile: ProfileInfo):
    async with await signed_in(admin, profile.account) as browser:
        yield browser


def authorize_url(client: AsyncOAuth2Client, info: SandboxInfo) -> str:
    url, _ = client.create_authorization_url(f"{info.plainbook_url}/authorize", code_verifier=VERIFIER)
    return str(url)


async def tokens_of(client: AsyncOAuth2Client, browser: httpx.AsyncClient, info: SandboxInfo, account: str):
    redirect = await consent(browser, authorize_url(client, info), account)
    assert redirect.status_code == 303
    token: dict[str, Any] = await client.fetch_token(
        f"{info.plainbook_url}/token",
        authorization_response=redirect.headers["location"],
        code_verifier=VERIFIER,
    )
    return token


async def who_am_i(info: SandboxInfo, access_token: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        headers = {"Authorization": f"Bearer {access_token}"}
        return await http.get(f"{info.plainbook_url}/me", headers=headers)


async def test_plainbook_is_announced(info: SandboxInfo, admin: SandboxAdmin):
    told = await admin.info()
    assert told.plainbook_url == info.plainbook_url == f"{info.provider_url}/plainbook"
    assert told.plainbook_app == info.plainbook_app


async def test_tokens_live_an_hour_and_the_refresh_token_stays(client, browser, info, profile):
    token = await tokens_of(client, browser, info, profile.account)
    assert (token["expires_in"], token["scope"]) == (3600, "profile,posts,offline")
    first = token["refresh_token"]
    for _ in range(2):
        token = await client.refresh_token(f"{info.plainbook_url}/token", first)
        assert token["refresh_token"] == first  # authlib keeps it: the answer has none
    me = (await who_am_i(info, token["access_token"])).json()["user"]
    assert me["login"] == profile.account
    assert isinstance(me["uid"], int)

    await client.revoke_token(f"{info.plainbook_url}/revoke", first)
    assert (await who_am_i(info, token["access_token"])).status_code == 401
    with pytest.raises(OAuthError, match="invalid_grant"):
        await client.refresh_token(f"{info.plainbook_url}/token", first)


@pytest.mark.parametrize("method", ["client_secret_basic", "none"])
async def test_the_secret_must_be_in_the_body(client, browser, info, profile, method: str):
    client.token_endpoint_auth_method = method
    with pytest.raises(OAuthError, match="invalid_client"):
        await tokens_of(client, browser, info, profile.account)


async def test_the_account_is_chosen_among_decoys(client, browser, info, profile):
    page = await browser.get(authorize_url(client, info))
    names = re.findall(r'name="account" value="([^"]+)"', page.text)
    assert names == [f"{profile.account}2", "someone.else", profile.account]
    token = await tokens_of(client, browser, info, "someone.else")
    assert (await who_am_i(info, token["access_token"])).json()["user"]["login"] == "someone.else"


async def test_banner_and_chooser_can_be_switched_off(client, browser, info, profile, admin: SandboxAdmin):
    url = authorize_url(client, info)
    assert '<dialog open class="cookies">' in (await browser.get(url)).text
    await admin.change_settings(plainbook_banner=False, plainbook_chooser=False)
    page = (await browser.get(url)).text
    assert "<dialog" not in page
    assert f'<b id="signed-in">{profile.account}</b>' in page


async def test_a_decision_works_once_and_may_be_no(client, browser, info, profile):
    url = authorize_url(client, info)
    redirect = await consent(browser, url, profile.account, decision="deny")
    assert parse_qs(urlsplit(redirect.headers["location"]).query)["error"] == ["access_denied"]

    ticket = ticket_in(await browser.get(url))
    answers = [
        await browser.post(urljoin(url, "consent"), data={"ticket": ticket, "decision": "allow"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [303, 403]


async def test_plainbook_has_faults(client, browser, info, profile, admin: SandboxAdmin):
    url = authorize_url(client, info)

    async def shown(kind: str) -> httpx.Response:
        await admin.set_fault("plainbook.authorize", kind, account=profile.account, times=1)
        return await browser.get(url)

    assert (await shown("signed_out")).headers["location"] == "/plainbook/login"
    assert f'value="{profile.account}"' not in (await shown("not_listed")).text
    assert "Plainbook is having a break." in (await shown("error_page")).text
    ticket = ticket_in(await shown("declined"))
    refused = await browser.post(urljoin(url, "consent"), data={"ticket": ticket, "decision": "allow"})
    assert "error=access_denied" in refused.headers["location"]


@pytest.mark.parametrize("part", ["client_id", "redirect_uri", "scope", "code_challenge_method"])
async def test_wrong_request_is_described_in_a_page(client, browser, info, part: str):
    url = httpx.URL(authorize_url(client, info)).copy_set_param(part, "<wrong>")
    page = await browser.get(url)
    assert '<p class="error">' in page.text
    assert "<wrong>" not in page.text


async def test_plainbook_asks_a_signed_out_or_wrong_account_to_log_in(client, browser, info, profile):
    url = authorize_url(client, info)
    ticket = ticket_in(await browser.get(url))
    async with httpx.AsyncClient(trust_env=False) as stranger:
        assert (await stranger.get(url)).headers["location"] == "/plainbook/login"
        answer = await stranger.post(urljoin(url, "consent"), data={"ticket": ticket, "decision": "allow"})
    assert answer.status_code == 403
    page = await browser.get(urljoin(url, "consent"), params={"account": "a.stranger", "ticket": ticket})
    assert page.status_code == 403


async def test_plainbooks_grants_and_secrets_are_among_the_others(client, browser, info, profile, admin):
    token = await tokens_of(client, browser, info, profile.account)
    assert token["access_token"] in (await admin.issued()).access_tokens
    (grant,) = await admin.grants(profile.account)
    assert (grant.app, grant.account, grant.usable) == ("PLAIN1", profile.account, True)
    assert await admin.revoke_grants(profile.account) == 1
    assert (await who_am_i(info, token["access_token"])).status_code == 401
