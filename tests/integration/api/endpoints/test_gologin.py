"""`/gologin`: the breaker as operators see and close it."""

from typing import Any

import pytest
from sqlalchemy import select

from app.database import Database
from app.models import Event
from app.services.keys.service import Scope
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.api import Api, OpenApi, answered, refused
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite")

ROUTES = [
    ("GET", "/gologin/breaker", Scope.FLEET_READ),
    ("POST", "/gologin/breaker/close", Scope.ADMIN),
]
CLOSED = {"is_open": False, "opened_at": None, "reason": None}


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
async def test_request_without_a_key_is_refused(api: Api, method: str, path: str, scope: Scope):
    del api.client.headers["X-API-Key"]
    refused(await api.client.request(method, path), 401, "UNAUTHORIZED")


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
async def test_breaker_needs_its_scope(api: Api, method: str, path: str, scope: Scope):
    headers = await api.key(*(set(Scope) - {scope, Scope.ADMIN}))
    answer = await api.client.request(method, path, headers=headers)
    assert f"'{scope}'" in refused(answer, 403, "FORBIDDEN")
    headers = await api.key(scope, name="anna")
    assert answered(await api.client.request(method, path, headers=headers)) == CLOSED


async def test_closing_a_closed_breaker_succeeds_without_an_event(api: Api, database: Database):
    assert answered(await api.client.post("/gologin/breaker/close")) == CLOSED
    async with database.reading() as db:
        assert list(await db.scalars(select(Event).where(Event.event_type.startswith("gologin.")))) == []


async def test_reason_of_an_open_breaker_is_shown_until_it_is_closed(api: Api, database: Database):
    await api.context.fleet.gate.acquire()
    await api.context.fleet.gate.open_breaker("HTTP 429 for GET /user")
    data = answered(await api.client.get("/gologin/breaker"))
    assert (data["is_open"], data["reason"]) == (True, "HTTP 429 for GET /user")
    ready = await api.client.get("/health/ready")
    assert answered(ready)["gologin_breaker"] == data
    assert answered(ready)["ready"]

    headers = await api.key(Scope.ADMIN, name="anna")
    assert answered(await api.client.post("/gologin/breaker/close", headers=headers)) == CLOSED
    assert answered(await api.client.get("/gologin/breaker")) == CLOSED
    assert answered(await api.client.get("/health/ready"))["gologin_breaker"] == CLOSED
    async with database.reading() as db:
        query = select(Event).where(Event.event_type == "gologin.breaker_closed")
        assert [event.actor for event in await db.scalars(query)] == ["anna"]


async def test_a_429_stops_the_syncs_until_it_is_closed(
    open_api: OpenApi, info: SandboxInfo, admin: SandboxAdmin
):
    async def sync(api: Api) -> Any:
        sync_id = answered(await api.client.post("/profiles/sync"), 202)["sync_id"]

        async def look() -> Any:
            data = answered(await api.client.get(f"/profiles/sync/{sync_id}"))
            return data if data["completed_at"] is not None else None

        return await eventually(look)

    settings = {
        "gologin_api_url": info.gologin_api_url,
        "gologin_api_token": info.gologin_api_token,
        "rate_limit_per_minute": 1_000_000,
    }
    await admin.clear_stats()
    await admin.set_fault("gologin.list", "rate_limited")
    async with open_api(**settings) as api:
        assert (await sync(api))["status"] == "failed"
        data = answered(await api.client.get("/gologin/breaker"))
        assert (data["is_open"], data["reason"]) == (True, "HTTP 429 for GET /browser/v2")
        for _ in range(2):
            failed = await sync(api)
            assert (failed["error_code"], failed["pages"]) == ("GOLOGIN_BREAKER_OPEN", 0)
            assert "/gologin/breaker/close" in failed["error"]
        assert (await admin.stats()).by_endpoint == {"gologin.list": 1}

        await admin.clear_faults()
        assert (await sync(api))["error_code"] == "GOLOGIN_BREAKER_OPEN"
        answered(await api.client.post("/gologin/breaker/close"))
        assert (await sync(api))["status"] == "completed"
