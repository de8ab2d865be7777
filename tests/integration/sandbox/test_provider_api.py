import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client

from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo

from .conftest import VERIFIER

pytestmark = pytest.mark.asyncio(loop_scope="session")

INVALID_TOKEN = "Value passed for the token was invalid."
INVALID_CODE = "Value passed for the authorization code was invalid."


class Client(AsyncOAuth2Client):
    """authlib's client of one app, consenting by HTTP: an implementation of OAuth that is not ours."""

    def __init__(
        self, info: SandboxInfo, admin: SandboxAdmin, app_name: str, scope: str | None = None
    ) -> None:
        app = info.apps[app_name]
        super().__init__(
            app.client_id,
            app.client_secret,
            token_endpoint_auth_method="client_secret_basic" if app.client_secret else "none",
            redirect_uri=app.redirect_uri,
            scope=scope or " ".join(app.scopes),
            code_challenge_method="S256",
            revocation_endpoint_auth_method="client_secret_basic" if app.client_secret else "none",
            trust_env=False,
        )
        self._admin = admin
        self._base = info.provider_url
        self.token_url = f"{self._base}/2/oauth2/token"

    async def redirect_for(self, account: str) -> str:
        url, _ = self.create_authorization_url(f"{self._base}/i/oauth2/authorize", code_verifier=VERIFIER)
        return await self._admin.give_consent(url, account)

    async def authorize(self, account: str) -> dict:
        redirect = await self.redirect_for(account)
        return await self.fetch_token(self.token_url, authorization_response=redirect, code_verifier=VERIFIER)

    async def who_am_i(self, access_token: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {access_token}"}
        return await self.get(f"{self._base}/2/users/me", headers=headers, auth=None)


@pytest.mark.parametrize("app_name", ["AIOTT1", "AIOTT2"])
async def test_reused_refresh_token_kills_the_chain(info, admin, profile: ProfileInfo, app_name):
    async with Client(info, admin, app_name) as client:
        first = await client.authorize(profile.account)
        assert (first["token_type"], first["expires_in"]) == ("bearer", 7200)
        assert first["scope"] == "tweet.read users.read offline.access"
        me = await client.who_am_i(first["access_token"])
        assert me.json()["data"]["username"] == profile.account

        second = await client.refresh_token(client.token_url, first["refresh_token"])
        assert second["refresh_token"] != first["refresh_token"]
        assert (await client.who_am_i(first["access_token"])).status_code == 401
        assert (await client.who_am_i(second["access_token"])).status_code == 200

        with pytest.raises(OAuthError, match=INVALID_TOKEN):
            await client.refresh_token(client.token_url, first["refresh_token"])
        assert (await client.who_am_i(second["access_token"])).status_code == 401
        with pytest.raises(OAuthError, match=INVALID_TOKEN):
            await client.refresh_token(client.token_url, second["refresh_token"])
    stats = await admin.stats()
    assert stats.refreshes_by_account[profile.account] == 1
    assert stats.refresh_tokens_reused_by_account[profile.account] == 1, "the second one was never spent"


async def test_a_second_grant_ends_the_first(info, admin, profile: ProfileInfo):
    async with Client(info, admin, "AIOTT1") as client, Client(info, admin, "AIOTT2") as other_app:
        first = await client.authorize(profile.account)
        elsewhere = await other_app.authorize(profile.account)
        second = await client.authorize(profile.account)
        assert (await client.who_am_i(first["access_token"])).status_code == 401
        assert (await client.who_am_i(second["access_token"])).status_code == 200
        assert (await client.who_am_i(elsewhere["access_token"])).status_code == 200


async def test_a_code_works_once(info, admin, profile: ProfileInfo):
    async with Client(info, admin, "AIOTT1") as client:
        redirect = await client.redirect_for(profile.account)
        await client.fetch_token(client.token_url, authorization_response=redirect, code_verifier=VERIFIER)
        with pytest.raises(OAuthError, match=INVALID_CODE):
            await client.fetch_token(
                client.token_url, authorization_response=redirect, code_verifier=VERIFIER
            )


@pytest.mark.parametrize(
    "wrong",
    [{"code_verifier": "w" * 64}, {"redirect_uri": "http://127.0.0.1/elsewhere"}, {"code": "unknown"}],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_a_code_needs_its_verifier_and_redirect_uri(info, admin, profile: ProfileInfo, wrong):
    async with Client(info, admin, "AIOTT1") as client:
        redirect = await client.redirect_for(profile.account)
        code = parse_qs(urlsplit(redirect).query)["code"][0]
        arguments = {"code": code, "code_verifier": VERIFIER, "redirect_uri": client.redirect_uri} | wrong
        with pytest.raises(OAuthError, match=INVALID_CODE):
            await client.fetch_token(client.token_url, **arguments)


async def test_a_code_expires(info, admin: SandboxAdmin, profile: ProfileInfo):
    await admin.change_settings(code_seconds=0)
    async with Client(info, admin, "AIOTT1") as client:
        with pytest.raises(OAuthError, match=INVALID_CODE):
            await client.authorize(profile.account)


async def test_access_token_expires_after_the_announced_lifetime(
    info, admin: SandboxAdmin, profile: ProfileInfo
):
    await admin.change_settings(access_token_seconds=0)
    async with Client(info, admin, "AIOTT1") as client:
        token = await client.authorize(profile.account)
        assert token["expires_in"] == 0
        assert (await client.who_am_i(token["access_token"])).status_code == 401


async def test_grant_without_offline_access_has_no_refresh_token(info, admin, profile: ProfileInfo):
    async with Client(info, admin, "AIOTT1", scope="tweet.read users.read") as client:
        token = await client.authorize(profile.account)
        assert "refresh_token" not in token
        assert (await client.who_am_i(token["access_token"])).status_code == 200


async def test_who_am_i_needs_both_scopes(info, admin, profile: ProfileInfo):
    async with Client(info, admin, "AIOTT1", scope="users.read") as client:
        token = await client.authorize(profile.account)
        assert (await client.who_am_i(token["access_token"])).status_code == 401


async def test_revoking_the_refresh_token_ends_the_grant(info, admin, profile: ProfileInfo):
    async with Client(info, admin, "AIOTT1") as client:
        token = await client.authorize(profile.account)
        answer = await client.revoke_token(f"{info.provider_url}/2/oauth2/revoke", token["refresh_token"])
        assert answer.json() == {"revoked": True}
        assert (await client.who_am_i(token["access_token"])).status_code == 401
        with pytest.raises(OAuthError, match=INVALID_TOKEN):
            await client.refresh_token(client.token_url, token["refresh_token"])


async def test_the_owner_can_end_all_grants(info, admin: SandboxAdmin, profile: ProfileInfo):
    async with Client(info, admin, "AIOTT1") as client:
        token = await client.authorize(profile.account)
        assert await admin.revoke_grants(profile.account) == 1
        with pytest.raises(OAuthError, match=INVALID_TOKEN):
            await client.refresh_token(client.token_url, token["refresh_token"])


@pytest.mark.parametrize("path", ["token", "revoke"])
@pytest.mark.parametrize("auth", [None, ("AIOTT1-client", "wrong"), ("unknown", "")])
async def test_a_confidential_client_must_send_its_basic_header(http, info: SandboxInfo, path, auth):
    form = {"grant_type": "refresh_token", "refresh_token": "x", "token": "x", "client_id": "AIOTT1-client"}
    answer = await http.post(f"{info.provider_url}/2/oauth2/{path}", data=form, auth=auth)
    assert answer.status_code == 401
    assert answer.json() == {
        "error": "unauthorized_client",
        "error_description": "Missing valid authorization header",
    }


async def test_grants_in_bulk_are_as_good_as_consented_ones(info, admin, profile: ProfileInfo):
    (grant,) = await admin.give_grants("AIOTT1", [profile.account])
    async with Client(info, admin, "AIOTT1") as client:
        me = await client.who_am_i(grant.access_token)
        assert me.json()["data"]["username"] == profile.account
        await client.refresh_token(client.token_url, grant.refresh_token)


async def test_an_app_over_its_limit_is_refused_until_the_reset(info, admin, profile: ProfileInfo):
    await admin.change_settings(token_rate_limits={"AIOTT1": 1}, token_rate_window=600)
    app = info.apps["AIOTT1"]
    form = {"grant_type": "refresh_token", "refresh_token": "unknown"}
    async with httpx.AsyncClient(trust_env=False, auth=(app.client_id, app.client_secret)) as http:
        url = f"{info.provider_url}/2/oauth2/token"
        await http.post(url, data=form)
        refused = await http.post(url, data=form)
    assert (refused.status_code, refused.headers["x-rate-limit-remaining"]) == (429, "0")
    assert time.time() + 590 < int(refused.headers["x-rate-limit-reset"]) < time.time() + 602
