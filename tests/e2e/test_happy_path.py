"""An authorization from the request to the tokens, by each kind of app and redirect URI."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import text

from sandbox.process import SandboxProcess
from tests.e2e.harness import APP, ServiceHarness, open_harness

pytestmark = pytest.mark.asyncio(loop_scope="session")

STAGES = [
    "profile_starting",
    "browser_attached",
    "consent_shown",
    "consent_given",
    "code_received",
    "tokens_stored",
]
SCOPES = ["tweet.read", "users.read", "offline.access"]


async def assert_stored(harness: ServiceHarness, account: str, app: str = APP) -> None:
    """Encrypted in the row, and working once opened."""
    row, tokens = await harness.credential(account, app), await harness.tokens(account, app)
    assert row is not None
    assert row.scopes == list(tokens.scopes)
    for sealed, secret in (
        (row.access_token, tokens.access_token),
        (row.refresh_token, tokens.refresh_token),
    ):
        assert sealed is not None
        assert secret is not None
        assert secret.get_secret_value() not in sealed
    assert await harness.owner(tokens.access_token.get_secret_value()) == account


@dataclass(frozen=True)
class Authorized:
    """An account's first authorization: what its POST was answered, and what came of it."""

    account: str
    answer: httpx.Response
    session: dict[str, Any]
    access_token: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def first(harness: ServiceHarness, unused_accounts: Iterator[str]) -> Authorized:
    account = next(unused_accounts)
    answer = await harness.post(account, request_id="happy-1")
    session = await harness.ended(answer.json()["data"]["session_id"])
    await assert_stored(harness, account)
    await harness.nothing_left(account)
    access_token = (await harness.tokens(account)).access_token.get_secret_value()
    return Authorized(account, answer, session, access_token)


async def test_the_answer_comes_at_once_and_the_tokens_follow(harness: ServiceHarness, first: Authorized):
    answer, body = first.answer, first.answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/authorize/{body['data']['session_id']}"
    assert answer.headers["x-request-id"] == body["request_id"] == "happy-1"
    assert (body["success"], body["error"], body["error_code"]) == (True, None, None)
    assert body["data"]["status"] in ("pending", "in_progress")
    assert body["data"]["profile_id"] == await harness.profile_id(first.account)

    session = first.session
    assert session["status"] == "completed"
    assert list(session["stage_seconds"]) == STAGES
    assert sorted(session["stage_seconds"].values()) == list(session["stage_seconds"].values())
    assert (session["scopes"], session["missing_scopes"]) == (SCOPES, [])
    assert (session["attempts"], session["error_code"], session["request_id"]) == (1, None, "happy-1")


async def test_every_stage_is_an_event_under_the_same_request_id(harness: ServiceHarness, first: Authorized):
    events = await harness.events(first.session["session_id"])
    assert [event.data["stage"] for event in events if event.event_type == "authorization.stage"] == STAGES[
        :-1
    ]
    assert [event.event_type for event in events if event.event_type != "authorization.stage"] == [
        "authorization.requested",
        "authorization.started",
        "credential.stored",
        "authorization.completed",
    ]
    assert {event.request_id for event in events} == {"happy-1"}


async def test_second_request_replaces_the_tokens_and_is_answered_at_its_end(
    harness: ServiceHarness, first: Authorized
):
    """The request has `Prefer: wait`, and the account's handle as people write it."""
    answer = await harness.post(f"@{first.account.upper()}", wait=40)
    assert answer.status_code == 202
    assert answer.json()["data"]["account_id"] == first.account
    assert answer.json()["data"]["status"] == "completed"
    row = await harness.credential(first.account)
    assert row is not None
    assert row.version == 2
    assert await harness.owner(first.access_token) is None
    await assert_stored(harness, first.account)


async def test_public_client_with_a_callback_page_gets_its_tokens(harness: ServiceHarness, account: str):
    assert (await harness.authorize(account, "AIOTT2"))["status"] == "completed"
    await assert_stored(harness, account, "AIOTT2")


async def test_a_smaller_grant_is_recorded(harness: ServiceHarness, account: str):
    await harness.admin.set_fault(
        "provider.authorize", "smaller_scope", account=account, scope="tweet.read users.read"
    )
    session = await harness.authorize(account)
    assert session["status"] == "completed"
    assert session["scopes"] == ["tweet.read", "users.read"]
    assert session["missing_scopes"] == ["offline.access"]
    row = await harness.credential(account)
    assert row is not None
    assert (row.scopes, row.refresh_token) == (["tweet.read", "users.read"], None)


@pytest.mark.parametrize("app", ["AIOTT2", pytest.param("AIOTT3", marks=pytest.mark.long)])
async def test_a_callback_page_that_never_answers_is_not_waited_for(
    harness: ServiceHarness, account: str, app: str
):
    await harness.admin.set_fault("provider.authorize", "callback_hang", account=account)
    session = await harness.authorize(account, app)
    assert session["status"] == "completed"
    times = session["stage_seconds"]
    assert times["code_received"] - times["consent_given"] < 2
    await assert_stored(harness, account, app)
    await harness.nothing_left(account)


@pytest.mark.parametrize(
    "redirect_uri",
    [
        pytest.param("https://callback.invalid/oauth/done", marks=pytest.mark.long),
        pytest.param("http://127.0.0.1:1/callback", marks=pytest.mark.long),
        pytest.param("http://localhost:80/deep/path", marks=pytest.mark.long),
        pytest.param("http://localhost", marks=pytest.mark.long),
        "https://callback.invalid:443/done?tenant=1",
    ],
)
async def test_no_redirect_uri_needs_a_listener(folder, redirect_uri: str):
    arguments = ("--aiott1-redirect-uri", redirect_uri)
    async with (
        SandboxProcess(accounts=1, data_dir=folder / "redirects", arguments=arguments) as sandbox,
        open_harness(sandbox, folder) as harness,
    ):
        session = await harness.authorize("sandbox_001")
        assert (session["status"], session["error"]) == ("completed", None)
        await assert_stored(harness, "sandbox_001")


@pytest.mark.long
async def test_authorization_completes_on_postgresql(
    sandbox: SandboxProcess, folder: Path, account: str, postgresql_url: str
):
    async with open_harness(sandbox, folder, database_url=postgresql_url) as harness:
        sessions = await asyncio.gather(*(harness.authorize(account, app) for app in ("AIOTT1", "AIOTT2")))
        assert [db["status"] for db in sessions] == ["completed", "completed"]
        assert [list(db["stage_seconds"]) for db in sessions] == [STAGES, STAGES]
        await assert_stored(harness, account)
        await harness.nothing_left(account)
        async with harness.reading() as db:
            assert "PostgreSQL" in await db.scalar(text("select version()"))
