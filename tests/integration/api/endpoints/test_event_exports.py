"""`/events/export`: so many at once, and never a file that looks whole and is not."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from app.config import Settings
from app.context import Context
from app.services.keys.service import COMMAND_LINE, Scope
from app.utils.foreign_text import restore
from tests.fixtures.api import API_KEY, NO_PLACE, OpenApi, refused
from tests.fixtures.events import add_events
from tests.fixtures.logs import logged
from tests.fixtures.serving import Served, served
from tests.fixtures.settings import MakeSettings
from tests.fixtures.waiting import eventually

ALONE = {
    "api_key": API_KEY,
    "gologin_api_url": NO_PLACE,
    "gologin_local_url": NO_PLACE,
    "shutdown_grace": 2,
}


async def test_too_many_exports_are_refused(open_sqlite_api: OpenApi):
    async with open_sqlite_api(event_exports_per_key=1) as api:
        assert (await api.client.get("/events/export")).status_code == 200
        with api.context.events.exports.open("bootstrap"):
            response = await api.client.get("/events/export")
        refused(response, 429, "TOO_MANY_EXPORTS")
        assert response.headers["Retry-After"] == "30"
        exported = (await api.client.get("/events", params={"event_type": "events.exported"})).json()
        assert exported["total"] == 1, "a refused one is none"


@asynccontextmanager
async def filled(settings: Settings) -> AsyncIterator[tuple[Served, Context]]:
    """A service with more events than the kernel keeps for a client that takes none."""
    async with served(settings) as service:
        context: Context = service.app.state.context
        exports = context.events.exports
        exports.limits = replace(exports.limits, page_size=100)
        await add_events(context.database, *({"data": {"padding": "x" * 10_000}} for _ in range(1_500)))
        yield service, context
        await eventually(lambda: not context.events.exports.running)


async def test_an_export_is_broken_off_when_its_key_is_revoked(
    make_settings: MakeSettings, sqlite_url: str, caplog: pytest.LogCaptureFixture
):
    async with (
        filled(make_settings(database_url=sqlite_url, **ALONE)) as (service, context),
        httpx.AsyncClient(trust_env=False, timeout=60) as http,
    ):
        wanted = {"name": "own", "scopes": frozenset({Scope.EVENTS}), "caller": COMMAND_LINE}
        async with context.database.transaction() as db:
            made = await context.keys.create(db, **wanted)
        headers = {"X-API-Key": made.key.get_secret_value()}
        async with http.stream("GET", f"{service.url}/events/export", headers=headers) as answer:
            parts = answer.aiter_raw()
            size = len(await anext(parts))
            assert context.events.exports.running == ["own"]
            async with context.database.transaction() as db:
                await context.keys.revoke(db, made.row.key_id, caller=COMMAND_LINE)
            with pytest.raises(httpx.RemoteProtocolError):
                async for part in parts:
                    size += len(part)
    assert 0 < size < 15_000_000
    assert [line["reason"] for line in logged(caplog, "events.export_broken_off")] == ["access"]
    assert not logged(caplog, "http.crashed")


async def test_an_export_that_nobody_takes_is_cut_off(
    make_settings: MakeSettings, sqlite_url: str, caplog: pytest.LogCaptureFixture
):
    settings = make_settings(database_url=sqlite_url, client_stall_timeout=0.5, **ALONE)
    async with filled(settings) as (service, context):
        _, writer = await asyncio.open_connection(service.host, service.port)
        writer.write(f"GET /events/export HTTP/1.1\r\nHost: service\r\nX-API-Key: {API_KEY}\r\n\r\n".encode())
        await eventually(lambda: logged(caplog, "http.client_stalled"))
        await eventually(lambda: not context.events.exports.running)
        writer.close()
    (line,) = logged(caplog, "http.client_stalled")
    assert line["path"] == "/events/export"


async def test_an_exported_csv_holds_no_formulas(open_sqlite_api: OpenApi):
    names = {"actor": "=HYPERLINK(1)", "request_id": "-1", "profile_id": "+1", "account_id": "@a"}
    async with open_sqlite_api() as api:
        await add_events(api.context.database, names)
        wanted = {"format": "csv", "event_type": "batch.completed"}
        text = (await api.client.get("/events/export", params=wanted)).text
    (line,) = csv.DictReader(io.StringIO(text))
    assert {name: line[name] for name in names} == {name: f"'{value}" for name, value in names.items()}
    assert {name: restore(line[name]) for name in names} == names
