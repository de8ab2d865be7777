"""A provider that only a TOML file describes, through a real browser: its pages are unlike X's wherever they may be."""

import json
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from sandbox.admin_client import NO_TLS
from sandbox.process import SandboxProcess
from sandbox.state import SandboxSettings
from tests.e2e.harness import ServiceHarness, open_harness
from tests.fixtures.plainbook import providers_file

pytestmark = pytest.mark.asyncio(loop_scope="session")

APP = "PLAIN1"
_READY = 12
"""Accounts with a profile from the start, so that the first sync brings them."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def accounts() -> list[str]:
    """Handles that X would not have."""
    return [f"{kind}.{secrets.token_hex(4)}" for kind in ("anna-b@plain.example", "c.d") * (_READY // 2)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def plain_house(
    sandbox: SandboxProcess, folder: Path, accounts: list[str]
) -> AsyncIterator[ServiceHarness]:
    """A service with apps of X and of Plainbook."""
    for account in accounts:
        await sandbox.admin.add_profile(account)
    info = sandbox.info
    apps = {name: app.model_dump() for name, app in info.apps.items()}
    apps[APP] = info.plainbook_app.model_dump() | {"provider": "plainbook"}
    changes = {
        "providers_file": providers_file(info, folder),
        "oauth_apps": json.dumps(apps),
        "profile_rule_pattern": r"^(?P<account>\S+)$",
    }
    async with open_harness(sandbox, folder, **changes) as harness:
        yield harness


@pytest_asyncio.fixture(loop_scope="session")
async def harness(plain_house: ServiceHarness) -> AsyncIterator[ServiceHarness]:
    yield plain_house
    await plain_house.admin.change_settings(**SandboxSettings().model_dump())


@pytest.fixture
def account(accounts: list[str]) -> str:
    return accounts.pop()


async def login_of(harness: ServiceHarness, access_token: str) -> str:
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as http:
        headers = {"Authorization": f"Bearer {access_token}"}
        answer = await http.get(f"{harness.sandbox.info.plainbook_url}/me", headers=headers)
    return str(answer.raise_for_status().json()["user"]["login"])


async def assert_completed(harness: ServiceHarness, account: str) -> None:
    session = await harness.authorize(account, APP)
    assert (session["status"], session["error"]) == ("completed", None)
    assert (session["scopes"], session["missing_scopes"]) == (["profile", "posts", "offline"], [])
    tokens = await harness.tokens(account, APP)
    assert await login_of(harness, tokens.access_token.get_secret_value()) == account
    assert tokens.refresh_token is not None
    await harness.nothing_left(account)


@pytest.mark.long
@pytest.mark.parametrize(
    ("banner", "chooser"),
    [(False, False), (False, True), (True, False)],
)
async def test_authorization_completes_without_banner_or_chooser(
    harness: ServiceHarness, account: str, banner: bool, chooser: bool
):
    await harness.admin.change_settings(plainbook_banner=banner, plainbook_chooser=chooser)
    await assert_completed(harness, account)


async def test_service_chooses_the_account_behind_a_banner_and_sends_the_form_beside_x(
    harness: ServiceHarness, unused_accounts: Iterator[str]
):
    """Sessions of one account at both providers, in one profile."""
    account = next(unused_accounts)
    at_x = await harness.ask(account, "AIOTT1")
    await assert_completed(harness, account)
    assert (await harness.ended(at_x))["status"] == "completed"
    assert await harness.owner((await harness.tokens(account)).access_token.get_secret_value()) == account


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("signed_out", "needs_attention", "LOGIN_REQUIRED"),
        pytest.param("not_listed", "failed", "ACCOUNT_MISMATCH", marks=pytest.mark.long),
        pytest.param("error_page", "failed", "CONSENT_PAGE_ERROR", marks=pytest.mark.long),
        pytest.param("declined", "failed", "CONSENT_DECLINED", marks=pytest.mark.long),
        pytest.param("callback_error", "failed", "CONSENT_UNAVAILABLE", marks=pytest.mark.long),
        pytest.param("wrong_issuer", "failed", "ISSUER_MISMATCH", marks=pytest.mark.long),
    ],
)
async def test_fault_of_the_providers_page_ends_the_session_with_its_code(
    harness: ServiceHarness, account: str, fault: str, status: str, code: str
):
    await harness.admin.set_fault("plainbook.authorize", fault, account=account)
    session = await harness.authorize(account, APP)
    assert (session["status"], session["error_code"]) == (status, code)
    assert await harness.credential(account, APP) is None
    await harness.nothing_left(account)


async def test_an_error_of_its_api_is_called_by_its_name(harness: ServiceHarness, account: str):
    await harness.admin.set_fault("plainbook.me", "status", account=account, status=503)
    session = await harness.authorize(account, APP)
    assert session["error_code"] == "TWITTER_API_ERROR", session
    assert session["error"].startswith("Plainbook API error (503)")
    assert [grant.usable for grant in await harness.admin.grants(account)] == [False]
