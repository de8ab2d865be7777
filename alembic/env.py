"""Alembic's entry: runs migrations on SQLite and PostgreSQL with the application's own engine rules."""

import asyncio
from typing import Any

from alembic import context
from sqlalchemy import Connection

from app.config import load_settings
from app.database import Database
from app.models import Base


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Tables of the job queue, and partitions of the events, are no models of ours."""
    return kind != "table" or not (name or "").startswith(("pgqueuer", "events_"))


def is_of_dialect(item: Any, *_others: object) -> bool:
    """Return False for an index that the other database has no need of."""
    return item.info.get("dialect", context.get_context().dialect.name) == context.get_context().dialect.name


def run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET statement_timeout = 0")  # a large table takes what it takes
        connection.commit()
    # SQLite cannot alter a table in place: batch mode copies it.
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        transaction_per_migration=True,  # no lock of one is held through the next
        compare_type=True,
        include_name=is_ours,
        include_object=is_of_dialect,
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate() -> None:
    url = context.config.attributes.get("database_url") or load_settings().database_url.get_secret_value()
    database = Database(url, pool_size=1)
    try:
        # Not begin(): in a transaction from outside, each migration would not have its own.
        async with database.engine.connect() as connection:
            await connection.run_sync(run)
    finally:
        await database.close()


if context.is_offline_mode():
    raise SystemExit("Offline mode (--sql) is not supported: run the migrations against the database")
asyncio.run(migrate())
