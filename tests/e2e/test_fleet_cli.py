"""The fleet's commands as an operator meets them: exit codes, what they print, and no traceback."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import func, select

from app.database import Database
from app.models import Event, Profile, ProfileSync, SyncStatus
from app.services.shared.import_files import MAX_IMPORT_BYTES
from sandbox.demo.service_process import settings_for
from sandbox.process import SandboxProcess
from sandbox.state import profile_id_of
from tests.e2e.children import CommandResult, Commands, commands
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

ACCOUNTS = 35
Run = Callable[..., Awaitable[CommandResult]]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def quiet() -> AsyncIterator[SandboxProcess]:
    async with SandboxProcess(accounts=ACCOUNTS) as sandbox:
        yield sandbox


@pytest.fixture
def environment(quiet: SandboxProcess, tmp_path: Path, sqlite_url: str) -> dict[str, str]:
    return settings_for(quiet.info, folder=tmp_path, database_url=sqlite_url)


@pytest_asyncio.fixture
async def runner(tmp_path: Path) -> AsyncIterator[Commands]:
    async with commands(tmp_path / "commands") as opened:
        yield opened


@pytest.fixture
def run(runner: Commands, environment: dict[str, str]) -> Run:
    """`await run("gologin", "check", PORT=1)`: the command's end, with settings changed."""
    return lambda *arguments, **changes: runner(
        *map(str, arguments), environment=environment | {name: str(value) for name, value in changes.items()}
    )


@pytest_asyncio.fixture
async def database(sqlite_url: str) -> AsyncIterator[Database]:
    opened = Database(sqlite_url, pool_size=1)
    yield opened
    await opened.close()


@pytest_asyncio.fixture(autouse=True)
async def _no_faults(quiet: SandboxProcess) -> AsyncIterator[None]:
    yield
    await quiet.admin.clear_faults()


async def count(database: Database, *conditions: object) -> int:
    async with database.reading() as db:
        return await db.scalar(select(func.count()).where(*conditions)) or 0


def id_of(number: int) -> str:
    return profile_id_of(f"sandbox_{number:03d}")


# worker run-once


async def test_sync_command_reads_the_fleet(run: Run, database: Database):
    for _ in range(2):  # due or not
        ended = await run("worker", "run-once", "sync")
        assert (ended.code, ended.output) == (0, "")
        assert '"event": "profiles.synced"' in ended.problems
    assert await count(database, Profile.is_active) == ACCOUNTS
    assert await count(database, ProfileSync.status == SyncStatus.COMPLETED) == 2


@pytest.mark.parametrize(("name", "event"), [("cleanup", "cleanup.done"), ("monitor", "monitor.snapshot")])
async def test_other_workers_run_once_by_command(run: Run, name: str, event: str):
    ended = await run("worker", "run-once", name)
    assert (ended.code, ended.output) == (0, "")
    assert f'"event": "{event}"' in ended.problems


async def test_unknown_worker_is_refused(run: Run):
    for name in ("synch", "authorization"):
        ended = await run("worker", "run-once", name)
        assert (ended.code, ended.output) == (2, "")
        unboxed = " ".join(ended.problems.replace("│", " ").split())
        assert "sync, cleanup, repair, monitor" in unboxed


async def test_sync_that_gologin_refuses_fails(run: Run, quiet: SandboxProcess):
    await quiet.admin.set_fault("gologin.list", "status", status=401)
    ended = await run("worker", "run-once", "sync")
    assert (ended.code, ended.output) == (1, "")
    assert ended.problems.splitlines()[-1].startswith("GoLogin API error (401)")


async def test_sync_is_refused_while_another_process_runs_one(
    runner: Commands,
    run: Run,
    environment: dict[str, str],
    tmp_path: Path,
    quiet: SandboxProcess,
    database: Database,
):
    await quiet.admin.set_fault("gologin.list", "hang")
    async with commands(tmp_path / "other") as other:
        patient = environment | {"GOLOGIN_API_TIMEOUT": "120"}
        hanging = await other.start("worker", "run-once", "sync", environment=patient)

        async def has_begun() -> bool:
            return await count(database, ProfileSync.status == SyncStatus.RUNNING) == 1

        await eventually(has_begun)
        ended = await run("worker", "run-once", "sync")
        assert (ended.code, ended.output) == (1, "")
        assert (
            ended.problems.splitlines()[-1] == "Another process runs 'sync' now; try again when it has ended."
        )
        assert (await run("worker", "run-once", "monitor")).code == 0, "only the same worker is kept from it"
        os.kill(hanging.pid, signal.SIGINT)
        stopped = await hanging.ended()
    assert stopped.code not in (0, None)
    assert "Traceback" not in stopped.text
    # Stopped in the middle: the turn is free at once, and the pass is told as cut off.
    await quiet.admin.clear_faults()
    assert (await run("worker", "run-once", "sync")).code == 0
    assert await count(database, ProfileSync.error_code == "INTERRUPTED") == 1


# profiles import, profiles export


async def test_links_are_imported_and_exported(run: Run, database: Database, tmp_path: Path):
    await run("worker", "run-once", "sync")
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(
        "profile_id,twitter_username,api_app\n"
        f"{id_of(1)},@First_One,AIOTT1\n"
        f"{id_of(2)},second,\n"
        "no-such-profile,third,\n"
        f"{id_of(4)},not a handle,\n"
        ",fifth,\n"
        f"{id_of(6)},second,\n",
        encoding="utf-8-sig",  # as spreadsheets write it
    )
    ended = await run("profiles", "import", source)
    assert (ended.code, ended.output) == (1, "2 linked, 4 bad lines\n")
    reports = [line for line in ended.problems.splitlines() if line.startswith("line ")]
    assert [line.partition(":")[0] for line in reports] == ["line 4", "line 5", "line 6", "line 7"]
    assert "no-such-profile" in reports[0]
    assert "second" in reports[3]

    ended = await run("profiles", "export", target)
    assert (ended.code, ended.output) == (0, f"2 written to {target}\n")
    assert target.read_text().splitlines() == [
        "profile_id,twitter_username,api_app",
        f"{id_of(1)},first_one,AIOTT1",
        f"{id_of(2)},second,",
    ]
    assert (await run("profiles", "import", target)).output == "2 linked, 0 bad lines\n"
    assert (await run("profiles", "export", target, "--all")).output == f"{ACCOUNTS} written to {target}\n"
    assert await count(database, Profile.is_linked) == 2


async def test_unusable_links_file_is_refused(run: Run, tmp_path: Path):
    missing = await run("profiles", "import", tmp_path / "none.csv")
    assert (missing.code, missing.output) == (2, "")
    (tmp_path / "other.csv").write_text("id;handle\n")
    wrong = await run("profiles", "import", tmp_path / "other.csv")
    assert (wrong.code, wrong.output) == (1, "")
    assert "profile_id" in wrong.problems
    (tmp_path / "latin.csv").write_bytes("profile_id,twitter_username\nx,Müller\n".encode("latin-1"))
    unreadable = await run("profiles", "import", tmp_path / "latin.csv")
    assert (unreadable.code, unreadable.output) == (2, "")
    assert "UTF-8" in unreadable.problems
    (tmp_path / "nul.csv").write_text("profile_id,twitter_username\nx\0y,anna\nx\ry,berta\n", newline="")
    odd = await run("profiles", "import", tmp_path / "nul.csv")
    assert (odd.code, odd.output) == (1, "0 linked, 3 bad lines\n")
    assert [line[:7] for line in odd.problems.splitlines() if line] == ["line 2:", "line 3:", "line 4:"]
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(MAX_IMPORT_BYTES + 1)
    large = await run("profiles", "import", tmp_path / "large.csv")
    assert (large.code, large.output) == (1, "")
    assert "64 MB at most" in large.problems


async def test_export_to_an_unwritable_place_is_refused(run: Run, tmp_path: Path):
    ended = await run("profiles", "export", tmp_path / "no-such-folder" / "out.csv")
    assert (ended.code, ended.output) == (2, "")
    assert "cannot be written" in ended.problems


# gologin check, gologin close-breaker


async def test_working_gologin_token_is_confirmed(run: Run):
    ended = await run("gologin", "check")
    assert (ended.code, ended.output) == (0, "GoLogin accepts the API token.\n")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"GOLOGIN_API_TOKEN": "no-such-token"}, "GoLogin API error (401)"),
        ({"GOLOGIN_API_URL": "http://127.0.0.1:1"}, "cannot be reached"),
    ],
)
async def test_wrong_gologin_token_is_reported(run: Run, changes: dict[str, str], said: str):
    ended = await run("gologin", "check", **changes)
    assert (ended.code, ended.output) == (1, "")
    assert said in ended.problems.splitlines()[-1]
    assert "no-such-token" not in ended.text


async def test_a_limit_opens_the_breaker_until_it_is_closed(
    run: Run, database: Database, quiet: SandboxProcess
):
    assert (await run("gologin", "close-breaker")).output == "The breaker was not open.\n"
    await quiet.admin.set_fault("gologin.user", "rate_limited", times=1)
    assert (await run("gologin", "check")).code == 1
    await quiet.admin.clear_stats()
    for command in (("gologin", "check"), ("worker", "run-once", "sync")):
        ended = await run(*command)
        assert (ended.code, ended.output) == (1, "")
        assert "breaker" in ended.problems.splitlines()[-1]
    assert (await quiet.admin.stats()).by_endpoint == {}
    ended = await run("gologin", "close-breaker")
    assert (ended.code, ended.output) == (0, "The breaker is closed.\n")
    assert (await run("gologin", "check")).code == 0
    async with database.reading() as db:
        actor = await db.scalar(select(Event.actor).where(Event.event_type == "gologin.breaker_closed"))
    assert actor == "cli"
