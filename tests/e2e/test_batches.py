"""Batches with real browsers: at a pace, each account with its own end, over HTTP and from the command line."""

import csv
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.database import Database
from sandbox.demo.service_process import settings_for
from sandbox.process import SandboxProcess
from tests.e2e.children import Commands, commands
from tests.e2e.harness import APP, ServiceHarness, open_harness
from tests.fixtures.batches import events_of
from tests.fixtures.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

ACCOUNTS = 8
LONG = 500
"""Seconds that a batch may take where everything else is busy, too; alone it is a few."""
PATIENT = {"max_attempts": 5, "retry_wait": 0.05}
"""What passes on a busy machine must not be taken for what a test is about."""
FAULTS = [
    ("provider.authorize", "declined", "CONSENT_DECLINED"),
    ("provider.authorize", "signed_out", "LOGIN_REQUIRED"),
    ("provider.authorize", "locked", "ACCOUNT_LOCKED"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own() -> AsyncIterator[SandboxProcess]:
    """A sandbox whose accounts are these tests' alone."""
    async with SandboxProcess(accounts=ACCOUNTS) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def _nothing_left(own: SandboxProcess) -> AsyncIterator[None]:
    """Neither a fault nor a browser, in which the next test would find its account running."""
    yield
    await own.admin.clear_faults()
    assert await eventually(lambda: no_browsers(own))


async def call(harness: ServiceHarness, method: str, path: str, **request: Any) -> dict[str, Any]:
    answer = (await harness.call(method, path, **request)).json()
    assert answer["success"], answer
    data: dict[str, Any] = answer["data"]
    return data


async def codes(harness: ServiceHarness, batch_id: str) -> dict[str, str | None]:
    """Return the error codes of the batch's rows by account."""
    answer = (await harness.call("GET", f"/batches/{batch_id}/results")).json()
    assert answer["total"] == len(answer["data"])
    return {each["account_id"]: each["error_code"] for each in answer["data"]}


async def batch_ended(harness: ServiceHarness, batch_id: str) -> dict[str, Any]:
    async def ended() -> dict[str, Any] | None:
        data = await call(harness, "GET", f"/batches/{batch_id}")
        assert data["counts"]["in_progress"] <= data["max_running"]
        return data if data["completed_at"] else None

    found = await eventually(ended, seconds=LONG)
    assert found is not None
    return found


def rows(accounts: list[str]) -> list[dict[str, str]]:
    return [{"account_id": account, "api_app": APP} for account in accounts]


async def test_each_account_of_a_batch_has_its_own_end(own: SandboxProcess, folder: Path):
    """A few are faulty."""
    async with open_harness(own, folder, **PATIENT) as harness:
        accounts = own.info.accounts
        expected = dict.fromkeys(accounts, None)
        for account, (endpoint, kind, code) in zip(accounts[1::3], FAULTS, strict=True):
            await own.admin.set_fault(endpoint, kind, account=account)
            expected[account] = code
        batch = await call(
            harness, "POST", "/authorize/batch", json={"rows": rows(accounts), "max_running": 3}
        )
        ended = await batch_ended(harness, batch["batch_id"])
        assert (ended["status"], ended["counts"]["completed"]) == ("completed", ACCOUNTS - len(FAULTS))
        assert await codes(harness, batch["batch_id"]) == expected
        assert await eventually(lambda: no_browsers(own))


async def no_browsers(sandbox: SandboxProcess) -> bool:
    return await sandbox.admin.browsers() == []


@pytest.mark.long
async def test_a_batch_whose_app_is_misconfigured_stops_early(own: SandboxProcess, folder: Path):
    apps = settings_for(own.info, folder=folder)["OAUTH_APPS"]
    secret = own.info.apps[APP].client_secret
    assert secret is not None
    wrong = apps.replace(secret, "not-the-secret-of-this-app")
    async with open_harness(own, folder, oauth_apps=wrong, app_pause_after=3, **PATIENT) as harness:
        body = {"rows": rows(own.info.accounts), "max_running": 2}
        batch = await call(harness, "POST", "/authorize/batch", json=body)
        ended = await batch_ended(harness, batch["batch_id"])
        assert ended["status"] == "stopped"
        assert ended["reason"] == "the OAuth app AIOTT1 is paused (INVALID_CLIENT 3 times in a row)"
        found = Counter((await codes(harness, batch["batch_id"])).values())
        assert found.keys() == {"INVALID_CLIENT", "BATCH_STOPPED"}
        assert 3 <= found["INVALID_CLIENT"] <= 4, "three in a row, and what ran beside the third"
        database = Database(harness.environment["DATABASE_URL"], pool_size=1)
        try:
            (stopped,) = await events_of(database, "batch.stopped")
        finally:
            await database.close()
        assert stopped.data["reason"] == ended["reason"]
        assert stopped.data["batch_id"] == batch["batch_id"]


# python -m app authorize


@pytest_asyncio.fixture(loop_scope="session")
async def runner(tmp_path: Path) -> AsyncIterator[Commands]:
    async with commands(tmp_path / "commands") as opened:
        yield opened


@pytest.fixture
def environment(own: SandboxProcess, tmp_path: Path, sqlite_url: str) -> dict[str, str]:
    own_settings = {"database_url": sqlite_url, "shutdown_grace": 10, **PATIENT}
    environment = settings_for(own.info, folder=tmp_path, **own_settings)
    given = ("CHROMEDRIVER_PATH",)
    return environment | {name: os.environ[name] for name in given if name in os.environ}


@pytest_asyncio.fixture(loop_scope="session")
async def synced(runner: Commands, environment: dict[str, str]) -> dict[str, str]:
    """The settings of a database that knows the profiles."""
    assert (await runner("worker", "run-once", "sync", environment=environment)).code == 0
    return environment


def write(path: Path, accounts: Iterator[str] | list[str]) -> Path:
    path.write_text("account_id,api_app\n" + "".join(f"@{account},{APP}\n" for account in accounts))
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
async def test_command_authorises_a_file_in_its_own_process(
    runner: Commands, synced: dict[str, str], tmp_path: Path, own: SandboxProcess
):
    good, bad = own.info.accounts[0], own.info.accounts[1]
    await own.admin.set_fault("provider.authorize", "declined", account=bad)
    file = write(tmp_path / "accounts.csv", [good, bad, "nobody"])
    ended = await runner("authorize", str(file), "--work", environment=synced)
    assert ended.code == 1
    lines = [line.split() for line in ended.output.splitlines()]
    for line in (["1", "completed"], ["1", "failed"], ["1", "rejected"], ["1", "CONSENT_DECLINED"]):
        assert line in lines, ended.output
    results = read(tmp_path / "accounts.results.csv")
    assert [(each["row"], each["account_id"], each["status"], each["error_code"]) for each in results] == [
        ("1", good, "completed", ""),
        ("2", bad, "failed", "CONSENT_DECLINED"),
        ("3", "nobody", "rejected", "PROFILE_NOT_FOUND"),
    ]
    assert list(tmp_path.glob(".*results*")) == []

    # The same file is the same batch; --again makes a new one.
    again = await runner("authorize", str(file), environment=synced)
    assert (again.code, again.output) == (1, ended.output)
    await own.admin.clear_faults()
    new = write(tmp_path / "good.csv", [good, bad])
    elsewhere = tmp_path / "out.csv"
    for arguments in ((), ("--again",)):
        ended = await runner(
            "authorize", str(new), "--work", "--results", str(elsewhere), *arguments, environment=synced
        )
        assert ended.code == 0, ended.text
    assert [each["status"] for each in read(elsewhere)] == ["completed", "completed"]
    database = Database(synced["DATABASE_URL"], pool_size=1)
    try:
        assert len(await events_of(database, "batch.requested")) == 3
    finally:
        await database.close()


@pytest.mark.long
async def test_second_run_continues_after_ctrl_c(
    runner: Commands, synced: dict[str, str], tmp_path: Path, own: SandboxProcess
):
    accounts = list(islice(own.info.accounts, 6))  # three rounds: the stop waits for one of them
    await own.admin.set_fault("provider.consent", "delay", seconds=1.5)
    file = write(tmp_path / "accounts.csv", accounts)
    command = await runner.start("authorize", str(file), "--work", "--max-running", "2", environment=synced)
    database = Database(synced["DATABASE_URL"], pool_size=1)
    try:

        async def one_is_done() -> bool:
            return len(await events_of(database, "authorization.completed")) >= 1

        await eventually(one_is_done, seconds=LONG)
        os.kill(command.pid, signal.SIGINT)
        ended = await command.ended()
        assert ended.code == 1
        assert "is not cancelled" in ended.problems
        assert "Traceback" not in ended.text
        assert not (tmp_path / "accounts.results.csv").exists()
        assert await eventually(lambda: no_browsers(own))
        done = len(await events_of(database, "authorization.completed"))
        assert done < 6
        await own.admin.clear_faults()
        ended = await runner("authorize", str(file), "--work", "--max-running", "2", environment=synced)
        assert ended.code == 0, ended.text
        assert "made it earlier" in ended.problems
        completed = await events_of(database, "authorization.completed")
    finally:
        await database.close()
    assert Counter(event.account_id for event in completed) == dict.fromkeys(accounts, 1)
    assert [each["status"] for each in read(tmp_path / "accounts.results.csv")] == ["completed"] * 6


@pytest.mark.long
async def test_a_running_service_does_the_work(own: SandboxProcess, folder: Path, tmp_path: Path):
    async with open_harness(own, folder, **PATIENT) as harness, commands(tmp_path / "commands") as runner:
        file = write(tmp_path / "accounts.csv", own.info.accounts[:3])
        ended = await runner("authorize", str(file), environment=harness.environment)
        assert ended.code == 0, ended.text
        assert "3 completed" in ended.output


async def test_a_batch_is_cancelled_by_command(
    runner: Commands, synced: dict[str, str], tmp_path: Path, own: SandboxProcess
):
    file = write(tmp_path / "accounts.csv", own.info.accounts[:4])
    command = await runner.start("authorize", str(file), environment=synced)
    database = Database(synced["DATABASE_URL"], pool_size=1)
    try:

        async def made() -> str | None:
            found = await events_of(database, "batch.requested")
            return str(found[0].data["batch_id"]) if found else None

        batch_id = await eventually(made)
    finally:
        await database.close()
    async with commands(tmp_path / "others") as others:
        cancelled = await others("batches", "cancel", str(batch_id), environment=synced)
        assert (cancelled.code, cancelled.output) == (0, f"The batch {batch_id} is cancelled.\n")
        unknown = await others("batches", "cancel", "none", environment=synced)
        assert (unknown.code, unknown.output) == (1, "")
        assert "No batch 'none'" in unknown.problems
    ended = await command.ended()
    assert ended.code == 1
    assert "cancelled (asked for by cli)" in ended.output
    assert "4 BATCH_CANCELLED" in ended.output


async def test_unusable_files_are_refused(runner: Commands, synced: dict[str, str], tmp_path: Path):
    empty = write(tmp_path / "empty.csv", [])
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("id;app\n")
    for arguments, code, said in (
        ((str(empty),), 1, "No row of the batch"),
        ((str(wrong),), 1, "missing: account_id, api_app"),
        ((str(write(tmp_path / "x.csv", ["nobody"])),), 1, "account: nobody"),
        ((str(tmp_path / "none.csv"),), 2, "does not exist"),
        ((str(empty), "--results", str(tmp_path / "none" / "out.csv")), 2, "is no folder"),
        ((str(empty), "--stop-percent", "101"), 2, "--stop-percent"),
    ):
        ended = await runner("authorize", *arguments, environment=synced)
        assert (ended.code, ended.output) == (code, ""), ended.text
        assert said in " ".join(ended.problems.replace("│", " ").split()), ended.problems
