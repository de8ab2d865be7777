"""A provider that only a TOML file describes, through a real browser: its pages are unlike X's wherever they may be."""

import json
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from sandbox.process import SandboxProcess
from sandbox.state import SandboxSettings
from tests.e2e.house import House, open_house
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
async def plain_house(sandbox: SandboxProcess, folder: Path, accounts: list[str]) -> AsyncIterator[House]:
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
    async with open_house(sandbox, folder, **changes) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def house(plain_house: House) -> AsyncIterator[House]:
    yield plain_house
    await plain_house.admin.change_settings(**SandboxSettings().model_dump())


@pytest.fixture
def account(accounts: list[str]) -> str:
    return accounts.pop()


async def login_of(house: House, access_token: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as http:
        headers = {"Authorization": f"Bearer {access_token}"}
        answer = await http.get(f"{house.sandbox.info.plainbook_url}/me", headers=headers)
    return str(answer.raise_for_status().json()["user"]["login"])


async def assert_completed(house: House, account: str) -> None:
    session = await house.authorize(account, APP)
    assert (session["status"], session["error"]) == ("completed", None)
    assert (session["scopes"], session["missing_scopes"]) == (["profile", "posts", "offline"], [])
    tokens = await house.tokens(account, APP)
    assert await login_of(house, tokens.access_token.get_secret_value()) == account
    assert tokens.refresh_token is not None
    await house.nothing_left(account)


async def test_the_account_is_chosen_behind_a_banner_and_the_form_is_sent(house: House, account: str):
    await assert_completed(house, account)


@pytest.mark.parametrize(("banner", "chooser"), [(False, False), (False, True), (True, False)])
async def test_with_less_in_the_way(house: House, account: str, banner: bool, chooser: bool):
    await house.admin.change_settings(plainbook_banner=banner, plainbook_chooser=chooser)
    await assert_completed(house, account)


async def test_x_and_the_other_provider_side_by_side(house: House, unused_accounts: Iterator[str]):
    account = next(unused_accounts)
    first = await house.ask(account, APP)
    second = await house.ask(account, "AIOTT1")
    assert [(await house.ended(each))["status"] for each in (first, second)] == ["completed", "completed"]
    tokens = await house.tokens(account, APP)
    assert await login_of(house, tokens.access_token.get_secret_value()) == account
    assert await house.whose((await house.tokens(account)).access_token.get_secret_value()) == account


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("signed_out", "needs_attention", "LOGIN_REQUIRED"),
        ("not_listed", "failed", "ACCOUNT_MISMATCH"),
        ("error_page", "failed", "CONSENT_PAGE_ERROR"),
        ("declined", "failed", "CONSENT_DECLINED"),
        ("callback_error", "failed", "CONSENT_UNAVAILABLE"),
        ("wrong_issuer", "failed", "ISSUER_MISMATCH"),
    ],
)
async def test_what_the_page_may_say_instead(house: House, account: str, fault: str, status: str, code: str):
    await house.admin.set_fault("plainbook.authorize", fault, account=account)
    session = await house.authorize(account, APP)
    assert (session["status"], session["error_code"]) == (status, code)
    assert await house.credential(account, APP) is None
    await house.nothing_left(account)


async def test_an_error_of_its_api_is_called_by_its_name(house: House, account: str):
    await house.admin.set_fault("plainbook.me", "status", account=account, status=503)
    session = await house.authorize(account, APP)
    assert session["error_code"] == "TWITTER_API_ERROR", session
    assert session["error"].startswith("Plainbook API error (503)")
    assert [grant.usable for grant in await house.admin.grants(account)] == [False]
