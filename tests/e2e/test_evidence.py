"""Evidence of a browser in which an attempt failed: enough for an operator, and no secret."""

import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from app.models import Evidence
from sandbox.process import SandboxProcess
from tests.e2e.harness import ServiceHarness, open_harness

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("evidence")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def watched(sandbox: SandboxProcess, folder: Path) -> AsyncIterator[ServiceHarness]:
    async with open_harness(sandbox, folder, log_level="DEBUG") as harness:
        yield harness


async def get(harness: ServiceHarness, path: str) -> httpx.Response:
    answer = await harness.call("GET", path)
    assert answer.status_code == 200, answer.text
    return answer


async def evidence(harness: ServiceHarness, session: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the evidence of the session's attempts."""
    found: list[dict[str, Any]] = (await get(harness, f"/authorize/{session['session_id']}/evidence")).json()[
        "data"
    ]
    return found


JPEG = b"\xff\xd8\xff"

# The last page may be the one before the redirect, or the callback's.
SEEN = {
    "wrong_account": ("ACCOUNT_MISMATCH", "/i/oauth2/authorize", "OAuth_Consent_Button"),
    "signed_out_redirect": ("LOGIN_REQUIRED", "/i/flow/login", "OAuth_Consent_Log_In_Button"),
    "locked": ("ACCOUNT_LOCKED", "/account/access", None),
    "human_check": ("HUMAN_CHECK_REQUIRED", "/i/oauth2/authorize", None),
    "error_page": ("CONSENT_PAGE_ERROR", "/i/oauth2/authorize", "OAuth_Consent_Error_Detail"),
    "declined": ("CONSENT_DECLINED", "", None),
}


IN_SUITE = ("declined",)
"""A page that the provider leads to, and the callback's; the consent page itself is in the test of secrets."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in IN_SUITE else [pytest.mark.long]) for kind in SEEN]
)
async def test_evidence_shows_the_page_that_failed(watched: ServiceHarness, account: str, kind: str):
    code, path, test_id = SEEN[kind]
    await watched.admin.set_fault("provider.authorize", kind, account=account)
    session = await watched.authorize(account)
    assert session["error_code"] == code
    (seen,) = await evidence(watched, session)
    assert seen["url"].endswith(path)
    assert "?" not in seen["url"]
    assert seen["title"] or not path  # a page that is just being left has none
    assert test_id is None or test_id in seen["test_ids"]
    picture = await get(watched, seen["screenshot"])
    assert picture.content.startswith(JPEG)
    assert len(picture.content) < 500_000


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        pytest.param("local.start", "status", marks=pytest.mark.long),
        pytest.param("provider.token", "status", marks=pytest.mark.long),
        ("provider.consent_data", "kill_browser"),
    ],
)
async def test_failure_without_a_browser_leaves_no_evidence(
    watched: ServiceHarness, account: str, endpoint: str, kind: str
):
    await watched.admin.set_fault(endpoint, kind, account=account)
    session = await watched.authorize(account)
    assert session["status"] == "failed"
    assert await evidence(watched, session) == []


async def test_page_in_an_endless_script_leaves_evidence(watched: ServiceHarness, account: str):
    """It answers nothing, and tells its address all the same. Its deadline is the caller's own."""
    await watched.admin.set_fault("provider.authorize", "endless_script", account=account)
    session = await watched.ended(await watched.ask(account, stage_timeouts={"page_load": 3}))
    assert (session["status"], session["error_code"]) == ("timeout", "AUTH_TIMEOUT")
    (seen,) = await evidence(watched, session)
    assert seen["url"].endswith("/i/oauth2/authorize")
    assert seen["screenshot"] is None
    await watched.nothing_left(account)


async def test_evidence_holds_no_secret(watched: ServiceHarness, account: str, unused_accounts):
    """Planted where a page can show them: in its title, console, address and a password field."""
    app_secret = next(app.client_secret for app in watched.sandbox.info.apps.values() if app.client_secret)
    planted = {"access": secrets.token_urlsafe(48), "password": f"correct horse {secrets.token_hex(4)}"}
    values = {
        "title": planted["access"],
        "password": planted["password"],
        "console": [
            f"Authorization: Bearer {planted['access']}",
            f'{{"client_secret": "{app_secret}"}}',
            f"failed: http://h/cb?code={planted['access']}",
            f"password={planted['password'].split()[-1]}",
        ],
    }
    await watched.admin.set_fault("provider.authorize", "leaky_page", account=account, body=values)
    session = await watched.authorize(account)
    assert session["error_code"] == "LOGIN_REQUIRED"
    (seen,) = await evidence(watched, session)
    assert seen["url"].endswith("/i/oauth2/authorize")
    assert seen["title"].startswith("Log in [masked]")
    assert set(seen["test_ids"]) == {"Password_Input", "OAuth_Consent_Log_In_Button", "Row-[masked]"}
    assert len(seen["console"]) >= len(values["console"]) + 1
    picture = await get(watched, seen["screenshot"])
    assert picture.content.startswith(JPEG)

    other = next(unused_accounts)
    await watched.admin.set_fault("provider.authorize", "wrong_state", account=other)
    mismatch = await watched.authorize(other)
    assert mismatch["error_code"] == "STATE_MISMATCH"
    (redirected,) = await evidence(watched, mismatch)
    assert "?" not in redirected["url"]
    assert (await get(watched, redirected["screenshot"])).content.startswith(JPEG)

    issued = await watched.admin.issued()
    hidden = [*issued.all(), *planted.values(), planted["password"].split()[-1], app_secret]
    assert issued.codes
    assert issued.states
    answers = json.dumps([seen, redirected, dict(picture.headers)])
    assert [secret for secret in hidden if secret in answers] == []
    files = [path for path in watched.folder.rglob("*") if path.is_file()]
    assert {"service.db", "service.log"} <= {path.name for path in files}
    written = b"".join(path.read_bytes() for path in files)
    assert [secret for secret in hidden if secret.encode() in written] == []
    assert await watched.count(Evidence) >= 2
