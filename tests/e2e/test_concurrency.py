"""Many at once: never more browsers than slots, never two of one profile, and foreign tabs are left alone."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from sandbox.process import SandboxProcess
from tests.e2e.harness import ServiceHarness, open_harness
from tests.e2e.processes import children_named
from tests.e2e.watcher import watched_browsers
from tests.fixtures.waiting import eventually

# One group: these browsers are enough for a machine.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("concurrency")]

SLOTS = 3


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def patient(sandbox: SandboxProcess, folder: Path) -> AsyncIterator[ServiceHarness]:
    async with open_harness(sandbox, folder, max_concurrent_profiles=SLOTS) as harness:
        yield harness


async def looks(harness: ServiceHarness, session_ids: list[str]) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(harness.session(session_id) for session_id in session_ids)))


async def test_five_sessions_never_run_more_than_three_browsers(
    patient: ServiceHarness, unused_accounts: Iterator[str]
):
    await run_at_once(patient, [next(unused_accounts) for _ in range(SLOTS + 2)], SLOTS)


@pytest.mark.long
async def test_twelve_sessions_never_run_more_than_ten_browsers(
    sandbox: SandboxProcess, folder: Path, unused_accounts: Iterator[str]
):
    """Ten is the default. All ten may start at once: starts that wait for each other keep the slots from filling."""
    async with open_harness(sandbox, folder, profile_starts_at_once=10) as harness:
        await run_at_once(harness, [next(unused_accounts) for _ in range(12)], 10)


async def run_at_once(patient: ServiceHarness, accounts: list[str], slots: int) -> None:
    """Two sessions more than there are slots: they wait, and all complete."""
    for account in accounts:  # long enough that the first ones all run at the same time
        await patient.admin.set_fault("provider.consent", "delay", account=account, seconds=4)
    async with watched_browsers(patient.sandbox.pid, str(patient.sandbox.data_dir)) as seen:
        session_ids = list(await asyncio.gather(*map(patient.ask, accounts)))

        async def all_slots_taken() -> list[dict[str, Any]] | None:
            found = await looks(patient, session_ids)
            return found if [one["status"] for one in found].count("in_progress") == slots else None

        waiting = [one for one in await eventually(all_slots_taken) if one["status"] == "pending"]
        assert sorted(one["queue_position"] for one in waiting) == [1, 2]
        assert [(one["stage"], one["attempts"]) for one in waiting] == [(None, 0), (None, 0)]
        assert len(children_named(patient.service.pid, "chromedriver")) <= 1
        ended = await asyncio.gather(*map(patient.ended, session_ids))
    assert [(one["status"], one["error"]) for one in ended] == [("completed", None)] * len(accounts)
    assert seen.most == slots
    assert seen.most_of_one_profile == 1
    for account in accounts:
        await patient.nothing_left(account)


@pytest.mark.long
async def test_no_more_profiles_start_at_once_than_the_setting_says(
    sandbox: SandboxProcess, folder: Path, unused_accounts
):
    accounts = [next(unused_accounts) for _ in range(5)]
    for account in accounts:  # long enough that all of them would start at the same time
        await sandbox.admin.set_fault("local.start", "delay", account=account, seconds=1)
    async with open_harness(sandbox, folder, profile_starts_at_once=2) as harness:
        session_ids = list(await asyncio.gather(*map(harness.ask, accounts)))
        ended = await asyncio.gather(*map(harness.ended, session_ids))
    assert [(one["status"], one["error"]) for one in ended] == [("completed", None)] * 5
    waited = [one for one in ended if "waiting_for_slot" in one["stage_seconds"]]
    assert waited
    starts = [
        record
        for record in await sandbox.admin.requests(limit=1000, endpoint="local.start")
        if record.account in accounts
    ]
    assert len(starts) == 5
    at_once = [sum(other.at <= start.at < other.at + other.seconds for other in starts) for start in starts]
    assert max(at_once) <= 2, "the gate narrows to 1 while the machine is busy"


async def test_two_sessions_of_a_profile_run_one_after_the_other(patient: ServiceHarness, account: str):
    await patient.admin.set_fault("provider.consent", "delay", account=account, seconds=1)
    folder = patient.profile_folder(await patient.profile_id(account))
    async with watched_browsers(patient.sandbox.pid, folder) as seen:
        first, second = await patient.ask(account), await patient.ask(account, "AIOTT2")
        await patient.reached(first, "consent_shown")
        waiting = await patient.session(second)
        assert (waiting["status"], waiting["queue_position"], waiting["attempts"]) == ("pending", 1, 0)
        sessions = [await patient.ended(first), await patient.ended(second)]
    assert [session["status"] for session in sessions] == ["completed", "completed"]
    assert sessions[1]["started_at"] > sessions[0]["completed_at"]
    assert (seen.most, seen.most_of_one_profile) == (1, 1)
    grants = await patient.admin.grants(account)
    assert [(grant.app, grant.usable) for grant in grants] == [("AIOTT1", True), ("AIOTT2", True)]


@pytest.mark.long
async def test_an_account_asked_four_times_at_once_never_has_two_browsers(
    patient: ServiceHarness, account: str
):
    folder = patient.profile_folder(await patient.profile_id(account))
    async with watched_browsers(patient.sandbox.pid, folder) as seen:
        asked = await asyncio.gather(*(patient.ask(account, force=True) for _ in range(4)))
        sessions = await asyncio.gather(*map(patient.ended, asked))
    assert [session["status"] for session in sessions] == ["completed"] * 4
    assert seen.most == 1
    tokens = await patient.tokens(account)
    assert await patient.owner(tokens.access_token.get_secret_value()) == account


async def test_other_tabs_are_left_alone(patient: ServiceHarness, account: str):
    """A browser that runs already, with a tab of its owner's: during the consent ours is a further one, then gone."""
    profile_id = await patient.profile_id(account)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        local = patient.sandbox.info.gologin_local_url
        started = await http.post(
            f"{local}/browser/start-profile", json={"profileId": profile_id, "sync": True}
        )
        devtools = f"http://{started.json()['wsUrl'].split('/')[2]}/json"

        async def tabs() -> dict[str, str]:
            listed = (await http.get(f"{devtools}/list")).json()
            return {tab["id"]: tab["url"] for tab in listed if tab["type"] == "page"}

        own_url = f"{patient.sandbox.info.provider_url}/account/access"
        await http.put(f"{devtools}/new?{own_url}")

        async def loaded() -> dict[str, str] | None:
            found = await tabs()
            return found if own_url in found.values() else None

        before = await eventually(loaded)
        await patient.admin.set_fault("provider.consent", "delay", account=account, seconds=1)
        await patient.admin.set_fault("provider.token", "delay", account=account, seconds=3)
        session_id = await patient.ask(account)

        await patient.reached(session_id, "consent_shown")
        during = await tabs()
        assert before.items() < during.items()
        assert len(during) == len(before) + 1

        async def ours_is_closed() -> bool:
            return await tabs() == before

        await eventually(ours_is_closed)
        assert (await patient.session(session_id))["status"] == "in_progress"
        assert (await patient.ended(session_id))["status"] == "completed"
