"""Alive, and able to work: two questions."""

import asyncio

import pytest
from sqlalchemy import make_url, text

from app import __version__
from app.database import Database
from app.utils.exceptions import DatabaseUnavailableException
from tests.fixtures.api import Api, OpenApi
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite")


async def test_health_needs_no_key_and_no_database(api: Api, database: Database):
    del api.client.headers["X-API-Key"]
    async with database.transaction() as db:
        await db.execute(text("DROP TABLE profiles"))
    response = await api.client.get("/health")
    assert response.status_code == 200
    assert response.json()["data"] == {"status": "ok", "version": __version__}


@pytest.mark.databases("sqlite", "postgresql")
async def test_service_is_ready_when_all_workers_live(working_api: Api):
    del working_api.client.headers["X-API-Key"]
    response = await working_api.client.get("/health/ready")
    data = response.json()["data"]
    assert response.status_code == 200
    assert (data["ready"], data["database"]) == (True, True)
    expected = {"authorization", "sync", "cleanup", "refresh", "repair", "monitor", "webhooks", "live"}
    assert {worker["name"] for worker in data["workers"]} == expected
    assert all(worker["alive"] for worker in data["workers"])
    assert (data["running_profiles"], data["max_concurrent_profiles"]) == (0, 10)


async def test_service_is_not_ready_when_a_worker_died(working_api: Api):
    group = working_api.context.workers
    task = next(task for task in asyncio.all_tasks() if task.get_name() == "worker-monitor")
    task.cancel()
    await asyncio.wait([task])
    await eventually(lambda: not all(worker.status.alive for worker in group.started))
    response = await working_api.client.get("/health/ready")
    data = response.json()["data"]
    assert (response.status_code, data["ready"]) == (503, False)
    assert [worker["name"] for worker in data["workers"] if not worker["alive"]] == ["monitor"]


async def test_a_worker_that_fails_is_alive_and_shows_why(working_api: Api):
    """GoLogin cannot be reached."""
    sync = next(worker for worker in working_api.context.workers.workers if worker.name == "sync")
    await eventually(lambda: sync.status.consecutive_failures)
    response = await working_api.client.get("/health/ready")
    shown = {worker["name"]: worker for worker in response.json()["data"]["workers"]}["sync"]
    assert (shown["alive"], shown["last_error"]) == (True, "GOLOGIN_API_ERROR")


async def test_service_is_not_ready_when_maintenance_fails_three_times_in_a_row(
    open_api: OpenApi, database_url: str
):
    async with open_api(database_url=database_url) as api:
        async with api.context.database.transaction() as db:
            await db.execute(text("ALTER TABLE webhook_endpoints RENAME TO gone"))
        worker = api.context.workers.get("webhooks")

        def has_failed() -> bool:
            worker.wake()
            return worker.status.consecutive_failures >= 3

        await eventually(has_failed)
        status, reasons = await readiness(api)
    assert status == 503
    assert [line.partition(":")[0] for line in reasons] == ["worker webhooks"]


@pytest.mark.parametrize(
    ("pragma", "undone"),
    [
        ("query_only = ON", "query_only = OFF"),
        ("max_page_count = 1", "max_page_count = 1073741823"),
    ],
    ids=["read-only", "full"],
)
async def test_service_is_not_ready_while_sqlite_takes_no_writes(sqlite_url: str, pragma: str, undone: str):
    """The one connection refuses writes, as SQLite does on a file that it may only read, and on a full disk."""
    database = Database(sqlite_url, pool_size=1)
    async with database.reading() as db:
        await db.execute(text(f"PRAGMA {pragma}"))
    assert await database.outage() is None  # no write was tried
    with pytest.raises(DatabaseUnavailableException) as refused:
        async with database.transaction() as db:
            await db.execute(text("CREATE TABLE more (filler BLOB)"))
            await db.execute(text("INSERT INTO more VALUES (zeroblob(1000000))"))
    assert await database.outage() == refused.value.reason
    async with database.reading() as db:
        await db.execute(text(f"PRAGMA {undone}"))
    assert await database.outage() is None
    await database.close()


async def test_service_is_not_ready_when_postgresql_takes_no_writes(open_api: OpenApi, postgresql_url: str):
    async with open_api(database_url=postgresql_url, serve_workers=False) as api:
        name = make_url(postgresql_url).database
        async with api.context.database.engine.connect() as connection:
            await connection.exec_driver_sql(
                f'ALTER DATABASE "{name}" SET default_transaction_read_only TO on'
            )
            await connection.commit()
        await api.context.database.engine.dispose()
        assert await readiness(api) == (503, ["database: it takes no writes now"])


async def readiness(api: Api) -> tuple[int, list[str]]:
    response = await api.client.get("/health/ready")
    return response.status_code, response.json()["data"]["reasons"]


async def test_an_outage_of_the_queue_is_shown(open_api: OpenApi, postgresql_url: str):
    async with open_api(database_url=postgresql_url) as api:
        async with api.context.database.transaction() as db:
            await db.execute(text("DROP TABLE pgqueuer"))
        await eventually(lambda: not api.context.sessions.queue.is_connected)
        response = await api.client.get("/health/ready")
    data = response.json()["data"]
    assert (response.status_code, data["database"], data["queue"]) == (503, True, False)


async def test_an_api_without_workers_is_ready_by_itself(open_api: OpenApi, postgresql_url: str):
    async with open_api(database_url=postgresql_url, serve_workers=False) as api:
        response = await api.client.get("/health/ready")
    data = response.json()["data"]
    assert (response.status_code, data["workers"], data["queue"]) == (200, [], None)


async def test_health_answers_are_documented(api: Api):
    paths = (await api.client.get("/openapi.json")).json()["paths"]
    assert set(paths["/authorize"]["post"]["responses"]) >= {
        "202",
        "401",
        "403",
        "404",
        "413",
        "422",
        "429",
        "500",
    }
    assert set(paths["/authorize/{session_id}"]["get"]["responses"]) >= {
        "200",
        "401",
        "403",
        "404",
        "429",
        "500",
    }
