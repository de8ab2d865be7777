"""One run of all that can go right or wrong with an authorization; tests look at different parts of it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.models import Credential
from sandbox.oauth import GrantState
from sandbox.process import SandboxProcess
from tests.e2e.harness import APP, ServiceHarness, open_harness
from tests.e2e.processes import children_named

REFUSED_APP = {"error": "unauthorized_client", "error_description": "Missing valid authorization header"}
CLIENT_FORBIDDEN = {"title": "Client Forbidden", "reason": "client-not-enrolled"}
LOCKED = {"errors": [{"code": 326, "message": "temporarily locked"}]}
AT_ONCE = 4


@dataclass(frozen=True)
class Case:
    """A fault, and how the session then ends."""

    endpoint: str
    kind: str
    code: str | None
    status: str = "failed"
    stage: str | None = "profile_starting"
    """Last stage of the session; None: the fault strikes between two stages."""
    deadline: tuple[str, float] | None = None
    """The setting, and its seconds, that ends it; None: it is noticed at once."""
    grants: tuple[bool, ...] = ()
    """Grants of the account at the provider, and whether each is usable: tokens that were given must have been taken
    back."""
    details: dict[str, Any] = field(default_factory=dict)
    app: str = APP
    further: tuple[str, str, dict[str, Any]] | None = None
    """Another fault beside it."""
    is_long: bool = False

    def __str__(self) -> str:
        status = self.details.get("status", "")
        return f"{self.endpoint}-{self.kind}{f'-{status}' if status else ''}"


def completes(endpoint: str, kind: str, app: str = APP, **details: Any) -> Case:
    """Return a fault that must not keep an authorization from its end."""
    return Case(endpoint, kind, None, "completed", "tokens_stored", grants=(True,), details=details, app=app)


def needs_a_person(kind: str, code: str, *, is_long: bool = False) -> Case:
    return Case("provider.authorize", kind, code, "needs_attention", "browser_attached", is_long=is_long)


CASES = [
    completes("provider.authorize", "two_pages"),
    completes("provider.consent_data", "delay", "AIOTT2", seconds=1.5),
    completes("local.stop", "status", "AIOTT3", status=500),
    completes("provider.oauth1_authorize", "", "AIOTT4"),
    completes("provider.authorize", "smaller_scope"),
    # the account
    Case("provider.authorize", "wrong_account", "ACCOUNT_MISMATCH", stage="consent_shown"),
    Case("provider.authorize", "wrong_account_unseen", "ACCOUNT_MISMATCH", stage="code_received"),
    Case("provider.me", "wrong_account", "ACCOUNT_MISMATCH", stage="code_received", grants=(False,)),
    Case(
        "provider.me",
        "wrong_account",
        "ACCOUNT_MISMATCH",
        stage="code_received",
        grants=(True,),
        further=("provider.revoke", "status", {"status": 503}),
    ),
    needs_a_person("signed_out", "LOGIN_REQUIRED"),
    needs_a_person("signed_out_redirect", "LOGIN_REQUIRED", is_long=True),
    needs_a_person("locked", "ACCOUNT_LOCKED"),
    needs_a_person("human_check", "HUMAN_CHECK_REQUIRED", is_long=True),
    needs_a_person("challenge", "HUMAN_CHECK_REQUIRED", is_long=True),
    needs_a_person("suspended", "ACCOUNT_LOCKED", is_long=True),
    needs_a_person("terms", "NOT_CONSENT_PAGE", is_long=True),
    needs_a_person("proxy_page", "NOT_CONSENT_PAGE", is_long=True),
    # the page
    Case(
        "provider.authorize",
        "proxy_page_in_place",
        "UNKNOWN_PAGE",
        stage="browser_attached",
        deadline=("consent_button_timeout", 3),
        is_long=True,
    ),
    Case("provider.authorize", "declined", "CONSENT_DECLINED", stage="consent_given"),
    Case("provider.authorize", "error_page", "CONSENT_PAGE_ERROR", stage="browser_attached", is_long=True),
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
        is_long=True,
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
    Case(
        "provider.oauth1_authorize", "wrong_token", "STATE_MISMATCH", stage=None, app="AIOTT4", is_long=True
    ),
    # the profile's start
    Case("local.start", "status", "GOLOGIN_API_ERROR", details={"status": 500}),
    Case("local.start", "html", "GOLOGIN_API_ERROR", details={"status": 200}, is_long=True),
    Case("local.start", "no_ws_url", "GOLOGIN_API_ERROR", is_long=True),
    Case("local.start", "drop", "GOLOGIN_API_ERROR", is_long=True),
    Case("local.start", "hang", "GOLOGIN_API_ERROR", deadline=("profile_start_timeout", 3), is_long=True),
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
    Case("provider.authorize", "kill_browser", "BROWSER_CRASHED", stage="browser_attached", is_long=True),
    Case("provider.consent_data", "kill_browser", "BROWSER_CRASHED", stage="browser_attached", is_long=True),
    Case("provider.consent", "kill_browser", "BROWSER_CRASHED", stage=None),
    # the provider's API
    Case("provider.token", "status", "INVALID_GRANT", stage="code_received", details={"status": 400}),
    Case(
        "provider.token",
        "status",
        "INVALID_CLIENT",
        stage="code_received",
        details={"status": 401, "body": REFUSED_APP},
        is_long=True,
    ),
    Case(
        "provider.token",
        "status",
        "TWITTER_API_ERROR",
        stage="code_received",
        details={"status": 500},
        is_long=True,
    ),
    Case(
        "provider.token",
        "html",
        "TWITTER_API_ERROR",
        stage="code_received",
        details={"status": 200},
        is_long=True,
    ),
    Case(
        "provider.token",
        "truncated_json",
        "TWITTER_API_ERROR",
        stage="code_received",
        grants=(True,),
        is_long=True,
    ),
    Case("provider.token", "drop_after", "TWITTER_API_ERROR", stage="code_received", grants=(True,)),
    Case(
        "provider.token",
        "hang",
        "TWITTER_API_ERROR",
        stage="code_received",
        deadline=("oauth_api_timeout", 3),
        is_long=True,
    ),
    Case(
        "provider.oauth1_access_token",
        "drop_after",
        "TWITTER_API_ERROR",
        stage="code_received",
        grants=(True,),
        app="AIOTT4",
    ),
    Case(
        "provider.me",
        "status",
        "TWITTER_API_ERROR",
        stage="code_received",
        grants=(False,),
        details={"status": 500},
        is_long=True,
    ),
    Case("provider.me", "html", "TWITTER_API_ERROR", stage="code_received", grants=(False,), is_long=True),
    Case(
        "provider.me",
        "status",
        "INVALID_CLIENT",
        stage="code_received",
        grants=(False,),
        details={"status": 403, "body": CLIENT_FORBIDDEN},
        is_long=True,
    ),
    Case(
        "provider.me",
        "status",
        "ACCOUNT_LOCKED",
        "needs_attention",
        stage="code_received",
        grants=(False,),
        details={"status": 403, "body": LOCKED},
    ),
    Case(
        "provider.me",
        "hang",
        "TWITTER_API_ERROR",
        stage="code_received",
        grants=(False,),
        deadline=("oauth_api_timeout", 3),
        is_long=True,
    ),
]
AT_ONCE_CASES = [case for case in CASES if case.deadline is None and not case.is_long]
"""Cases of the run."""


@dataclass(frozen=True)
class Run:
    harness: ServiceHarness
    accounts: dict[str, str]
    """Account of each case, by the case's name."""
    sessions: dict[str, dict[str, Any]]
    problems: dict[str, Exception]
    """Why the session of a case has not ended, or has left something; the other cases are complete without it."""
    grants: list[GrantState]
    """Grants of the run's accounts, those of the wrong accounts included."""
    stored: set[str]
    """Accounts that have tokens at the end of the run."""
    log_lines: list[dict[str, Any]]
    drivers: list[int]
    """Process ids of the chromedrivers at the end of the run."""
    api_key: str
    cookies: list[str]


async def set_faults(harness: ServiceHarness, account: str, case: Case) -> None:
    for endpoint, kind, details in filter(None, [(case.endpoint, case.kind, case.details), case.further]):
        if kind:
            await harness.admin.set_fault(endpoint, kind, account=account, **details)


@asynccontextmanager
async def open_run(
    sandbox: SandboxProcess, folder: Path, unused_accounts: Iterator[str]
) -> AsyncIterator[Run]:
    """Run every case, some at once over one driver, at the most talkative log level; the service runs still."""
    async with open_harness(sandbox, folder, log_level="DEBUG", max_concurrent_profiles=AT_ONCE) as harness:
        api_key = await harness.service.run("keys", "create", "a caller")
        harness.key = api_key
        accounts: dict[str, str] = {}
        wrong_accounts: set[str] = set()
        for name, case in named(AT_ONCE_CASES).items():
            accounts[name] = next(unused_accounts)
            await set_faults(harness, accounts[name], case)
            if case.kind.startswith("wrong_account"):
                wrong_accounts.add(next(unused_accounts))  # the other account is the next one of the sandbox
        asked = {
            name: await harness.ask(accounts[name], case.app, request_id=f"run-{number}")
            for number, (name, case) in enumerate(named(AT_ONCE_CASES).items())
        }
        problems: dict[str, Exception] = {}

        async def finish(name: str) -> None:
            try:
                await harness.ended(asked[name])
                await harness.nothing_left(accounts[name])
            except Exception as problem:
                problems[name] = problem

        for name in asked:  # one after the other: each of them has its time, however many wait for a browser
            await finish(name)
        drivers = children_named(harness.service.pid, "chromedriver")
        sessions = {name: await harness.session(session_id) for name, session_id in asked.items()}
        async with harness.reading() as db:
            stored = set(await db.scalars(select(Credential.account_id)))
        lines = harness.service.log_lines()
        known = wrong_accounts.union(accounts.values())
        grants = [grant for grant in await harness.admin.grants() if grant.account in known]
        cookies = [next(iter((await harness.admin.sign_in(each)).values())) for each in accounts.values()]
        yield Run(harness, accounts, sessions, problems, grants, stored, lines, drivers, api_key, cookies)


def named(cases: list[Case]) -> dict[str, Case]:
    """Return the cases by name; the second of a name has a number."""
    found: dict[str, Case] = {}
    for case in cases:
        name = str(case)
        found[f"{name}-2" if name in found else name] = case
    return found
