"""Following a batch from the command line: what is said when nobody works; results that are whole or not there."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from rich.console import Console
from sqlalchemy import select

from app import client
from app.cli import batch_watch
from app.cli.backend import LocalClient
from app.cli.batch_watch import BatchFileOptions, authorize_file, place_batch, write_results
from app.client import BatchRow
from app.client.options import BatchOptions
from app.context import Context
from app.database import Database
from app.models import AuthorizationSession, Batch, BatchStatus, utc_now
from app.services.batches.rows import RowDefaults, from_csv
from tests.fixtures.batches import add_accounts, count_rows, end_session, read_batch, under_way
from tests.fixtures.services import OpenContext
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite")


@pytest_asyncio.fixture
async def backend(open_services: OpenContext) -> AsyncIterator[LocalClient]:
    """A process of its own."""
    async with open_services() as context, LocalClient(context) as local:
        yield local


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "accounts.csv"
    path.write_text("account_id\nalice\nbob\n")
    return path


async def test_caller_without_a_running_worker_is_warned(
    backend: LocalClient, file: Path, context: Context, database: Database, monkeypatch: pytest.MonkeyPatch
):
    """The caller goes on waiting; then another process does the work."""
    monkeypatch.setattr(batch_watch, "_QUIET", 0.1)
    monkeypatch.setattr(batch_watch, "_POLL", 0.02)
    await add_accounts(database, ["alice", "bob"])
    out, said = io.StringIO(), io.StringIO()
    options = BatchFileOptions(file=file, results=file.with_suffix(".out"), api_app="AIOTT1")
    waiting = asyncio.create_task(
        authorize_file(backend, options, out=Console(file=out), err=Console(file=said, width=200))
    )
    await eventually(lambda: "--work does the work in this process" in said.getvalue(), seconds=60)
    batch_id = said.getvalue().split()[1]
    assert (await read_batch(database, batch_id)).status is BatchStatus.RUNNING

    async def is_over() -> bool:
        """Do what another process does, which may begin before the first wave is free."""
        for row in await under_way(database, batch_id):
            await end_session(context, row)
        await context.sessions.pacing.pace(batch_id)
        return waiting.done()

    await eventually(is_over)
    assert await waiting
    assert said.getvalue().count("--work") == 1
    assert "2 completed" in out.getvalue()


async def test_an_account_that_was_open_already_is_waited_for(
    backend: LocalClient, file: Path, context: Context, database: Database, monkeypatch: pytest.MonkeyPatch
):
    """The second file's batch has no session of its own."""
    monkeypatch.setattr(batch_watch, "_POLL", 0.02)
    await add_accounts(database, ["alice", "bob"])
    other = file.with_name("other.csv")
    other.write_text("account_id\nbob\nalice\n")
    waiting = []
    for path in (file, other):
        options = BatchFileOptions(file=path, results=path.with_suffix(".out"), api_app="AIOTT1")
        console = Console(file=io.StringIO())
        waiting.append(asyncio.create_task(authorize_file(backend, options, out=console, err=console)))

    async def are_placed() -> bool:
        return await count_rows(database, Batch) == 2

    await eventually(are_placed)
    async with database.reading() as db:
        rows = list(await db.scalars(select(AuthorizationSession).order_by(AuthorizationSession.id)))
    assert len(rows) == 2
    await context.sessions.pacing.reconcile()
    for row in rows:
        await end_session(context, row)
    async with asyncio.timeout(60):
        assert await asyncio.gather(*waiting) == [True, True]


async def test_a_batch_is_followed_by_its_id(
    backend: LocalClient, file: Path, context: Context, database: Database, monkeypatch: pytest.MonkeyPatch
):
    """The file may have changed, and later batches of it may exist."""
    monkeypatch.setattr(batch_watch, "_POLL", 0.02)
    await add_accounts(database, ["alice", "bob"])
    console = Console(file=(said := io.StringIO()), width=200)
    content, named = file.read_bytes(), BatchOptions(api_app="AIOTT1")
    batch_id, _ = await place_batch(backend, content, source="s", again=False, **named)
    await place_batch(backend, content, source="s", again=True, **named)
    file.write_text("")
    options = BatchFileOptions(file=file, results=file.with_suffix(".out"), batch_id=batch_id)
    waiting = asyncio.create_task(authorize_file(backend, options, out=console, err=console))
    await context.sessions.pacing.reconcile()
    for row in await under_way(database, batch_id):
        await end_session(context, row)
    await context.sessions.pacing.pace(batch_id)
    async with asyncio.timeout(60):
        assert await waiting
    assert f"Batch {batch_id}: completed" in said.getvalue()
    assert await count_rows(database, Batch) == 2


def result(number: int, **values: object) -> BatchRow:
    defaults: dict[str, object] = {
        "row": number,
        "account_id": "alice",
        "api_app": "AIOTT1",
        "session_id": "s",
        "existing": False,
        "status": "completed",
        "error_code": None,
        "error": None,
    }
    return BatchRow(**defaults | values)  # type: ignore[arg-type]


def test_results_are_written_as_a_table(tmp_path: Path):
    path = tmp_path / "results.csv"
    rejected = result(
        2, session_id=None, status=None, error_code="INVALID_REQUEST", error='say "a, b"\nagain'
    )
    write_results(path, [result(1, existing=True), rejected, result(3, status=None)])
    with path.open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert tuple(header) == batch_watch.COLUMNS
    assert [line[5] for line in lines] == ["completed", "rejected", "forgotten"]
    assert lines[0][4] == "yes"
    assert lines[1][7] == 'say "a, b"\nagain'


def test_results_that_cannot_be_written_leave_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "results.csv"
    path.write_text("old")

    def fail(_result: BatchRow) -> list[str]:
        raise OSError("the disk is full")

    monkeypatch.setattr(batch_watch, "_line", fail)
    with pytest.raises(OSError, match="full"):
        write_results(path, [result(1)])
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("results.csv", "old")]


def test_results_hold_no_formulas_and_are_read_again_as_they_were(tmp_path: Path):
    path = tmp_path / "results.csv"
    bad = ["=HYPERLINK(1)", "@@x", "-1+2", "\talice", "'=1"]
    write_results(path, [result(number, account_id=each) for number, each in enumerate(bad, start=1)])
    with path.open(newline="", encoding="utf-8") as file:
        written = [line["account_id"] for line in csv.DictReader(file)]
    assert written == [f"'{each}" for each in bad]
    again = from_csv(path.read_bytes(), RowDefaults(), max_rows=10)
    assert [row.account_id for row in again] == [each.strip() for each in bad]


def test_answers_of_a_service_control_no_terminal(tmp_path: Path):
    out, now = io.StringIO(), utc_now()
    batch = client.Batch(
        batch_id="b", status="stopped", reason="[/x]\x1b[2J[link=http://evil]a", accepted=0, rejected=0,
        max_running=1, stop_percent=1, stop_window=1, requested_by="a", created_at=now, started_at=now,
        completed_at=now, counts={}, eta_seconds=None,
    )  # fmt: skip
    batch_watch._print_summary(out=Console(file=out), batch=batch, results=[], path=tmp_path)
    assert r"([/x]\x1b[2J[link=http://evil]a)" in out.getvalue()
