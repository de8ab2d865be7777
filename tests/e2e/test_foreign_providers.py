"""oidc-provider (npm) and django-oauth-toolkit, by configuration alone: their own servers, sessions and rotation."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import update

from app.context import open_context
from app.database import Database
from app.models import Credential, utc_now
from app.utils.exceptions import InvalidClientException
from sandbox.admin_client import NO_TLS
from sandbox.process import SandboxProcess
from tests.e2e.foreign.running import HERE, ForeignProvider, missing, running
from tests.e2e.harness import ServiceHarness, open_harness
from tests.fixtures.waiting import eventually

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("foreign_providers"),
    pytest.mark.timeout(400),
]

NAMES = ("oidc", pytest.param("django", marks=pytest.mark.long))


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=NAMES)
async def provider(
    request: pytest.FixtureRequest, sandbox: SandboxProcess, folder: Path
) -> AsyncIterator[ForeignProvider]:
    if (reason := missing(request.param)) is not None:
        pytest.skip(reason)
    redirect_uri = sandbox.info.apps["AIOTT1"].redirect_uri
    async with running(request.param, redirect_uri, folder) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def foreign_house(
    sandbox: SandboxProcess, folder: Path, provider: ForeignProvider
) -> AsyncIterator[ServiceHarness]:
    text = (HERE / "providers.toml").read_text()
    for name in ("oidc", "django"):
        url = provider.url if name == provider.name else "http://127.0.0.1:9"
        text = text.replace(f"{name.upper()}_URL", url)
    path = folder / "foreign_providers.toml"
    path.write_text(text)
    apps: dict[str, Any] = {
        provider.api_app: provider.app,
        f"{provider.api_app}_WRONG": provider.app | {"client_secret": "not-the-secret"},
    }
    changes = {
        "providers_file": path,
        "oauth_apps": json.dumps(apps),
        "repair_interval": 0.1,
        "refresh_min_interval": 0.1,
        "max_attempts": 5,
        "retry_wait": 0.1,
    }
    async with open_harness(sandbox, folder, **changes) as harness:
        yield harness


@pytest.fixture(scope="module")
def signed_in() -> dict[str, str]:
    """Accounts by the provider's name."""
    return {}


@pytest_asyncio.fixture(loop_scope="session")
async def account(
    foreign_house: ServiceHarness,
    provider: ForeignProvider,
    unused_accounts: Iterator[str],
    signed_in: dict[str, str],
) -> AsyncIterator[str]:
    """Signed in at the provider, in its profile; one for all tests of the provider."""
    if provider.name not in signed_in:
        account = next(unused_accounts)
        await provider.sign_in(foreign_house, account)
        signed_in[provider.name] = account
    account = signed_in[provider.name]
    yield account
    await provider.call("decide", account=account, decision="")
    await provider.call("revoke", account=account)  # else it remembers what the owner refused


async def make_due(harness: ServiceHarness, account: str, app: str) -> None:
    database = Database(harness.environment["DATABASE_URL"], pool_size=1)
    try:
        async with database.transaction() as db:
            due = update(Credential).where(Credential.account_id == account, Credential.api_app == app)
            await db.execute(due.values(token_expires_at=utc_now() - timedelta(seconds=1)))
    finally:
        await database.close()


async def get_access_token(harness: ServiceHarness, http: httpx.AsyncClient, account: str, app: str) -> str:
    answer = await http.get(f"/accounts/{account}/token", params={"api_app": app})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["data"]["access_token"])


async def who(harness: ServiceHarness, provider: ForeignProvider, account: str) -> int:
    """Return the status of who-am-I for the stored access token."""
    token = (await harness.tokens(account, provider.api_app)).access_token.get_secret_value()
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as http:
        answer = await http.get(f"{provider.url}/me", headers={"Authorization": f"Bearer {token}"})
    return answer.status_code


async def assert_completed(harness: ServiceHarness, provider: ForeignProvider, account: str) -> None:
    session = await harness.authorize(account, provider.api_app)
    assert (session["status"], session["error"], session["missing_scopes"]) == ("completed", None, [])
    assert (await harness.tokens(account, provider.api_app)).refresh_token is not None
    assert await who(harness, provider, account) == 200
    await harness.nothing_left(account)


@pytest.mark.parametrize("callers", [100, pytest.param(1000, marks=pytest.mark.long)])
async def test_account_lives_through_refresh_owner_revocation_and_revoke(
    foreign_house: ServiceHarness, provider: ForeignProvider, account: str, callers: int
):
    harness, app = foreign_house, provider.api_app
    await assert_completed(harness, provider, account)
    first = await harness.tokens(account, app)
    before = await provider.counts()
    await make_due(harness, account, app)
    async with httpx.AsyncClient(
        base_url=harness.service.url,
        headers={"X-API-Key": harness.key},
        limits=httpx.Limits(max_connections=100),
        timeout=150,  # of a thousand at once on a busy machine the last waits long
        trust_env=False,
        verify=NO_TLS,
    ) as http:
        tokens = await asyncio.gather(
            *(get_access_token(harness, http, account, app) for _ in range(callers))
        )
    after = await provider.counts()
    assert len(set(tokens)) == 1
    assert tokens[0] != first.access_token.get_secret_value()
    assert (after["refreshes"] - before["refreshes"], after["reuses"]) == (1, 0)
    rotated = await harness.tokens(account, app)
    assert rotated.refresh_token is not None
    assert rotated.refresh_token != first.refresh_token

    await provider.call("revoke", account=account)
    assert await who(harness, provider, account) in (401, 403)
    await make_due(harness, account, app)
    answer = await harness.call("GET", f"/accounts/{account}/token", params={"api_app": app})
    assert answer.json()["error_code"] == "REAUTHORIZATION_REQUIRED"

    async def repaired() -> bool:
        answer = await harness.call("GET", f"/accounts/{account}/token", params={"api_app": app})
        return answer.status_code == 200

    await eventually(repaired, 60)
    assert await who(harness, provider, account) == 200
    await harness.nothing_left(account)

    token = (await harness.tokens(account, app)).access_token.get_secret_value()
    answer = await harness.call("DELETE", f"/accounts/{account}/token", params={"api_app": app})
    assert answer.is_success, answer.text
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as http:
        gone = await http.get(f"{provider.url}/me", headers={"Authorization": f"Bearer {token}"})
    assert gone.status_code in (401, 403)
    assert (await provider.counts())["reuses"] == 0


async def test_wrong_client_secret_is_the_apps_fault(
    foreign_house: ServiceHarness, provider: ForeignProvider
):
    """Each provider has its own answer; a client is asked for its secret before its code is looked at."""
    async with open_context(foreign_house.settings) as context:
        oauth, app = context.tokens.oauth, f"{provider.api_app}_WRONG"
        authorization = await oauth.generate_auth_url(app)
        with pytest.raises(InvalidClientException):
            await oauth.exchange_code_for_tokens(app, code=SecretStr("a-code"), authorization=authorization)


@pytest.mark.long
@pytest.mark.parametrize(
    ("decision", "status", "code"), [("denied", "failed", "CONSENT_DECLINED"), ("reduced", "completed", None)]
)
async def test_owner_refuses_or_gives_less(
    foreign_house: ServiceHarness,
    provider: ForeignProvider,
    account: str,
    decision: str,
    status: str,
    code: str | None,
):
    """The owner decides without a new sign-in."""
    await provider.call("decide", account=account, decision=decision)
    session = await foreign_house.authorize(account, provider.api_app)
    assert (session["status"], session["error_code"]) == (status, code)
    lost = {"oidc": ["email"], "django": ["write"]}[provider.name] if decision == "reduced" else []
    assert session["missing_scopes"] == lost
