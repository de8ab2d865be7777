"""What a step back must not undo."""

import asyncio

from alembic import command
from sqlalchemy import Connection, select, text

from app.database import Database, alembic_config
from app.models import ApiKey, Credential, utc_now

PLAIN = {"scopes": ["admin"], "key_hash": "0" * 64, "created_by": "tests"}


async def test_a_step_back_from_007_revives_no_key_and_frees_none(database_url: str, database: Database):
    rows = {
        "plain": {"rate_limit_per_minute": 7, "previous_prefix": "before"},
        "revoked": {"revoked_at": utc_now()},
        "of an app": {"api_apps": ["AIOTT1"]},
        "of accounts": {"account_patterns": ["shop_*"]},
    }
    async with database.transaction() as session:
        session.add_all(
            ApiKey(name=name, key_id=name, prefix=name, **PLAIN | more) for name, more in rows.items()
        )
    await database.close()
    # Alembic runs a loop of its own.
    await asyncio.to_thread(command.downgrade, alembic_config(database_url), "006")
    async with database.engine.connect() as connection:
        assert await connection.run_sync(_names) == ["plain"]
    await database.close()
    await database.migrate()
    async with database.engine.connect() as connection:
        assert await connection.run_sync(_names) == ["plain"]


async def test_a_step_back_from_008_cuts_long_user_ids_and_keeps_the_tokens(
    database_url: str, database: Database
):
    tokens = {"access_token": "a", "scopes": [], "api_app": "AIOTT1"}
    async with database.transaction() as session:
        session.add(Credential(account_id="alice", provider_user_id="i" * 255, refresh_refusals=3, **tokens))
    await database.close()
    await asyncio.to_thread(command.downgrade, alembic_config(database_url), "007")
    await database.migrate()
    async with database.reading() as session:
        row = await session.scalar(select(Credential))
    assert row is not None
    assert (row.provider_user_id, row.refresh_refusals, row.access_token) == ("i" * 64, 0, "a")


def _names(connection: Connection) -> list[str]:
    return list(connection.scalars(text("SELECT name FROM api_keys ORDER BY name")))
