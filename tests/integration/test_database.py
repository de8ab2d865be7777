"""Transactions that lose nothing, hooks that run only after a commit, and a schema that is checked."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import create_engine, func, make_url, select, text
from sqlalchemy.exc import DBAPIError

from app.database import Database, after_commit, announce
from app.models import Profile
from app.utils.exceptions import DatabaseUnavailableException, SchemaOutOfDateException
from tests.fixtures.factories import new_profile


async def test_two_writers_lose_no_update(database: Database, add_profile):
    profile = await add_profile(profile_metadata={"count": 0})

    async def increment() -> None:
        async with database.transaction() as db:
            row = await db.get(Profile, profile.id, with_for_update=True)
            row.profile_metadata = {"count": row.profile_metadata["count"] + 1}

    async def writer() -> None:
        for _ in range(15):
            await increment()

    await asyncio.gather(writer(), writer())
    async with database.reading() as db:
        row = await db.get(Profile, profile.id)
    assert row.profile_metadata == {"count": 30}


async def test_two_databases_on_one_file_lose_no_update(sqlite_url: str):
    """As two processes do: nothing but the file is shared."""
    first, second = Database(sqlite_url), Database(sqlite_url)
    async with first.transaction() as db:
        db.add(new_profile(profile_id="p", profile_metadata={"count": 0}))

    async def writer(database: Database) -> None:
        for _ in range(15):
            async with database.transaction() as db:
                row = await db.get(Profile, 1)
                row.profile_metadata = {"count": row.profile_metadata["count"] + 1}

    await asyncio.gather(writer(first), writer(second))
    async with second.reading() as db:
        row = await db.get(Profile, 1)
    assert row.profile_metadata == {"count": 30}
    await first.close()
    await second.close()


async def test_a_reader_waits_for_no_writer(database: Database, add_profile):
    await add_profile(profile_name="before")
    async with database.transaction() as db:
        await db.execute(text("UPDATE profiles SET profile_name = 'after'"))
        async with asyncio.timeout(5), database.reading() as reader:
            assert await reader.scalar(text("SELECT profile_name FROM profiles")) == "before"


async def test_a_hook_runs_when_others_can_see_the_change(database: Database, database_url: str):
    other = create_engine(database_url.replace("+aiosqlite", ""))
    seen: list[int] = []

    def look() -> None:
        with other.connect() as connection:
            seen.append(connection.execute(text("SELECT count(*) FROM profiles")).scalar_one())

    async with database.transaction() as db:
        db.add(new_profile())
        after_commit(db, look)
        await db.flush()
        assert seen == []
    other.dispose()
    assert seen == [1]


async def test_a_rolled_back_change_runs_no_hook(database: Database):
    called = []
    with pytest.raises(RuntimeError):
        async with database.transaction() as db:
            after_commit(db, lambda: called.append(1))
            raise RuntimeError
    assert called == []


async def test_a_failing_hook_fails_neither_the_change_nor_the_next_hook(database: Database, caplog):
    called = []

    def fail() -> None:
        raise RuntimeError

    async with database.transaction() as db:
        db.add(new_profile(profile_id="kept"))
        after_commit(db, fail)
        after_commit(db, lambda: called.append(1))
    async with database.reading() as db:
        assert await db.scalar(text("SELECT profile_id FROM profiles")) == "kept"
    assert called == [1]
    assert "database.after_commit_failed" in caplog.text


async def test_a_database_without_tables_is_refused_with_the_way_out(empty_database_url: str):
    database = Database(empty_database_url)
    with pytest.raises(SchemaOutOfDateException, match=r"at 'None', .* run `python -m app migrate`"):
        await database.check_schema()
    await database.close()


async def test_a_database_newer_than_the_code_is_refused(database: Database):
    async with database.transaction() as db:
        await db.execute(text("UPDATE alembic_version SET version_num = '999_from_the_future'"))
    with pytest.raises(SchemaOutOfDateException, match="999_from_the_future"):
        await database.check_schema()


async def test_migrating_again_changes_nothing(database: Database):
    await database.migrate()
    await database.check_schema()


async def test_a_migrated_database_is_reachable(database: Database):
    assert await database.outage() is None


async def test_a_server_that_is_gone_is_not_reachable():
    database = Database("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    assert await database.outage() is not None
    await database.close()


@pytest.mark.parametrize("begins", ["before", "after"])
async def test_a_connection_given_back_after_the_end_is_closed(database_url: str, begins: str):
    """As by a task that was cancelled, and still rolls back while its process stops."""
    database = Database(database_url)
    if begins == "after":
        await database.close()
    async with database.reading() as db:
        driver = (await (await db.connection()).get_raw_connection()).driver_connection
        if begins == "before":
            await database.close()
        await driver.execute("SELECT 1")
    with pytest.raises((ValueError, psycopg.OperationalError), match=r"closed|no active connection"):
        await driver.execute("SELECT 1")


@pytest.mark.parametrize("cancellations", [1, 2, 3])
async def test_a_cancelled_statement_leaves_no_task_however_often_it_is_cancelled(
    database: Database, cancellations: int
):
    before, has_begun = asyncio.all_tasks(), asyncio.Event()

    async def read() -> None:
        async with database.reading() as db:
            while True:
                await db.execute(text("SELECT 1"))
                has_begun.set()

    reader = asyncio.create_task(read())
    await has_begun.wait()
    for _ in range(cancellations):
        reader.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([reader])
    async with asyncio.timeout(10):
        while left := asyncio.all_tasks() - before:
            await asyncio.wait(left)
    async with database.reading() as db:
        assert await db.scalar(text("SELECT 1")) == 1


async def test_a_naive_datetime_is_refused(database: Database):
    with pytest.raises(Exception, match="naive datetime"):
        async with database.transaction() as db:
            db.add(new_profile(last_synced=datetime(2026, 1, 1)))  # noqa: DTZ001


def test_folder_that_cannot_be_created_is_reported(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseUnavailableException, match="cannot be made: Not a directory"):
        Database(f"sqlite+aiosqlite:///{tmp_path}/file/folder/service.db")


async def test_listeners_are_called_once_for_a_commit_and_not_for_a_rollback(database: Database):
    heard: list[str] = []
    for topic in ("a", "b"):
        database.listen(topic, lambda topic=topic: heard.append(topic))

    async def change(*topics: str) -> None:
        async with database.transaction() as db:
            for topic in topics:
                announce(db, topic)
            if "fail" in topics:
                raise KeyError
            assert heard == []

    with pytest.raises(KeyError):
        await change("a", "fail")
    await change("a", "a", "unheard")
    assert heard == ["a"]


HOSTILE_DEFAULTS = {
    "datestyle": "'SQL, DMY'",
    "intervalstyle": "'iso_8601'",
    "timezone": "'Asia/Kolkata'",
    "search_path": "'pg_catalog'",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "on",
    "statement_timeout": "1",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "client_encoding": "'LATIN1'",
    "bytea_output": "'escape'",
}
"""Each is a sensible choice of somebody who shares the server."""


async def test_no_default_of_the_database_or_the_environment_changes_our_sessions(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
):
    async def settings_of(database: Database) -> tuple[dict[str, str], dict[str, str]]:
        query = f"SELECT name, setting FROM pg_settings WHERE lower(name) IN ({names})"
        async with database.reading() as db:
            pooled = {row.name: row.setting for row in await db.execute(text(query))}
        async with await database.open_connection("test") as connection:
            own = dict(await (await connection.execute(query.encode())).fetchall())
        return pooled, own

    names = ", ".join(f"'{name}'" for name in HOSTILE_DEFAULTS)
    before = Database(postgresql_url, pool_size=1)
    expected = await settings_of(before)
    async with before.engine.connect() as connection:
        name = make_url(postgresql_url).database
        for setting, value in HOSTILE_DEFAULTS.items():
            await connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET {setting} TO {value}')
        await connection.commit()
    await before.close()
    monkeypatch.setenv("PGOPTIONS", "-c datestyle=German -c search_path=pg_catalog")
    monkeypatch.setenv("PGTZ", "America/Los_Angeles")
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    database = Database(postgresql_url, pool_size=1)
    assert await settings_of(database) == expected
    await database.migrate()
    await database.check_schema()
    moment = datetime(2026, 3, 4, 5, 6, 7, 891011, tzinfo=UTC)
    async with database.transaction() as db:
        db.add(new_profile(profile_id="ü", last_synced=moment))
    async with database.reading() as db:
        row = await db.get(Profile, 1)
    assert (row.profile_id, row.last_synced) == ("ü", moment)
    await database.close()


async def test_options_of_the_url_come_on_top(postgresql_url: str):
    url = make_url(postgresql_url).update_query_dict({"options": "-c statement_timeout=1234ms"})
    database = Database(url.render_as_string(hide_password=False))
    async with database.reading() as db:
        assert await db.scalar(text("SHOW statement_timeout")) == "1234ms"
        assert await db.scalar(text("SHOW datestyle")) == "ISO, MDY"
    await database.close()


async def test_too_many_connections_are_named_with_what_the_service_needs(postgresql_url: str):
    admin = Database(postgresql_url, pool_size=1)
    async with admin.engine.begin() as connection:
        await connection.exec_driver_sql("CREATE ROLE crowded LOGIN CONNECTION LIMIT 0")
    url = make_url(postgresql_url).set(username="crowded").render_as_string(hide_password=False)
    crowded = Database(url, pool_size=5)
    try:
        with pytest.raises(DatabaseUnavailableException, match=r"too many connections.* up to 7 "):
            async with crowded.reading():
                pass
    finally:
        await crowded.close()
        async with admin.engine.begin() as connection:
            await connection.exec_driver_sql("DROP ROLE crowded")
        await admin.close()


async def test_postgresql_stores_every_character_but_nul_and_lone_surrogates(postgresql_url: str):
    """`storable` and the tests of hostile answers go by this rule."""
    everything = "".join(chr(code) for code in range(1, sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)
    database = Database(postgresql_url, pool_size=1)
    query = text("SELECT CAST(:value AS text)")
    async with database.reading() as db:
        assert await db.scalar(query, {"value": everything}) == everything
    for value in ("a\x00b", "\ud83d", "\ude00"):
        with pytest.raises((DBAPIError, UnicodeEncodeError)):
            async with database.reading() as db:
                await db.scalar(query, {"value": value})
    await database.close()


async def test_reads_of_postgresql_begin_no_transaction(postgresql_url: str):
    database = Database(postgresql_url, pool_size=1)
    async with database.reading() as db:
        await db.execute(text("SELECT 1"))
        pooled = await (await db.connection()).get_raw_connection()
        assert isinstance(pooled.driver_connection, psycopg.AsyncConnection)
        assert pooled.driver_connection.info.transaction_status is TransactionStatus.IDLE
    # The same connection, for a change: it is a transaction again.
    with pytest.raises(LookupError):
        async with database.transaction() as db:
            db.add(new_profile(profile_id="undone"))
            await db.flush()
            raise LookupError
    async with database.reading() as db:
        assert await db.scalar(select(func.count()).select_from(Profile)) == 0
    await database.close()


@pytest.mark.databases("postgresql")
async def test_connection_from_before_an_outage_is_tried_before_its_use(
    postgresql_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
):
    """The outage was seen elsewhere: by the queue's own connection, which cannot be made."""
    monkeypatch.setattr("app.database._IDLE_BEFORE_PING", 3600.0)
    tried = Database(postgresql_url, pool_size=1, direct_url="postgresql+psycopg://nobody@127.0.0.1:9/none")
    async with tried.reading() as db:
        killed = await db.scalar(text("SELECT pg_backend_pid()"))
    async with database.reading() as db:
        await db.execute(text(f"SELECT pg_terminate_backend({killed}, 60000)"))
    with pytest.raises(DatabaseUnavailableException):
        await tried.open_connection("test")
    async with tried.reading() as db:
        assert await db.scalar(text("SELECT pg_backend_pid()")) != killed
    await tried.close()


async def test_connection_is_tried_before_its_use_only_after_a_pause(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
):
    database = Database(postgresql_url, pool_size=1)
    pings = 0
    do_ping = database.engine.dialect.do_ping

    def count(connection: Any) -> bool:
        nonlocal pings
        pings += 1
        return do_ping(connection)

    monkeypatch.setattr(database.engine.dialect, "do_ping", count)
    for _ in range(3):
        async with database.reading() as db:
            await db.execute(text("SELECT 1"))
    assert pings == 0
    monkeypatch.setattr("app.database._IDLE_BEFORE_PING", 0.0)
    async with database.reading() as db:
        killed = await db.scalar(text("SELECT pg_backend_pid()"))
    assert pings == 1
    async with await database.open_connection("test") as other:
        await other.execute("SELECT pg_terminate_backend(%s, 60000)", [killed])
    async with database.reading() as db:
        assert await db.scalar(text("SELECT pg_backend_pid()")) != killed
    await database.close()
