"""Alive, and able to work: two questions."""

import asyncio

from sqlalchemy import text

from app import __version__
from app.database import Database
from tests.fixtures.api import Api, OpenApi
from tests.fixtures.waiting import eventually


async def test_health_needs_no_key_and_no_database(api: Api, database: Database):
    del api.client.headers["X-API-Key"]
    async with database.transaction() as session:
        await session.execute(text("DROP TABLE profiles"))
    response = await api.client.get("/health")
    assert response.status_code == 200
    assert response.json()["data"] == {"status": "ok", "version": __version__}


async def test_ready_when_all_workers_live(api: Api):
    del api.client.headers["X-API-Key"]
    response = await api.client.get("/health/ready")
    data = response.json()["data"]
    assert response.status_code == 200
    assert (data["ready"], data["database"]) == (True, True)
    expected = {"authorization", "sync", "cleanup", "refresh", "repair", "monitor", "webhooks"}
    assert {worker["name"] for worker in data["workers"]} == expected
    assert all(worker["alive"] for worker in data["workers"])
    assert (data["running_profiles"], data["max_concurrent_profiles"]) == (0, 10)


async def test_not_ready_when_a_worker_died(api: Api):
    group = api.context.workers
    task = next(task for task, worker in group._tasks.items() if worker.name == "monitor")
    task.cancel()
    await asyncio.wait([task])
    await eventually(lambda: not group.all_alive)
    response = await api.client.get("/health/ready")
    data = response.json()["data"]
    assert (response.status_code, data["ready"]) == (503, False)
    assert [worker["name"] for worker in data["workers"] if not worker["alive"]] == ["monitor"]


async def test_a_worker_that_fails_is_alive_and_shows_why(api: Api):
    """GoLogin cannot be reached."""
    sync = next(worker for worker in api.context.workers.workers if worker.name == "sync")
    await eventually(lambda: sync.status.consecutive_failures)
    response = await api.client.get("/health/ready")
    shown = {worker["name"]: worker for worker in response.json()["data"]["workers"]}["sync"]
    assert (shown["alive"], shown["last_error"]) == (True, "GOLOGIN_API_ERROR")


async def test_an_outage_of_the_queue_is_shown(open_api: OpenApi, postgresql_url: str):
    async with open_api(database_url=postgresql_url) as api:
        async with api.context.database.transaction() as session:
            await session.execute(text("DROP TABLE pgqueuer"))
        await eventually(lambda: not api.context.queue.is_connected)
        response = await api.client.get("/health/ready")
    data = response.json()["data"]
    assert (response.status_code, data["database"], data["queue"]) == (503, True, False)


async def test_an_api_without_workers_is_ready_by_itself(open_api: OpenApi, postgresql_url: str):
    async with open_api(database_url=postgresql_url, serve_workers=False) as api:
        response = await api.client.get("/health/ready")
    data = response.json()["data"]
    assert (response.status_code, data["workers"], data["queue"]) == (200, [], None)


async def test_the_answers_are_documented(api: Api):
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
