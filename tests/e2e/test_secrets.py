"""What the logs and the database hold after good and bad authorizations: all that operators need, and no secret."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.models import ApiKey
from sandbox.process import SandboxProcess
from tests.e2e.harness import APP, ServiceHarness, open_harness

# One group: one run of all that can go right or wrong is looked at by every test.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("secrets")]

FAULTS = [
    ("provider.authorize", "smaller_scope", {}),
    ("provider.authorize", "wrong_account_unseen", {}),
    ("provider.authorize", "wrong_state", {}),
    ("provider.authorize", "declined", {}),
    ("provider.authorize", "kill_browser", {}),
    ("provider.consent", "kill_browser", {}),
    ("provider.token", "status", {"status": 400}),
    ("provider.token", "truncated_json", {}),
    ("provider.token", "drop_after", {}),
    ("provider.me", "status", {"status": 500}),
    ("provider.me", "html", {}),
    ("provider.revoke", "status", {"status": 503}),
    ("local.start", "html", {}),
    ("provider.oauth1_authorize", "wrong_token", {}),
    ("provider.oauth1_access_token", "drop_after", {}),
]
KEYS = {"timestamp", "level", "logger", "event", "service", "environment"}


@dataclass(frozen=True)
class Run:
    harness: ServiceHarness
    sessions: list[dict[str, Any]]
    api_key: str
    cookies: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def run(sandbox: SandboxProcess, folder: Path, unused_accounts) -> AsyncIterator[Run]:
    """Every kind of end, at the most talkative log level, and a service that runs still."""
    async with open_harness(sandbox, folder, log_level="DEBUG", max_concurrent_profiles=4) as harness:
        api_key = await harness.service.run("keys", "create", "a caller")
        harness.key = api_key
        asked: dict[str, str] = {}
        for app in ("AIOTT1", "AIOTT2", "AIOTT3", "AIOTT4"):
            account = next(unused_accounts)
            asked[await harness.ask(account, app, request_id=f"run-{app}")] = account
        for number, (endpoint, kind, details) in enumerate(FAULTS):
            account = next(unused_accounts)
            await harness.admin.set_fault(endpoint, kind, account=account, **details)
            if endpoint == "provider.revoke":
                await harness.admin.set_fault("provider.me", "wrong_account", account=account)
            app = "AIOTT4" if "oauth1" in endpoint else APP
            asked[await harness.ask(account, app, request_id=f"run-{number}")] = account
        sessions = [await harness.ended(session_id) for session_id in asked]
        for account in asked.values():
            await harness.nothing_left(account)
        cookies = [next(iter((await harness.admin.sign_in(account)).values())) for account in asked.values()]
        yield Run(harness, sessions, api_key, cookies)


def files_of(harness: ServiceHarness) -> dict[str, bytes]:
    """All that the service has written anywhere."""
    return {path.name: path.read_bytes() for path in harness.folder.rglob("*") if path.is_file()}


async def secrets_of(run: Run) -> dict[str, str]:
    environment, info = run.harness.environment, run.harness.sandbox.info
    issued = await run.harness.admin.issued()
    lists = issued.model_dump() | {"cookie": run.cookies}
    single = {
        "API key": run.api_key,
        "bootstrap key": environment["API_KEY"],
        "encryption key": environment["ENCRYPTION_KEYS"].partition(":")[2],
        "GoLogin token": info.gologin_api_token,
        "proxy password": "proxy-password-",
        **{
            f"client secret of {name}": app.client_secret
            for name, app in info.apps.items()
            if app.client_secret
        },
    }
    return single | {f"{kind} {n}": value for kind, values in lists.items() for n, value in enumerate(values)}


async def test_run_has_the_expected_sessions(run: Run):
    codes = [session["error_code"] for session in run.sessions]
    assert codes == [
        *(None, None, None, None, None),
        *("ACCOUNT_MISMATCH", "STATE_MISMATCH", "CONSENT_DECLINED", "BROWSER_CRASHED", "BROWSER_CRASHED"),
        *("INVALID_GRANT", "TWITTER_API_ERROR", "TWITTER_API_ERROR"),
        *("TWITTER_API_ERROR", "TWITTER_API_ERROR", "ACCOUNT_MISMATCH", "GOLOGIN_API_ERROR"),
        *("STATE_MISMATCH", "TWITTER_API_ERROR"),
    ]


async def test_no_secret_is_written_anywhere(run: Run):
    secrets, files = await secrets_of(run), files_of(run.harness)
    assert {"service.db", "service.log"} <= files.keys()
    assert all(len(secret) > 10 for secret in secrets.values())
    assert len(secrets) > 50
    leaks = [
        f"{name} in {file}"
        for name, secret in secrets.items()
        for file, content in files.items()
        if secret.encode() in content
    ]
    assert leaks == []


async def test_no_secret_is_answered(run: Run):
    secrets = await secrets_of(run)
    answers = json.dumps([await run.harness.session(session["session_id"]) for session in run.sessions])
    assert [name for name, secret in secrets.items() if secret in answers] == []


async def test_every_line_is_json_with_the_same_keys(run: Run):
    lines = run.harness.service.log_path.read_text().splitlines()
    parsed = [json.loads(line) for line in lines]
    assert len(parsed) > 100
    for line in parsed:
        assert line.keys() >= KEYS, line
        assert line["timestamp"].endswith("Z")
        assert line["level"] in ("debug", "info", "warning", "error")
        assert (line["service"], line["environment"]) == ("gologin-automation", "development")
        assert "\n" not in line["event"]
    assert [line for line in parsed if "exception" in line] == []


async def test_every_line_about_an_authorization_carries_its_request_id(run: Run):
    of_session = {session["session_id"]: session for session in run.sessions}
    of_account = {session["account_id"]: session for session in run.sessions}
    lines = run.harness.service.log_lines()
    about = [line for line in lines if "session_id" in line or "account_id" in line or "profile_id" in line]
    assert len(about) > 5 * len(run.sessions)
    for line in about:
        session = of_session.get(line.get("session_id", "")) or of_account[line["account_id"]]
        assert line["request_id"] == session["request_id"], line
        assert (line["account_id"], line["api_app"]) == (session["account_id"], session["api_app"]), line
        assert line["profile_id"] == session["profile_id"], line


async def test_request_id_leads_from_the_post_to_the_end(run: Run):
    lines = run.harness.service.log_lines()
    for session in run.sessions:
        mine = [line["event"] for line in lines if line.get("request_id") == session["request_id"]]
        assert mine.count("http.request") == 1
        assert mine.count("authorization.started") == 1
        end = "authorization.completed" if session["status"] == "completed" else "authorization.failed"
        assert mine.count(end) == 1
        assert mine.count("authorization.stage") == len(session["stage_seconds"]) - (
            session["status"] == "completed"
        )


async def test_only_hashes_of_keys_are_stored(run: Run):
    assert await run.harness.count(ApiKey) == 1
    assert run.api_key.encode() not in b"".join(files_of(run.harness).values())
