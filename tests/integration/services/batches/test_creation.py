"""A batch is stored by few statements, as whole as if its sessions had been asked for one by one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, text

from app.context import Context
from app.database import Database
from app.models import AuthorizationSession, Batch, BatchRow, Event
from app.services.authorizations.requests import AuthorizationCommand
from app.services.shared import bulk_insert
from tests.fixtures.batches import account_names, add_accounts, count_rows, input_rows, place_batch
from tests.fixtures.factories import CALLER

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

OF_A_CHUNK = ["FROM profiles", "INTO authorization_sessions", "INTO events", "INTO batch_rows"]
DIFFERENT = {"id", "session_id", "twitter_username", "batch_id", "is_held", "xact_id"}
"""Columns in which a session, or its event, is allowed to differ from another one."""
TIMES = {"created_at", "updated_at", "expires_at", "occurred_at"}


@contextmanager
def collected_statements(database: Database) -> Iterator[list[str]]:
    statements: list[str] = []

    def collect(
        _connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, is_many: bool
    ) -> None:
        assert not is_many
        statements.append(statement)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", collect)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", collect)


@pytest.mark.databases("sqlite", "postgresql")
async def test_number_of_statements_grows_by_four_for_a_thousand_rows(
    context: Context, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bulk_insert, "MAX_ROWS", 10)
    context.sessions.batches.limits = replace(context.sessions.batches.limits, chunk_size=10)
    accounts = account_names(60)
    await add_accounts(context.database, accounts)
    monkeypatch.setattr(context.sessions.pacing, "wake", lambda _batch_id: None)
    counts = []
    for first, last in ((0, 10), (10, 20), (20, 60)):
        with collected_statements(context.database) as statements:
            await place_batch(context, input_rows(*accounts[first:last]))
        counts.append(len(statements))
        for words in OF_A_CHUNK:
            own = words == "INTO events"  # the batch's, beside its sessions'
            assert sum(words in each for each in statements) == (last - first) // 10 + own, words
    assert counts[1] == counts[0]
    assert counts[2] == counts[0] + 3 * len(OF_A_CHUNK)


async def test_session_of_a_batch_is_stored_like_one_alone(context: Context, database: Database):
    """To the types of the values: on SQLite a column takes any."""
    await add_accounts(database, ["alone", "batched"])
    async with database.transaction() as db:
        alone = await context.sessions.authorizations.request(
            db, AuthorizationCommand("alone", "AIOTT1", priority=7), caller=CALLER
        )
    await place_batch(context, [replace(input_rows("batched")[0], priority=7)])
    for table in ("authorization_sessions", "events"):
        account = "twitter_username" if table == "authorization_sessions" else "account_id"
        query = text(f"SELECT * FROM {table} WHERE {account} = :account")
        async with database.reading() as db:
            rows = [
                (await db.execute(query, {"account": name})).mappings().one() for name in ("alone", "batched")
            ]
        for name in rows[0].keys() - DIFFERENT - {account}:
            one, other = (row[name] for row in rows)
            assert type(one) is type(other), name
            if name in TIMES:
                assert len(str(one)) == len(str(other)), name
            elif name == "queue_rank":
                assert abs(one - other) < 60
            elif name not in ("profile_id", "request_id"):
                assert _without_spaces(one) == _without_spaces(other), name
    assert alone.is_new


def _without_spaces(value: object) -> object:
    return value.replace(" ", "") if isinstance(value, str) else value


async def test_failure_in_the_last_chunk_leaves_nothing(
    context: Context, database: Database, monkeypatch: pytest.MonkeyPatch
):
    context.sessions.batches.limits = replace(context.sessions.batches.limits, chunk_size=4)
    await add_accounts(database, account_names(10))
    insert_rows = bulk_insert.insert_rows

    async def fail_at_results(db: Any, model: Any, rows: Any, **options: Any) -> None:
        await insert_rows(db, model, rows, **options)
        if model is BatchRow:
            raise ConnectionError

    monkeypatch.setattr(bulk_insert, "insert_rows", fail_at_results)
    with pytest.raises(ConnectionError):
        await place_batch(context, input_rows(*account_names(10)), key="k")
    for table in (Batch, BatchRow, AuthorizationSession, Event):
        assert await count_rows(database, table) == 0
    monkeypatch.undo()
    assert (await place_batch(context, input_rows(*account_names(10)), key="k")).is_new
