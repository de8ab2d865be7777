from collections.abc import Callable
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest

from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo

pytestmark = pytest.mark.asyncio(loop_scope="session")

VERIFIER = "v" * 64
AuthorizeUrl = Callable[..., str]


async def test_info_is_what_was_announced_with_the_accounts_of_now(
    admin: SandboxAdmin, info: SandboxInfo, profile: ProfileInfo
):
    now = await admin.info()
    assert now.model_copy(update={"accounts": info.accounts}) == info
    assert profile.account in now.accounts


async def test_every_secret_of_an_authorization_is_remembered(
    http: httpx.AsyncClient,
    admin: SandboxAdmin,
    info: SandboxInfo,
    profile: ProfileInfo,
    authorize_url: AuthorizeUrl,
):
    url = authorize_url("AIOTT2", state=f"state-of-{profile.account}")
    code = parse_qs(urlsplit(await admin.give_consent(url, profile.account)).query)["code"][0]
    app = info.apps["AIOTT2"]
    form = {"client_id": app.client_id, "grant_type": "authorization_code", "code": code}
    form |= {"redirect_uri": app.redirect_uri, "code_verifier": VERIFIER}
    token_url = f"{info.provider_url}/2/oauth2/token"
    first = (await http.post(token_url, data=form)).json()
    refresh = {
        "client_id": app.client_id,
        "grant_type": "refresh_token",
        "refresh_token": first["refresh_token"],
    }
    second = (await http.post(token_url, data=refresh)).json()

    issued = await admin.issued()
    assert f"state-of-{profile.account}" in issued.states
    assert code in issued.codes
    assert VERIFIER in issued.verifiers
    for tokens in (first, second):
        assert tokens["access_token"] in issued.access_tokens
        assert tokens["refresh_token"] in issued.refresh_tokens
    assert {code, VERIFIER, second["access_token"]} <= set(issued.all())

    (grant,) = await admin.grants(profile.account)
    assert (grant.app, grant.account, grant.usable) == ("AIOTT2", profile.account, True)
    revoke = {"client_id": app.client_id, "token": second["refresh_token"]}
    await http.post(f"{info.provider_url}/2/oauth2/revoke", data=revoke)
    (grant,) = await admin.grants(profile.account)
    assert not grant.usable
    assert grant in await admin.grants()


async def test_an_unseen_wrong_account_is_not_named_on_the_page(
    http: httpx.AsyncClient, admin: SandboxAdmin, profile: ProfileInfo, authorize_url: AuthorizeUrl
):
    await admin.set_fault("provider.authorize", "wrong_account_unseen", account=profile.account)
    url = authorize_url("AIOTT1")
    async with httpx.AsyncClient(cookies=await admin.sign_in(profile.account), trust_env=False) as browser:
        page = (await browser.get(url)).text
        ticket = page.partition('data-ticket="')[2].partition('"')[0]
        path = page.partition('data-api="')[2].partition('"')[0]
        shown = (await browser.get(urljoin(url, path), params={"ticket": ticket})).json()
    assert shown["ready"]
    assert shown["handle"] is None
