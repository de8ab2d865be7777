"""Each step has a deadline of its own, which a caller may lower; what hangs ends by it and leaves nothing."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sandbox.process import SandboxProcess
from tests.e2e.harness import ServiceHarness, open_harness
from tests.e2e.processes import children_named, is_alive
from tests.fixtures.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("deadlines")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def patient(sandbox: SandboxProcess, folder: Path) -> AsyncIterator[ServiceHarness]:
    """Its own deadlines are so long that one of them would fail the test."""
    long = dict.fromkeys(("page_load_timeout", "consent_button_timeout", "callback_timeout"), 300)
    async with open_harness(
        sandbox,
        folder,
        **long,
        authorization_timeout=600,
        browser_attach_timeout=300,
    ) as harness:
        yield harness


@pytest.mark.parametrize(
    ("endpoint", "kind", "step", "status", "code"),
    [
        pytest.param(
            "provider.authorize", "hang", "page_load", "timeout", "AUTH_TIMEOUT", marks=pytest.mark.long
        ),
        pytest.param(
            "provider.authorize",
            "button_never_enabled",
            "consent_button",
            "failed",
            "CONSENT_BUTTON_NOT_FOUND",
            marks=pytest.mark.long,
        ),
        ("provider.consent", "hang", "callback", "timeout", "AUTH_TIMEOUT"),
    ],
)
async def test_a_step_ends_when_its_caller_says(
    patient: ServiceHarness, account: str, endpoint: str, kind: str, step: str, status: str, code: str
):
    await patient.admin.set_fault(endpoint, kind, account=account)
    session = await patient.ended(await patient.ask(account, stage_timeouts={step: 1}))
    assert (session["status"], session["error_code"]) == (status, code), session["error"]
    await patient.nothing_left(account)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["hang", "start_hang_running"])
async def test_a_start_ends_when_its_caller_says(
    sandbox: SandboxProcess, folder: Path, account: str, kind: str
):
    """The profile is free when a late browser cannot come up any more: after the setting's own time."""
    async with open_harness(sandbox, folder, profile_start_timeout=5) as harness:
        await harness.admin.set_fault("local.start", kind, account=account)
        session = await harness.ended(await harness.ask(account, stage_timeouts={"profile_start": 1}))
        assert session["error_code"] == "GOLOGIN_API_ERROR"
        assert session["error"].endswith("no answer within 1 seconds")
        await harness.nothing_left(account)


async def at_the_callback(harness: ServiceHarness, account: str, **more: object) -> str:
    """A session whose browser waits for a redirect that never comes."""
    await harness.admin.set_fault("provider.consent", "hang", account=account)
    session_id = await harness.ask(account, **more)
    await harness.reached(session_id, "consent_given")
    return session_id


def stop_driver(harness: ServiceHarness) -> int:
    (pid,) = children_named(harness.service.pid, "chromedriver")
    os.kill(pid, signal.SIGSTOP)
    return pid


async def test_a_driver_that_hangs_is_replaced_by_the_next_session(patient: ServiceHarness, unused_accounts):
    first, second = next(unused_accounts), next(unused_accounts)
    session_id = await at_the_callback(patient, first)
    pid = stop_driver(patient)
    assert (await patient.authorize(second))["status"] == "completed"
    assert (await patient.ended(session_id))["error_code"] == "BROWSER_CRASHED"
    assert not is_alive(pid)
    assert len(children_named(patient.service.pid, "chromedriver")) == 1
    for account in (first, second):
        await patient.nothing_left(account)


@pytest.mark.long
async def test_a_driver_that_hangs_does_not_outlast_the_attempt(patient: ServiceHarness, account: str):
    """The thread waits for it in vain: it is ended, and the slot is free."""
    session_id = await at_the_callback(patient, account, timeout_seconds=10)
    pid = stop_driver(patient)
    assert (await patient.session(session_id))["status"] == "in_progress", "it was stopped too late"
    session = await patient.ended(session_id)
    assert (session["status"], session["error_code"]) == ("timeout", "AUTH_TIMEOUT")

    async def ended() -> bool:
        return not is_alive(pid)

    await eventually(ended)
    await patient.nothing_left(account)


async def test_a_cancelled_session_does_not_wait_for_a_driver_that_hangs(
    patient: ServiceHarness, account: str
):
    session_id = await at_the_callback(patient, account)
    stop_driver(patient)
    answer = await patient.call("POST", f"/authorize/{session_id}/cancel")
    assert answer.status_code == 200

    async def free() -> bool:
        return await patient.profile_is_free(await patient.profile_id(account))

    await eventually(free, 60)
    await patient.nothing_left(account)
