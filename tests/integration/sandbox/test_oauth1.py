"""OAuth 1.0a at the sandbox, as authlib's client meets it: every signature counts, everything works once."""

import time

import httpx
import pytest
from authlib.integrations.base_client.errors import OAuthError

from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.oauth1 import answer_in, client, consent, fields_of


async def authorize(info: SandboxInfo, admin: SandboxAdmin, account: str) -> dict[str, str]:
    """The access token's answer."""
    async with client(info) as caller:
        callback = await consent(admin, await authorize_url(caller, info), account)
        verifier = answer_in(callback)["oauth_verifier"]
        return dict(await caller.fetch_access_token(f"{info.provider_url}/oauth/access_token", verifier))


async def authorize_url(caller, info: SandboxInfo) -> str:
    asked = await caller.fetch_request_token(f"{info.provider_url}/oauth/request_token")
    assert asked["oauth_callback_confirmed"] == "true"
    return str(caller.create_authorization_url(f"{info.provider_url}/oauth/authorize"))


def error_of(answer: httpx.Response) -> tuple[int, int]:
    return answer.status_code, answer.json()["errors"][0]["code"]


async def test_token_lives_from_request_to_invalidation(info, admin, profile: ProfileInfo):
    given = await authorize(info, admin, profile.account)
    assert given["screen_name"] == profile.account
    async with client(info, given["oauth_token"], given["oauth_token_secret"]) as caller:
        me = await caller.get(f"{info.provider_url}/2/users/me")
        assert me.json()["data"]["username"] == profile.account
        assert [grant.usable for grant in await admin.grants(profile.account)] == [True]
        gone = await caller.post(f"{info.provider_url}/1.1/oauth/invalidate_token")
        assert gone.json() == {"access_token": given["oauth_token"]}
        assert (await caller.get(f"{info.provider_url}/2/users/me")).status_code == 401
        again = await caller.post(f"{info.provider_url}/1.1/oauth/invalidate_token")
        assert error_of(again) == (401, 89)
    issued = await admin.issued()
    assert {given["oauth_token"], given["oauth_token_secret"]} <= set(issued.all())
    assert len(issued.request_tokens) >= 1
    (record,) = await admin.requests(endpoint="provider.oauth1_access_token", account=profile.account)
    assert record.status == 200


async def test_a_second_grant_and_the_owner_end_the_first(info, admin, profile: ProfileInfo):
    for _ in range(2):
        await authorize(info, admin, profile.account)
    assert [grant.usable for grant in await admin.grants(profile.account)] == [False, True]
    assert await admin.revoke_grants(profile.account) == 1
    assert [grant.usable for grant in await admin.grants(profile.account)] == [False, False]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"client_secret": "wrong"}, (401, 32)),
        ({"client_id": "unknown"}, (401, 32)),
        ({"redirect_uri": "http://127.0.0.1/elsewhere"}, (403, 415)),
    ],
    ids=["client_secret", "client_id", "redirect_uri"],
)
async def test_a_request_token_needs_the_apps_keys_and_its_callback(info: SandboxInfo, wrong, code):
    async with client(info) as caller:
        for name, value in wrong.items():
            setattr(caller.auth, name, value)
        assert error_of(await caller.post(f"{info.provider_url}/oauth/request_token")) == code


async def test_a_call_that_is_not_signed_is_refused(http: httpx.AsyncClient, info: SandboxInfo):
    for headers in ({}, {"authorization": "OAuth x"}, {"authorization": "Bearer x"}):
        answer = await http.post(f"{info.provider_url}/oauth/request_token", headers=headers)
        assert error_of(answer) == (401, 32)
        assert (await http.get(f"{info.provider_url}/2/users/me", headers=headers)).status_code == 401


async def test_a_nonce_works_once_and_only_for_what_was_signed(http: httpx.AsyncClient, info: SandboxInfo):
    url = f"{info.provider_url}/oauth/request_token"
    async with client(info) as caller:
        _, headers, _ = caller.auth.sign("POST", url, {}, "")
    assert error_of(await http.post(f"{url}?more=1", headers=headers)) == (401, 32)
    assert (await http.post(url, headers=headers)).status_code == 200
    assert error_of(await http.post(url, headers=headers)) == (401, 32)


async def test_an_old_signature_is_refused(
    http: httpx.AsyncClient, info: SandboxInfo, monkeypatch: pytest.MonkeyPatch
):
    url = f"{info.provider_url}/oauth/request_token"
    monkeypatch.setattr(
        "authlib.oauth1.rfc5849.client_auth.generate_timestamp", lambda: int(time.time()) - 301
    )
    async with client(info) as caller:
        _, headers, _ = caller.auth.sign("POST", url, {}, "")
    assert error_of(await http.post(url, headers=headers)) == (401, 135)


async def test_a_request_token_is_spent_by_its_own_verifier_alone(info, admin, profile: ProfileInfo):
    url = f"{info.provider_url}/oauth/access_token"
    async with client(info) as caller:
        page = await authorize_url(caller, info)
        asked = dict(caller.token)
        with pytest.raises(OAuthError, match="Invalid oauth_verifier"):
            await caller.fetch_access_token(url, "never-granted")
        verifier = answer_in(await consent(admin, page, profile.account))["oauth_verifier"]
        for given in ("wrong", verifier[:-1]):
            caller.token = asked
            with pytest.raises(OAuthError, match="Invalid oauth_verifier"):
                await caller.fetch_access_token(url, given)
        caller.token = asked
        await caller.fetch_access_token(url, verifier)
        caller.token = asked
        with pytest.raises(OAuthError, match="Invalid oauth_verifier"):
            await caller.fetch_access_token(url, verifier)


async def test_declined_consent_names_the_request_token(info, admin, profile: ProfileInfo):
    async with client(info) as caller:
        callback = await consent(admin, await authorize_url(caller, info), profile.account, cancel="Cancel")
        assert answer_in(callback) == {"kind": "oauth1", "denied": caller.token["oauth_token"]}


async def test_page_is_answered_once_by_the_account_that_saw_it(info, admin, profile: ProfileInfo):
    form_url = f"{info.provider_url}/oauth/authorize"
    async with client(info) as caller:
        url = await authorize_url(caller, info)
    cookies, strangers = await admin.sign_in(profile.account), await admin.sign_in("stranger")
    async with (
        httpx.AsyncClient(cookies=cookies, trust_env=False) as browser,
        httpx.AsyncClient(cookies=strangers, trust_env=False) as stranger,
    ):
        fields = fields_of(await browser.get(url))
        assert (await stranger.post(form_url, data=fields)).status_code == 403
        assert (await browser.post(form_url, data=fields | {"authenticity_token": "x"})).status_code == 403
        assert (await browser.post(form_url, data=fields)).status_code == 303
        assert (await browser.post(form_url, data=fields)).status_code == 403
        assert "no request token" in (await browser.get(url)).text
