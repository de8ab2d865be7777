"""Every way in which GoLogin, the browser or the provider can fail: its own error code, in time, nothing left."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sandbox.process import SandboxProcess
from tests.e2e.fault_run import AT_ONCE_CASES, CASES, Case, Run, named, set_faults
from tests.e2e.harness import WAIT, ServiceHarness, open_harness
from tests.fixtures.waiting import eventually

# One group: one run is looked at by many tests.
pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("faults"),
    pytest.mark.timeout(600),
]

SLACK = 20
"""Seconds on top of the deadline that a fault runs into: for starting and stopping the browser on a busy machine."""


@pytest.mark.parametrize("name", named(AT_ONCE_CASES))
async def test_a_fault_ends_with_its_own_error(fault_run: Run, name: str):
    """The faults strike beside each other, and beside authorizations that complete: none hurts its neighbours."""
    if name in fault_run.problems:
        raise fault_run.problems[name]
    case, account, session = named(AT_ONCE_CASES)[name], fault_run.accounts[name], fault_run.sessions[name]
    assert (session["status"], session["error_code"]) == (case.status, case.code), session["error"]
    assert case.stage in (session["stage"], None)
    assert (account in fault_run.stored) is (case.status == "completed")
    assert [grant.usable for grant in fault_run.grants if grant.account == account] == [*case.grants]


async def test_one_driver_survives_all_faults(fault_run: Run):
    started = [line["pid"] for line in fault_run.log_lines if line["event"] == "chromedriver.started"]
    assert len(started) == 1
    assert fault_run.drivers == started


async def test_tokens_of_another_account_are_revoked(fault_run: Run):
    """An unseen wrong account's grant is not the account's."""
    others = [grant for grant in fault_run.grants if grant.account not in fault_run.accounts.values()]
    assert [grant.usable for grant in others] == [False]


async def test_the_wrong_account_is_seen_before_the_click(fault_run: Run):
    async def consents(name: str) -> int:
        account = fault_run.accounts[f"provider.authorize-{name}"]
        return len(await fault_run.harness.admin.requests(endpoint="provider.consent", account=account))

    assert (await consents("wrong_account"), await consents("wrong_account_unseen")) == (0, 1)


async def test_a_code_is_exchanged_once_even_when_the_answer_is_lost(fault_run: Run):
    account = fault_run.accounts["provider.token-drop_after"]
    assert len(await fault_run.harness.admin.requests(endpoint="provider.token", account=account)) == 1


async def test_a_slow_page_is_waited_for(fault_run: Run):
    assert fault_run.sessions["provider.consent_data-delay"]["stage_seconds"]["consent_shown"] > 1.5


async def test_a_consent_of_two_pages_is_pressed_on_both(fault_run: Run):
    account = fault_run.accounts["provider.authorize-two_pages"]
    assert len(await fault_run.harness.admin.requests(endpoint="provider.consent", account=account)) == 2


async def test_account_can_be_authorised_after_a_fault(fault_run: Run):
    account = fault_run.accounts["provider.consent-kill_browser"]
    await fault_run.harness.admin.clear_faults(account)
    assert (await fault_run.harness.authorize(account))["status"] == "completed"


@pytest.mark.long
@pytest.mark.parametrize("case", [case for case in CASES if not case.deadline and case.is_long], ids=str)
async def test_a_further_fault_ends_with_its_own_error(harness: ServiceHarness, account: str, case: Case):
    await assert_ends(harness, account, case)


DEADLINES = {
    setting: [case for case in CASES if case.deadline is not None and case.deadline[0] == setting]
    for setting in dict.fromkeys(case.deadline[0] for case in CASES if case.deadline)
}


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([case for case in cases if case.is_long is is_long], id=f"{setting}{'-more' * is_long}",
                     marks=[pytest.mark.long] * is_long)
        for setting, cases in DEADLINES.items()
        for is_long in (False, True)
        if any(case.is_long is is_long for case in cases)
    ],
)  # fmt: skip
async def test_hanging_step_ends_at_its_deadline(
    sandbox: SandboxProcess, folder: Path, unused_accounts: Iterator[str], cases: list[Case]
):
    """Only the deadline in question is short: all others would be an error of the test."""
    assert cases[0].deadline is not None
    setting, deadline = cases[0].deadline
    async with open_harness(sandbox, folder, **{setting: deadline}) as harness:
        for case in cases:
            seconds = await assert_ends(harness, next(unused_accounts), case)
            assert deadline <= seconds < deadline + SLACK, case


async def assert_ends(harness: ServiceHarness, account: str, case: Case) -> float:
    """One authorization under the fault; the seconds it took."""
    await set_faults(harness, account, case)
    began = time.monotonic()
    session = await harness.authorize(account, case.app)
    seconds = time.monotonic() - began
    assert (session["status"], session["error_code"]) == (case.status, case.code), session["error"]
    assert case.stage in (session["stage"], None)

    await harness.nothing_left(account)
    assert await harness.credential(account) is None
    assert [grant.usable for grant in await harness.admin.grants(account)] == [*case.grants]
    return seconds


@pytest.mark.long
async def test_browser_killed_from_outside_fails_its_session(harness: ServiceHarness, account: str):
    await harness.admin.set_fault("provider.consent", "hang", account=account)
    session_id = await harness.ask(account)
    await harness.reached(session_id, "consent_given")
    await harness.admin.kill_browser(await harness.profile_id(account))
    assert (await harness.ended(session_id))["error_code"] == "BROWSER_CRASHED"
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
