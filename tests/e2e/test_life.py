"""What a caller may do with a session while it runs and after it has ended, with real browsers."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from sandbox.process import SandboxProcess
from tests.e2e.harness import APP, ServiceHarness, open_harness
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def retrying(sandbox: SandboxProcess, folder: Path) -> AsyncIterator[ServiceHarness]:
    async with open_harness(sandbox, folder, max_attempts=2, retry_wait=0.05) as harness:
        yield harness


async def call(
    harness: ServiceHarness, path: str, *, key: str | None = None, **body: object
) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await harness.call("POST", path, headers=headers, json=body)


async def test_a_cancelled_session_stops_its_browser_and_can_be_tried_again(
    retrying: ServiceHarness, account: str
):
    await retrying.admin.set_fault("provider.consent", "hang", account=account)
    session_id = await retrying.ask(account)
    await retrying.reached(session_id, "consent_given")
    profile_id = await retrying.profile_id(account)
    began = time.monotonic()
    answer = await call(retrying, f"/authorize/{session_id}/cancel")
    assert answer.json()["data"]["status"] == "cancelled"

    async def stopped() -> bool:
        return await retrying.browser_is_gone(profile_id) and await retrying.profile_is_free(profile_id)

    await eventually(stopped)
    assert time.monotonic() - began < 10  # two seconds and a busy machine
    assert (await call(retrying, f"/authorize/{session_id}/cancel")).json()["error_code"] == "SESSION_ENDED"

    await retrying.admin.clear_faults(account)
    answer = await call(retrying, f"/authorize/{session_id}/retry")
    assert (answer.status_code, answer.json()["data"]["status"]) == (202, "pending")
    session = await retrying.ended(session_id)
    assert (session["status"], session["attempts"]) == ("completed", 2)
    assert [attempt["error_code"] for attempt in session["attempt_list"]] == ["CANCELLED", None]
    await retrying.nothing_left(account)


async def test_transient_failure_costs_one_attempt(retrying: ServiceHarness, account: str):
    await retrying.admin.set_fault("local.start", "status", status=500, account=account, times=1)
    session = await retrying.authorize(account)
    assert (session["status"], session["error_code"]) == ("completed", None)
    assert [attempt["error_code"] for attempt in session["attempt_list"]] == ["GOLOGIN_API_ERROR", None]


async def test_lasting_failure_ends_the_session_after_the_last_attempt(
    retrying: ServiceHarness, account: str
):
    await retrying.admin.set_fault("local.start", "status", status=500, account=account)
    session = await retrying.authorize(account)
    assert (session["status"], session["error_code"], session["attempts"]) == (
        "failed",
        "GOLOGIN_API_ERROR",
        2,
    )


async def test_the_same_key_gives_the_same_session_over_http(retrying: ServiceHarness, account: str):
    body = {"account_id": account, "api_app": APP}
    first = await call(retrying, "/authorize", key=f"key-{account}", **body)
    second = await call(retrying, "/authorize", key=f"key-{account}", **body)
    other = await call(retrying, "/authorize", key=f"key-{account}", **body, priority=9)
    assert (first.status_code, second.status_code, other.status_code) == (202, 200, 409)
    assert first.json()["data"]["session_id"] == second.json()["data"]["session_id"]
    assert (first.json()["data"]["existing"], second.json()["data"]["existing"]) == (False, True)
    assert other.json()["error_code"] == "IDEMPOTENCY_CONFLICT"
    assert (await retrying.ended(first.json()["data"]["session_id"]))["status"] == "completed"


@pytest.mark.long
async def test_a_caller_may_want_it_sooner_than_the_settings(retrying: ServiceHarness, account: str):
    await retrying.admin.set_fault("provider.consent", "hang", account=account)
    answer = await call(
        retrying, "/authorize", account_id=account, api_app=APP, timeout_seconds=2, force=True
    )
    session = await retrying.ended(answer.json()["data"]["session_id"])
    assert (session["status"], session["error_code"]) == ("timeout", "AUTH_TIMEOUT")
    assert session["error"] == "Authorization timeout after 2 seconds"
    assert len(session["attempt_list"]) == 2
