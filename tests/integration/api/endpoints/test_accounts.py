"""`/accounts` over HTTP: who may ask for what, what it looks like, and that no list or view has a token in it."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from app.models import CredentialStatus, utc_now
from app.services.keys.service import Scope
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from tests.fixtures.api import Api, OpenApi, answered, refused
from tests.fixtures.factories import AddRow, new_session, new_tokens
from tests.fixtures.routes import granting
from tests.fixtures.tokens import TokenChain

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.databases("sqlite", long="postgresql")]

APP = {"api_app": "AIOTT1"}
ROUTES = [
    ("GET", "/accounts", Scope.SESSIONS_READ),
    ("GET", "/accounts/{}", Scope.SESSIONS_READ),
    ("GET", "/accounts/{}/token", Scope.TOKENS_READ),
    ("POST", "/accounts/{}/refresh", Scope.TOKENS_MANAGE),
    ("POST", "/accounts/{}/verify", Scope.TOKENS_MANAGE),
    ("DELETE", "/accounts/{}/token", Scope.TOKENS_MANAGE),
]
ABOUT_A_TOKEN = [(method, path) for method, path, scope in ROUTES if scope is not Scope.SESSIONS_READ]


@pytest_asyncio.fixture
async def quiet_api(open_api: OpenApi, sandbox_settings) -> AsyncIterator[Api]:
    """The application at the sandbox; no worker takes anything."""
    ours = ("x_web_url", "x_api_url", "oauth_apps")
    settings = sandbox_settings().model_dump()
    async with open_api(workers=False, **{name: settings[name] for name in ours}) as api:
        yield api


@pytest_asyncio.fixture
async def account(quiet_api: Api, admin: SandboxAdmin, profile: ProfileInfo) -> TokenChain:
    chain = TokenChain(quiet_api.context, admin, profile.account)
    await chain.authorize()
    return chain


async def call(api: Api, method: str, path: str, account: str, **more):
    params = APP if path.count("/") > 2 else {}
    return await api.client.request(
        method, path.format(account), params=params | more.pop("params", {}), **more
    )


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
async def test_every_route_wants_its_scope(
    quiet_api: Api, account: TokenChain, method: str, path: str, scope: Scope
):
    others = await quiet_api.key(*(set(Scope) - granting(scope)), name="others")
    mine = await quiet_api.key(scope, name="mine")
    answer = await call(quiet_api, method, path, account.account, headers=others)
    assert scope in refused(answer, 403, "FORBIDDEN")
    refused(
        await call(quiet_api, method, path, account.account, headers={"X-API-Key": "x"}), 401, "UNAUTHORIZED"
    )
    answer = await call(quiet_api, method, path, account.account, headers=mine)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")


async def test_a_token_is_handed_out(quiet_api: Api, account: TokenChain):
    answer = await call(quiet_api, "GET", "/accounts/{}/token", f"@{account.account.upper()}")
    data = answered(answer)
    tokens, row = await account.tokens(), await account.active_row()
    assert data == {
        "account_id": account.account,
        "api_app": "AIOTT1",
        "provider_user_id": "1",
        "token_type": "bearer",
        "access_token": tokens.access_token.get_secret_value(),
        "oauth_token_secret": None,
        "scopes": row.scopes,
        "expires_at": data["expires_at"],
    }
    assert data["expires_at"] > utc_now().isoformat()
    assert tokens.refresh_token.get_secret_value() not in answer.text


async def test_a_token_of_oauth1_comes_with_its_secret_and_is_not_refreshed(
    quiet_api: Api, account: TokenChain
):
    account.app = "AIOTT4"
    await account.authorize()
    place = {"params": {"api_app": account.app}}
    data = answered(await call(quiet_api, "GET", "/accounts/{}/token", account.account, **place))
    tokens = await account.tokens()
    assert (data["token_type"], data["scopes"], data["expires_at"]) == ("oauth1", [], None)
    assert data["oauth_token_secret"] == tokens.oauth_token_secret.get_secret_value()
    verified = answered(await call(quiet_api, "POST", "/accounts/{}/verify", account.account, **place))
    assert verified["is_same_account"]
    refresh = await call(quiet_api, "POST", "/accounts/{}/refresh", account.account, **place)
    assert "does not expire" in refused(refresh, 409, "TOKEN_NOT_REFRESHABLE")
    await account.admin.revoke_grants(account.account)
    dead = await call(quiet_api, "POST", "/accounts/{}/verify", account.account, **place)
    assert (dead.status_code, dead.json()["error_code"]) == (409, "REAUTHORIZATION_REQUIRED")
    for answer in (refresh, dead):
        assert not [secret for secret in (await account.admin.issued()).all() if secret in answer.text]


async def test_a_longer_life_may_be_asked_for(quiet_api: Api, account: TokenChain):
    await account.change(token_expires_at=utc_now() + timedelta(seconds=300))
    path = "/accounts/{}/token"
    answered(await call(quiet_api, "GET", path, account.account, params={"min_ttl": 100}))
    assert await account.refreshes() == 0
    answered(await call(quiet_api, "GET", path, account.account, params={"min_ttl": 600}))
    assert await account.refreshes() == 1
    for wrong in (-1, 3601, "soon"):
        answer = await call(quiet_api, "GET", path, account.account, params={"min_ttl": wrong})
        assert "min_ttl" in refused(answer, 422, "INVALID_REQUEST")


async def test_lists_and_views_never_show_a_token(quiet_api: Api, account: TokenChain):
    await account.get_access_token(force=True)
    secrets = (await account.admin.issued()).all()
    listed = await quiet_api.client.get("/accounts", params={"text": account.account})
    viewed = await quiet_api.client.get(f"/accounts/{account.account}")
    refreshed = await call(quiet_api, "POST", "/accounts/{}/refresh", account.account)
    verified = await call(quiet_api, "POST", "/accounts/{}/verify", account.account)
    secrets += (await account.admin.issued()).all()
    for answer in (listed, viewed, refreshed, verified):
        assert answer.status_code == 200
        assert not [secret for secret in secrets if secret in answer.text]
        assert "dev:" not in answer.text
    (row,) = answered(viewed)
    assert listed.json()["data"] == [row]
    assert (row["status"], row["failures"], row["last_error_code"]) == ("active", 0, None)
    assert row["expires_at"] > row["next_refresh_at"] > row["refreshed_at"]
    assert await account.refreshes() == 2


@pytest.mark.databases("sqlite", "postgresql")
async def test_accounts_are_listed_by_filter_order_and_page(quiet_api: Api):
    for name, app in (("bob", "AIOTT1"), ("alice", "AIOTT1"), ("alice", "AIOTT2")):
        await TokenChain(quiet_api.context, None, name, app).store(new_tokens())
    await TokenChain(quiet_api.context, None, "bob").change(status=CredentialStatus.REVOKING)

    async def names(**params: object) -> list[str]:
        answer = await quiet_api.client.get("/accounts", params=params)
        assert answer.status_code == 200, answer.text
        return [row["account_id"] for row in answer.json()["data"]]

    assert await names() == ["alice", "alice", "bob"]
    assert await names(order="desc", sort="account_id") == ["bob", "alice", "alice"]
    assert await names(api_app="AIOTT2") == ["alice"]
    assert await names(status="revoking") == ["bob"]
    assert await names(text="LIC") == ["alice", "alice"]
    assert await names(page=2, page_size=2) == ["bob"]
    page = (await quiet_api.client.get("/accounts", params={"page_size": 2})).json()
    assert (page["total"], page["page"], page["page_size"], page["total_pages"]) == (3, 1, 2, 2)
    answer = await quiet_api.client.get("/accounts", params={"sort": "access_token"})
    assert "sort" in refused(answer, 422, "INVALID_REQUEST")


async def test_verify_reports_whose_token_it_is(quiet_api: Api, account: TokenChain):
    data = answered(await call(quiet_api, "POST", "/accounts/{}/verify", account.account))
    assert (data["username"], data["is_same_account"]) == (account.account, True)
    await account.admin.set_fault("provider.me", "wrong_account", times=1, account=account.account)
    data = answered(await call(quiet_api, "POST", "/accounts/{}/verify", account.account))
    assert data["is_same_account"] is False
    await account.admin.set_fault("provider.me", "status", status=404, times=1, account=account.account)
    refused(await call(quiet_api, "POST", "/accounts/{}/verify", account.account), 502, "TWITTER_API_ERROR")


@pytest.mark.parametrize(("method", "path"), [*ABOUT_A_TOKEN, ("GET", "/accounts/{}")])
async def test_an_unknown_account_has_no_token(quiet_api: Api, method: str, path: str):
    refused(await call(quiet_api, method, path, "nobody"), 404, "TOKEN_NOT_FOUND")


@pytest.mark.parametrize(("method", "path"), ABOUT_A_TOKEN)
async def test_the_app_must_be_named(quiet_api: Api, method: str, path: str):
    answer = await quiet_api.client.request(method, path.format("alice"))
    assert "api_app" in refused(answer, 422, "INVALID_REQUEST")


@pytest.mark.parametrize(("method", "path"), ABOUT_A_TOKEN[:3])
async def test_a_broken_chain_names_the_session_of_its_repair(
    quiet_api: Api, account: TokenChain, add_profile: AddRow, add: AddRow, method: str, path: str
):
    await account.change(status=CredentialStatus.REAUTHORIZATION_REQUIRED)
    answer = await call(quiet_api, method, path, account.account)
    assert (answer.status_code, answer.json()["error_code"]) == (409, "REAUTHORIZATION_REQUIRED")
    assert answer.json()["data"] == {"session_id": None}
    repair = new_session(await add_profile(account_id=account.account))
    await add(repair)
    answer = await call(quiet_api, method, path, account.account)
    assert answer.json()["data"] == {"session_id": repair.session_id}
    assert repair.session_id in answer.json()["error"]


@pytest.mark.parametrize(("method", "path"), ABOUT_A_TOKEN[:3])
async def test_token_that_is_being_revoked_is_not_handed_out(
    quiet_api: Api, account: TokenChain, method: str, path: str
):
    await account.admin.set_fault("provider.revoke", "drop", account=account.account)
    data = answered(await call(quiet_api, "DELETE", "/accounts/{}/token", account.account))
    assert data == {"status": "revoking"}
    refused(await call(quiet_api, method, path, account.account), 409, "TOKEN_REVOKED")
    await account.admin.clear_faults(account.account)
    data = answered(await call(quiet_api, "DELETE", "/accounts/{}/token", account.account))
    assert (data, await account.usable_grants()) == ({"status": "revoked"}, 0)


async def test_expired_token_that_cannot_be_refreshed_now_is_refused(quiet_api: Api, account: TokenChain):
    await account.admin.set_fault("provider.token", "rate_limited", seconds=100, account=account.account)
    await account.make_due(lives_for=-1)
    answer = await call(quiet_api, "GET", "/accounts/{}/token", account.account)
    refused(answer, 409, "TOKEN_EXPIRED")
    assert 50 < int(answer.headers["retry-after"]) <= 100
    answer = await call(quiet_api, "POST", "/accounts/{}/refresh", account.account)
    refused(answer, 429, "APP_LIMITED")


async def test_a_refresh_that_fails_says_why(quiet_api: Api, account: TokenChain):
    await account.admin.set_fault("provider.token", "status", status=402, times=1, account=account.account)
    answer = await call(quiet_api, "POST", "/accounts/{}/refresh", account.account)
    refused(answer, 502, "CREDITS_DEPLETED")
    answered(await call(quiet_api, "GET", "/accounts/{}/token", account.account))


async def act_on_all(api: Api, action: str) -> None:
    body = {"action": action, "filter": APP, "dry_run": False, "expected_count": 1}
    answered(await api.client.post("/accounts/actions", json=body), 202)


async def test_refreshes_of_an_action_are_done_by_the_worker(quiet_api: Api, account: TokenChain):
    await account.change(refreshed_at=None)
    await act_on_all(quiet_api, "refresh")
    assert await account.refreshes() == 0
    worker = quiet_api.context.workers.get("refresh")
    assert await worker.run_once() == 1
    await worker.finish_started()
    assert await account.refreshes() == 1


async def test_revocations_of_an_action_are_done_by_the_worker(quiet_api: Api, account: TokenChain):
    await act_on_all(quiet_api, "revoke")
    assert await account.usable_grants() == 1
    assert await quiet_api.context.tokens.credentials.revoke_due(20) == 1
    assert (await account.usable_grants(), await account.row()) == (0, None)


async def test_tokens_that_arrive_after_the_revocation_of_an_action_are_revoked_too(
    quiet_api: Api, account: TokenChain
):
    leases, refresher = quiet_api.context.tokens.leases, quiet_api.context.tokens.refresher
    claim = await leases.take(account.account, account.app, version=(await account.active_row()).version)
    await act_on_all(quiet_api, "revoke")
    await refresher.finish(claim)
    await quiet_api.context.tokens.credentials.revoke_due(20)
    assert (await account.usable_grants(), await account.row()) == (0, None)
