"""Every way in which GoLogin, the browser or the provider can fail: its own error code, in time, nothing left."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sandbox.oauth import GrantState
from sandbox.process import SandboxProcess
from tests.e2e.harness import APP, WAIT, ServiceHarness, open_harness
from tests.e2e.processes import children_named
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

SLACK = 20
"""Seconds on top of the deadline that a fault runs into: for starting and stopping the browser on a busy machine."""

REFUSED_APP = {"error": "unauthorized_client", "error_description": "Missing valid authorization header"}


@dataclass(frozen=True)
class Case:
    """What is broken, and how the session then ends."""

    endpoint: str
    kind: str
    code: str
    status: str = "failed"
    stage: str | None = "profile_starting"
    """How far it came; None: the fault strikes between two stages."""
    deadline: tuple[str, float] | None = None
    """The setting, and its seconds, that ends it; None: it is noticed at once."""
    revoked: bool = False
    """Tokens were given, and must have been taken back."""
    details: dict[str, Any] = field(default_factory=dict)
    is_long: bool = False

    def __str__(self) -> str:
        status = self.details.get("status", "")
        return f"{self.endpoint}-{self.kind}{f'-{status}' if status else ''}"


CASES = [
    # the account
    Case("provider.authorize", "wrong_account", "ACCOUNT_MISMATCH", stage="consent_shown"),
    Case(
        "provider.authorize", "wrong_account_unseen", "ACCOUNT_MISMATCH", stage="code_received", revoked=True
    ),
    Case("provider.me", "wrong_account", "ACCOUNT_MISMATCH", stage="code_received", revoked=True),
    Case("provider.authorize", "signed_out", "LOGIN_REQUIRED", "needs_attention", "browser_attached"),
    Case(
        "provider.authorize", "signed_out_redirect", "LOGIN_REQUIRED", "needs_attention", "browser_attached"
    ),
    Case("provider.authorize", "locked", "ACCOUNT_LOCKED", "needs_attention", "browser_attached"),
    Case("provider.authorize", "human_check", "HUMAN_CHECK_REQUIRED", "needs_attention", "browser_attached"),
    Case("provider.authorize", "challenge", "HUMAN_CHECK_REQUIRED", "needs_attention", "browser_attached"),
    Case("provider.authorize", "suspended", "ACCOUNT_LOCKED", "needs_attention", "browser_attached"),
    Case("provider.authorize", "terms", "NOT_CONSENT_PAGE", "needs_attention", "browser_attached"),
    Case("provider.authorize", "proxy_page", "NOT_CONSENT_PAGE", "needs_attention", "browser_attached"),
    # the page
    Case(
        "provider.authorize",
        "proxy_page_in_place",
        "UNKNOWN_PAGE",
        stage="browser_attached",
        deadline=("consent_button_timeout", 3),
    ),
    Case("provider.authorize", "declined", "CONSENT_DECLINED", stage="consent_given"),
    Case("provider.authorize", "error_page", "CONSENT_PAGE_ERROR", stage="browser_attached"),
    Case("provider.authorize", "wrong_state", "STATE_MISMATCH", stage="consent_given"),
    Case(
        "provider.authorize",
        "button_never_enabled",
        "CONSENT_BUTTON_NOT_FOUND",
        stage="browser_attached",
        deadline=("consent_button_timeout", 3),
    ),
    Case(
        "provider.authorize",
        "covered_button",
        "CONSENT_BUTTON_NOT_FOUND",
        stage="consent_shown",
        deadline=("consent_button_timeout", 3),
    ),
    Case(
        "provider.authorize",
        "hang",
        "AUTH_TIMEOUT",
        "timeout",
        "browser_attached",
        deadline=("page_load_timeout", 3),
    ),
    Case(
        "provider.consent",
        "hang",
        "AUTH_TIMEOUT",
        "timeout",
        "consent_given",
        deadline=("callback_timeout", 3),
        is_long=True,
    ),
    Case("provider.consent", "status", "CONSENT_PAGE_ERROR", stage="consent_given", details={"status": 503}),
    # the profile's start
    Case("local.start", "status", "GOLOGIN_API_ERROR", details={"status": 500}),
    Case("local.start", "html", "GOLOGIN_API_ERROR", details={"status": 200}),
    Case("local.start", "no_ws_url", "GOLOGIN_API_ERROR"),
    Case("local.start", "drop", "GOLOGIN_API_ERROR"),
    Case("local.start", "hang", "GOLOGIN_API_ERROR", deadline=("profile_start_timeout", 3)),
    Case(
        "local.start",
        "start_hang_running",
        "GOLOGIN_API_ERROR",
        deadline=("profile_start_timeout", 3),
        is_long=True,
    ),
    # the browser
    Case("local.start", "dead_proxy", "PROFILE_NETWORK_ERROR", stage="browser_attached"),
    Case("local.start", "start_then_kill", "BROWSER_CONNECTION_FAILED"),
    Case("provider.authorize", "kill_browser", "BROWSER_CRASHED", stage="browser_attached"),
    Case("provider.consent_data", "kill_browser", "BROWSER_CRASHED", stage="browser_attached"),
    Case("provider.consent", "kill_browser", "BROWSER_CRASHED", stage=None),
    # the provider's API
    Case("provider.token", "status", "INVALID_GRANT", stage="code_received", details={"status": 400}),
    Case(
        "provider.token",
        "status",
        "INVALID_CLIENT",
        stage="code_received",
        details={"status": 401, "body": REFUSED_APP},
    ),
    Case("provider.token", "status", "TWITTER_API_ERROR", stage="code_received", details={"status": 500}),
    Case("provider.token", "html", "TWITTER_API_ERROR", stage="code_received", details={"status": 200}),
    Case(
        "provider.token",
        "hang",
        "TWITTER_API_ERROR",
        stage="code_received",
        deadline=("oauth_api_timeout", 3),
        is_long=True,
    ),
    Case(
        "provider.me",
        "status",
        "TWITTER_API_ERROR",
        stage="code_received",
        revoked=True,
        details={"status": 500},
    ),
    Case(
        "provider.me",
        "status",
        "INVALID_CLIENT",
        stage="code_received",
        revoked=True,
        details={"status": 403, "body": {"title": "Client Forbidden", "reason": "client-not-enrolled"}},
    ),
    Case(
        "provider.me",
        "status",
        "ACCOUNT_LOCKED",
        "needs_attention",
        stage="code_received",
        revoked=True,
        details={"status": 403, "body": {"errors": [{"code": 326, "message": "temporarily locked"}]}},
    ),
    Case(
        "provider.me",
        "hang",
        "TWITTER_API_ERROR",
        stage="code_received",
        revoked=True,
        deadline=("oauth_api_timeout", 3),
        is_long=True,
    ),
]


@pytest.mark.parametrize("case", [case for case in CASES if not case.deadline], ids=str)
async def test_a_fault_ends_with_its_own_error(harness: ServiceHarness, account: str, case: Case):
    await assert_ends(harness, account, case)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.long] if case.is_long else []) for case in CASES if case.deadline],
    ids=str,
)
async def test_hanging_step_ends_at_its_deadline(
    sandbox: SandboxProcess, folder: Path, account: str, case: Case
):
    """Only the deadline in question is short: all others would be an error of the test."""
    assert case.deadline is not None
    setting, deadline = case.deadline
    async with open_harness(sandbox, folder, **{setting: deadline}) as harness:
        seconds = await assert_ends(harness, account, case)
    assert deadline <= seconds < deadline + SLACK


async def assert_ends(harness: ServiceHarness, account: str, case: Case) -> float:
    """One authorization under the fault; the seconds it took."""
    known = len(await grants_of_x(harness))
    await harness.admin.set_fault(case.endpoint, case.kind, account=account, **case.details)
    began = time.monotonic()
    session = await harness.authorize(account)
    seconds = time.monotonic() - began
    assert (session["status"], session["error_code"]) == (case.status, case.code), session["error"]
    assert case.stage in (session["stage"], None)

    await harness.nothing_left(account)
    assert await harness.credential(account) is None
    new_grants = (await grants_of_x(harness))[known:]  # an unseen wrong account's grant is not the account's
    assert [grant.usable for grant in new_grants] == ([False] if case.revoked else [])
    return seconds


async def grants_of_x(harness: ServiceHarness) -> list[GrantState]:
    """In their order; the sandbox's other provider has a list of its own."""
    return [grant for grant in await harness.admin.grants() if grant.app == APP]


async def test_account_can_be_authorised_after_a_fault(harness: ServiceHarness, account: str):
    await harness.admin.set_fault("provider.consent", "kill_browser", account=account, times=1)
    assert (await harness.authorize(account))["error_code"] == "BROWSER_CRASHED"
    assert (await harness.authorize(account))["status"] == "completed"


async def test_the_wrong_account_is_seen_before_the_click(harness: ServiceHarness, account: str):
    before = await harness.admin.requests(endpoint="provider.consent")
    await harness.admin.set_fault("provider.authorize", "wrong_account", account=account)
    await harness.authorize(account)
    assert await harness.admin.requests(endpoint="provider.consent") == before


async def test_a_code_is_exchanged_once_even_when_the_answer_is_lost(harness: ServiceHarness, account: str):
    # A test before may have signed this account in at another's profile.
    before = len(await harness.admin.requests(endpoint="provider.token", account=account))
    await harness.admin.set_fault("provider.token", "drop_after", account=account)
    session = await harness.authorize(account)
    assert session["error_code"] == "TWITTER_API_ERROR"
    assert len(await harness.admin.requests(endpoint="provider.token", account=account)) == before + 1
    assert await harness.credential(account) is None


async def test_a_stop_that_gologin_refuses_does_not_spoil_the_authorization(
    harness: ServiceHarness, account: str
):
    await harness.admin.set_fault("local.stop", "status", account=account, status=500)
    assert (await harness.authorize(account))["status"] == "completed"
    await harness.nothing_left(account)


async def test_a_slow_page_is_waited_for(harness: ServiceHarness, account: str):
    await harness.admin.set_fault("provider.consent_data", "delay", account=account, seconds=1.5)
    session = await harness.authorize(account)
    assert session["status"] == "completed"
    assert session["stage_seconds"]["consent_shown"] > 1.5


async def test_a_consent_of_two_pages_is_pressed_on_both(harness: ServiceHarness, account: str):
    await harness.admin.set_fault("provider.authorize", "two_pages", account=account)
    assert (await harness.authorize(account))["status"] == "completed"
    assert len(await harness.admin.requests(endpoint="provider.consent", account=account)) == 2


async def test_browser_killed_from_outside_fails_its_session(harness: ServiceHarness, account: str):
    await harness.admin.set_fault("provider.consent", "hang", account=account)
    session_id = await harness.ask(account)
    await harness.reached(session_id, "consent_given")
    await harness.admin.kill_browser(await harness.profile_id(account))
    assert (await harness.ended(session_id))["error_code"] == "BROWSER_CRASHED"
    await harness.nothing_left(account)


async def test_different_faults_at_once_do_not_affect_each_other(harness: ServiceHarness, unused_accounts):
    """One driver serves them all: a dying browser must not hurt its neighbours."""
    kinds = ["kill_browser", "signed_out", "declined", "wrong_state", "error_page"]
    accounts = [next(unused_accounts) for _ in range(2 * len(kinds))]
    for kind, account in zip(kinds, accounts, strict=False):
        await harness.admin.set_fault("provider.authorize", kind, account=account)
    sessions = await asyncio.gather(*(harness.authorize(account) for account in accounts))
    expected = [
        "BROWSER_CRASHED",
        "LOGIN_REQUIRED",
        "CONSENT_DECLINED",
        "STATE_MISMATCH",
        "CONSENT_PAGE_ERROR",
    ]
    assert [session["error_code"] for session in sessions] == expected + [None] * len(kinds)
    assert len(children_named(harness.service.pid, "chromedriver")) == 1
    for account in accounts:
        await harness.nothing_left(account)


async def test_a_limit_of_who_am_i_costs_one_consent_and_keeps_nobody_else_back(
    sandbox: SandboxProcess, folder: Path, account: str, unused_accounts: Iterator[str]
):
    """Its reset comes in milliseconds; an answer without a ceiling waited until the year 58879."""
    in_an_hour = str(int((time.time() + 3000) * 1000))
    headers = {"x-rate-limit-remaining": "0", "x-rate-limit-reset": in_an_hour, "retry-after": "1" + "0" * 12}
    async with open_harness(sandbox, folder, max_attempts=3) as harness:
        await harness.admin.set_fault("provider.me", "status", status=429, headers=headers, account=account)
        waiting = await harness.ask(account)

        async def refused() -> bool:
            session = await harness.session(waiting)
            return session["status"] == "pending" and session["attempts"] == 1

        await eventually(refused, WAIT)
        other = await harness.authorize(next(unused_accounts))
        assert other["status"] == "completed"
        listed = (await harness.call("GET", "/authorize")).json()
        (row,) = [row for row in listed["data"] if row["session_id"] == waiting]
        wait = (datetime.fromisoformat(row["not_before"]) - datetime.now(UTC)).total_seconds()
        assert 3000 < wait <= 3600
        assert row["attempts"] == 1
