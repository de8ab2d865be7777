"""What a step back must not undo."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from alembic import command
from sqlalchemy import Connection, Engine, event, inspect, select, text

from app.database import Database, alembic_config
from app.models import (
    ApiKey,
    AppState,
    Credential,
    DashboardSession,
    Event,
    EventClass,
    EventDeletions,
    EventType,
    class_of,
    utc_now,
)
from app.models import AuthorizationSession as Session
from tests.fixtures.events import add_events
from tests.fixtures.factories import AddRow, new_profile, new_session

CREDENTIAL = {
    "api_app": "A",
    "provider_user_id": "1",
    "access_token": "x",
    "refresh_token": "x",
    "scopes": [],
}
PLAIN = {"scopes": ["admin"], "key_hash": "0" * 64, "created_by": "tests"}


async def test_a_step_back_from_007_revives_no_key_and_frees_none(database_url: str, database: Database):
    rows = {
        "plain": {"rate_limit_per_minute": 7, "previous_prefix": "before"},
        "revoked": {"revoked_at": utc_now()},
        "of an app": {"api_apps": ["AIOTT1"]},
        "of accounts": {"account_patterns": ["shop_*"]},
    }
    async with database.transaction() as db:
        db.add_all(ApiKey(name=name, key_id=name, prefix=name, **PLAIN | more) for name, more in rows.items())
    await database.close()
    # Alembic runs a loop of its own.
    await asyncio.to_thread(command.downgrade, alembic_config(database_url), "006")
    async with database.engine.connect() as connection:
        assert await connection.run_sync(_names) == ["plain"]
    await database.close()
    await database.migrate()
    async with database.engine.connect() as connection:
        assert await connection.run_sync(_names) == ["plain"]


async def test_the_step_to_010_ends_waits_that_older_versions_took_over_from_providers(
    database_url: str, database: Database, add_session: AddRow
):
    """PostgreSQL holds dates that Python cannot; in SQLite the last one is 9999."""
    absurd = "9999-12-31 00:00:00.000000" if database.is_sqlite else "58879-01-01 00:00:00+00"
    soon = utc_now() + timedelta(seconds=60)
    waiting = await add_session(attempts=1)
    asked = await add_session(not_before=soon, attempts=1)
    async with database.transaction() as db:
        db.add(AppState(api_app="A", limited_until=soon))
        db.add_all(Credential(account_id=name, **CREDENTIAL) for name in ("due", "refused", "unknown"))
    await database.close()
    await asyncio.to_thread(command.downgrade, alembic_config(database_url), "007")
    changes = (
        f"UPDATE app_states SET limited_until = '{absurd}'",
        f"UPDATE authorization_sessions SET not_before = '{absurd}' WHERE id = {waiting.id}",
        f"UPDATE credentials SET refresh_due_at = '{absurd}', refresh_failures = 1 WHERE account_id = 'refused'",
        f"UPDATE credentials SET token_expires_at = '{absurd}', refresh_due_at = '{absurd}' WHERE account_id = 'due'",
    )
    async with database.engine.begin() as connection:
        for change in changes:
            await connection.execute(text(change))
    await database.close()
    await database.migrate()
    async with database.reading() as db:
        assert await db.scalar(select(AppState.limited_until)) is None
        not_before = dict((await db.execute(select(Session.id, Session.not_before))).all())
        due = dict((await db.execute(select(Credential.account_id, Credential.refresh_due_at))).all())
    assert not_before == {waiting.id: None, asked.id: soon}
    assert due["refused"] < utc_now() > due["unknown"]
    assert due["due"].year == 9999


async def test_a_step_back_from_008_cuts_long_user_ids_and_keeps_the_tokens(
    database_url: str, database: Database
):
    tokens = {"access_token": "a", "scopes": [], "api_app": "AIOTT1"}
    async with database.transaction() as db:
        db.add(Credential(account_id="alice", provider_user_id="i" * 255, refresh_refusals=3, **tokens))
    await database.close()
    await asyncio.to_thread(command.downgrade, alembic_config(database_url), "007")
    await database.migrate()
    async with database.reading() as db:
        row = await db.scalar(select(Credential))
    assert row is not None
    assert (row.provider_user_id, row.refresh_refusals, row.access_token) == ("i" * 64, 0, "a")


def _names(connection: Connection) -> list[str]:
    return list(connection.scalars(text("SELECT name FROM api_keys ORDER BY name")))


async def test_step_to_009_distinguishes_the_service_from_a_key_of_its_name(
    database_url: str, database: Database
):
    async with database.transaction() as db:
        for name in ("billing", "self-healing"):
            db.add(ApiKey(name=name, key_id=f"id of {name}", prefix=name, **PLAIN))
        profile = new_profile()
        db.add(profile)
        db.add_all(
            new_session(profile, status="failed", requested_by=name)
            for name in ("billing", "self-healing", "cli", "deleted")
        )
        db.add_all(
            Event(event_type="x", actor=name)
            for name in ("billing", "self-healing", "cli", "service", "bootstrap")
        )
    await database.close()
    await asyncio.to_thread(command.downgrade, alembic_config(database_url), "007")
    await database.close()
    await database.migrate()
    async with database.reading() as db:
        by_name = select(
            Session.requested_by,
            Session.requested_by_kind,
            Session.requested_by_id,
        )
        assert {tuple(row) for row in await db.execute(by_name)} == {
            ("billing", "key", "id of billing"),
            ("self-healing", "key", "id of self-healing"),
            ("cli", "cli", None),
            ("deleted", "key", None),
        }
        by_actor = select(Event.actor, Event.actor_kind, Event.actor_id)
        assert {tuple(row) for row in await db.execute(by_actor)} == {
            ("billing", "key", "id of billing"),
            ("self-healing", "key", "id of self-healing"),
            ("cli", "cli", None),
            ("service", "service", None),
            ("bootstrap", "bootstrap", None),
        }


async def test_step_to_009_leaves_the_service_its_own_sessions(database_url: str, database: Database):
    async with database.transaction() as db:
        profile = new_profile()
        db.add(profile)
        db.add(new_session(profile, status="failed", requested_by="self-healing"))
    await database.close()
    await asyncio.to_thread(command.downgrade, alembic_config(database_url), "007")
    await database.close()
    await database.migrate()
    async with database.reading() as db:
        kinds = (await db.scalars(select(Session.requested_by_kind))).all()
    assert kinds == ["self-healing"]


class _KilledError(Exception):
    pass


async def test_step_to_009_is_repeated_after_a_kill_between_statements(database_url: str, database: Database):
    """Each try ends one statement later than the one before; what earlier ones committed stays."""
    ids = list(range(1, 100_000, 10_000))  # of ten batches
    async with database.transaction() as db:
        db.add(ApiKey(name="billing", key_id="id of billing", prefix="billing", **PLAIN))
        db.add_all(Event(id=number, event_type="x", actor="billing") for number in ids)
    await database.close()
    config = alembic_config(database_url)
    await asyncio.to_thread(command.downgrade, config, "008")
    rewritten: set[int] = set()
    for statements in range(1000):
        try:
            with _killed_before_statement(statements):
                await asyncio.to_thread(command.upgrade, config, "009")
            break
        except _KilledError:
            async with database.engine.connect() as connection:
                rewritten.add(await connection.run_sync(_rewritten_events))
            await database.close()
    assert rewritten & set(range(1, len(ids)))  # a batch that has ended stays, whatever comes after it
    async with database.reading() as db:
        by_actor = select(Event.id, Event.actor_kind, Event.actor_id).order_by(Event.id)
        rows = [tuple(row) for row in await db.execute(by_actor)]
    assert rows == [(number, "key", "id of billing") for number in ids]
    await database.close()
    await asyncio.to_thread(command.downgrade, config, "008")


@contextmanager
def _killed_before_statement(number: int) -> Iterator[None]:
    left = itertools.count(number, -1)

    def kill(*_arguments: object) -> None:
        if next(left) <= 0:
            raise _KilledError

    event.listen(Engine, "before_cursor_execute", kill)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", kill)


def _rewritten_events(connection: Connection) -> int:
    if "actor_kind" not in {column["name"] for column in inspect(connection).get_columns("events")}:
        return 0
    return connection.scalar(text("SELECT count(*) FROM events WHERE actor_kind = 'key'")) or 0


async def test_step_to_014_classifies_events_and_keeps_them(database_url: str, database: Database):
    """A step back and forth again loses none, whatever its time; their order and the next id stay."""
    now = utc_now()
    types = [*EventType, "of.an_older_version"]
    times = [now, now - timedelta(days=6), now - timedelta(days=1_000), now + timedelta(days=1_000)]
    rows = [{"event_type": each, "occurred_at": at} for each in types for at in times]
    await add_events(database, *rows)
    evicted = {"event_type": EventType.EVENTS_EVICTED, "data": {"to_event_id": 3, "count": 3}}
    await add_events(database, evicted)
    columns = (Event.id, Event.xact_id, Event.event_type, Event.occurred_at)
    async with database.reading() as db:
        before = (await db.execute(select(*columns).order_by(Event.id))).all()
    await database.close()
    await asyncio.to_thread(command.downgrade, alembic_config(database_url), "012")
    await database.migrate()
    await add_events(database, {})
    async with database.reading() as db:
        after = (await db.execute(select(*columns).order_by(Event.id))).all()
        classes = dict((await db.execute(select(Event.event_type, Event.event_class).distinct())).all())
        marks = (await db.execute(select(EventDeletions.event_class, EventDeletions.deleted_to_id))).all()
    assert after[:-1] == before
    assert after[-1].id == before[-1].id + 1
    assert classes == {each: class_of(each) for each in types}
    assert [tuple(row) for row in marks] == [(EventClass.ROUTINE, 3)]


async def test_step_back_from_018_ends_the_sign_ins_of_people(database_url: str, database: Database):
    """Without its person the older version would take one for a sign-in of the bootstrap key."""
    person = {"issuer": "https://login.example.com", "subject": "1", "person_name": "oidc:anna~1"}
    async with database.transaction() as db:
        db.add_all(
            DashboardSession(id_hash=name, expires_at=utc_now(), **values)
            for name, values in {"bootstrap": {}, "key": {"key_id": "a-key"}, "person": person}.items()
        )
    await database.close()
    await asyncio.to_thread(command.downgrade, alembic_config(database_url), "017")
    await database.migrate()
    async with database.reading() as db:
        left = (await db.scalars(select(DashboardSession.id_hash).order_by(DashboardSession.id_hash))).all()
    assert left == ["bootstrap", "key"]
