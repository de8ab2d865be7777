"""A row that cannot be read or changed, as an older version may have left it, keeps no other row back."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import Context
from app.database import Database
from app.models import AppState, AuthorizationSession, Credential, SessionStatus, utc_now
from app.services.authorizations import transitions
from app.services.authorizations.runs import SessionRuns
from app.utils.exceptions import DatabaseUnavailableException, TwitterAPIException
from app.utils.waits import MAX_WAIT
from sandbox.admin_client import SandboxAdmin
from tests.fixtures.factories import AddRow
from tests.fixtures.logs import LogLines, logged
from tests.fixtures.tokens import due_chains

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

LAST = datetime.max.replace(tzinfo=UTC)
FIRST = datetime.min.replace(tzinfo=UTC)


async def statuses(database: Database) -> dict[str, SessionStatus]:
    async with database.reading() as db:
        query = select(AuthorizationSession.session_id, AuthorizationSession.status)
        return dict((await db.execute(query)).all())


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("58879-01-01 00:00:00+00", LAST),
        ("infinity", LAST),
        ("-infinity", FIRST),
        ("4713-01-01 00:00:00+00 BC", FIRST),
        ("2026-11-21 08:00:00+00", datetime(2026, 11, 21, 8, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Lima"])
async def test_a_time_that_python_cannot_hold_is_read_as_the_last_or_first(
    postgresql_url: str, stored: str, read: datetime, zone: str
):
    database = Database(postgresql_url)
    async with database.transaction() as db:
        await db.execute(text(f"SET LOCAL TIME ZONE '{zone}'"))
        db.add(AppState(api_app="A"))
        await db.flush()
        await db.execute(text(f"UPDATE app_states SET limited_until = '{stored}'"))
        found = await db.scalar(select(AppState.limited_until))
    await database.close()
    assert found == read


async def test_sessions_with_a_start_in_the_year_58879_do_not_block_others(
    database: Database, context: Context, add_session: AddRow
):
    """As an older version left them: PostgreSQL's own date, SQLite's none."""
    value = "NULL" if database.is_sqlite else "'58879-01-01'"
    rows = [await add_session() for _ in range(2)]
    lost = [await add_session(status=SessionStatus.IN_PROGRESS, attempts=1) for _ in range(2)]
    expired = [await add_session(expires_at=utc_now() - timedelta(seconds=1)) for _ in range(2)]
    async with database.transaction() as db:
        bad = (rows[0].session_id, lost[0].session_id, expired[0].session_id)
        update = f"UPDATE authorization_sessions SET not_before = {value} WHERE session_id IN {bad}"
        await db.execute(text(update))
        past = utc_now() - timedelta(seconds=1)
        for row in lost:
            (await db.get(AuthorizationSession, row.id)).lease_expires_at = past
    assert await context.sessions.runs.end_expired() == 2
    assert await context.sessions.runs.recover_lost() == 2
    assert await context.sessions.runs.deliver_waiting() == (4 if database.is_sqlite else 2)


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("step", ["recover_lost", "end_expired"])
async def test_row_that_cannot_be_changed_does_not_block_others(
    database: Database,
    context: Context,
    add_session: AddRow,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: LogLines,
    step: str,
):
    past = utc_now() - timedelta(seconds=1)
    state: dict[str, Any] = (
        {"status": SessionStatus.IN_PROGRESS, "attempts": 1, "lease_expires_at": past}
        if step == "recover_lost"
        else {"expires_at": past}
    )
    rows = [await add_session(**state) for _ in range(3)]
    move = transitions.move

    def refusing(db: AsyncSession, row: AuthorizationSession, *values: Any, **named: Any) -> None:
        if row.id == rows[1].id:
            raise OverflowError("of this row alone")
        move(db, row, *values, **named)

    monkeypatch.setattr(transitions, "move", refusing)
    assert await getattr(context.sessions.runs, step)() == 2
    after = await statuses(database)
    changed = SessionStatus.PENDING if step == "recover_lost" else SessionStatus.TIMEOUT
    kept = SessionStatus.IN_PROGRESS if step == "recover_lost" else SessionStatus.PENDING
    assert [after[row.session_id] for row in rows] == [changed, kept, changed]
    (line,) = [line for line in log_lines() if line["event"] == "maintenance.row_failed"]
    assert line["row"] == str(rows[1].id)


async def test_an_outage_is_not_taken_for_a_bad_row(
    context: Context, add_session: AddRow, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(2):
        await add_session(expires_at=utc_now() - timedelta(seconds=1))

    def away(*values: Any, **named: Any) -> None:
        raise DatabaseUnavailableException("it does not answer")

    monkeypatch.setattr(transitions, "move", away)
    with pytest.raises(DatabaseUnavailableException):
        await context.sessions.runs.end_expired()


@pytest.mark.parametrize("failing", ["end_expired", "recover_lost", "deliver_waiting"])
async def test_each_step_of_the_reconciliation_fails_alone(
    context: Context, monkeypatch: pytest.MonkeyPatch, failing: str
):
    done: list[str] = []

    def step(name: str) -> Callable[[SessionRuns], Awaitable[int]]:
        async def run(self: SessionRuns) -> int:
            if name == failing:
                raise OverflowError(name)
            done.append(name)
            return 1

        run.__name__ = name
        return run

    steps = ["end_expired", "recover_lost", "deliver_waiting"]
    for name in steps:
        monkeypatch.setattr(SessionRuns, name, step(name))
    worker = context.workers.get("authorization")
    await worker.reconcile()
    assert done == [name for name in steps if name != failing]
    assert worker.status.last_error == "OverflowError"
    assert worker.status.consecutive_failures == 1


async def test_batch_that_cannot_be_reconciled_does_not_block_sessions(
    context: Context, add_session: AddRow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    await add_session()

    async def failing() -> None:
        raise OverflowError

    async def delivered() -> int:
        done.append(await deliver())
        return done[0]

    done: list[int] = []
    deliver = context.sessions.runs.deliver_waiting
    monkeypatch.setattr(context.sessions.pacing, "reconcile", failing)
    monkeypatch.setattr(context.sessions.runs, "deliver_waiting", delivered)
    worker = context.workers.get("authorization")
    await worker.reconcile()
    assert done == [1]
    assert logged(caplog, "batch.not_looked_after")


async def test_credential_that_cannot_be_taken_does_not_block_others(
    sandbox_context: Context, admin: SandboxAdmin, monkeypatch: pytest.MonkeyPatch
):
    chains = await due_chains(sandbox_context, admin, 3)
    bad = chains[1].account
    read = sandbox_context.tokens.vault.refresh_token

    def failing(row: Credential) -> Any:
        if row.account_id == bad:
            raise OverflowError
        return read(row)

    monkeypatch.setattr(sandbox_context.tokens.vault, "refresh_token", failing)
    taken = await sandbox_context.tokens.leases.take_due(10)
    assert {held.account_id for held in taken} == {chains[0].account, chains[2].account}
    row = await chains[1].active_row()
    assert (row.refresh_error_code, row.refresh_due_at > utc_now()) == ("INTERNAL_ERROR", True)


@pytest.mark.parametrize("asked", [1e12, 1e308, float("inf")])
async def test_no_wait_is_applied_above_its_ceiling(
    database: Database, context: Context, add_session: AddRow, asked: float
):
    row = await add_session()
    job = await context.sessions.runs.claim(row.session_id)
    wait = await context.sessions.runs.fail(job, TwitterAPIException(429, "x", retry_after=asked))
    assert wait == MAX_WAIT
    async with database.transaction() as db:
        await context.tokens.apps.set_limit(db, "AIOTT1", seconds=asked)
    latest = utc_now() + timedelta(seconds=MAX_WAIT + 1)
    async with database.reading() as db:
        not_before = await db.scalar(select(AuthorizationSession.not_before))
        limited_until = await db.scalar(select(AppState.limited_until))
    assert latest - timedelta(seconds=60) < not_before < latest
    assert latest - timedelta(seconds=60) < limited_until < latest
