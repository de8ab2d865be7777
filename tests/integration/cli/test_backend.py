"""Commands without `--url`: they call the API in their own process, as nobody from outside can."""

import asyncio
import inspect
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from app.cli import backend, cli
from app.cli.backend import LocalClient
from app.cli.events import list_locally
from app.cli.keys import create_key, read_keys
from app.context import Context
from app.models import ActorKind, Event
from app.services.events.filters import EventFilter
from app.services.events.queries import EXPORT_PAGE_SIZE
from app.services.keys.service import KeyService
from app.utils.exceptions import KeyNotFoundException
from tests.fixtures.api import Api, refused
from tests.fixtures.events import add_events
from tests.fixtures.services import OpenContext

pytestmark = pytest.mark.databases("sqlite")


async def test_a_local_command_is_the_actor_cli(context: Context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend, "settings", lambda: context.settings)
    await inspect.unwrap(create_key)("billing")  # type: ignore[misc]
    async with context.database.reading() as db:
        event = (await db.scalars(select(Event))).one()
    assert (event.event_type, event.actor, event.actor_kind) == ("api_key.created", "cli", ActorKind.CLI)


async def test_a_local_call_has_no_rate_limit(open_services: OpenContext):
    async with open_services(rate_limit_per_minute=1) as context, LocalClient(context) as local:
        for _ in range(3):
            assert await read_keys(local) == []


async def test_local_events_are_read_page_by_page(context: Context):
    await add_events(
        context.database, *({"data": {"number": number}} for number in range(2 * EXPORT_PAGE_SIZE + 1))
    )
    numbers = [event.data["number"] async for event in list_locally(context, EventFilter())]
    assert sorted(numbers) == list(range(2 * EXPORT_PAGE_SIZE + 1))


async def test_a_local_call_ends_at_no_deadline(context: Context, monkeypatch: pytest.MonkeyPatch):
    page = KeyService.fetch_page

    async def slow_page(*arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0.3)
        return await page(*arguments, **options)

    monkeypatch.setattr(KeyService, "fetch_page", slow_page)
    async with LocalClient(context) as local:
        monkeypatch.setattr(local, "_timeout", 0.0)
        assert await read_keys(local) == []


async def test_a_local_error_is_the_one_that_the_service_raised(context: Context):
    async with LocalClient(context) as local:
        with pytest.raises(KeyNotFoundException, match="No API key 'none'"):
            await local.call("DELETE", "/keys/none")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "not-asked-for"},
        {"X-API-Key": "cli"},
        {"X-API-Key": "", "Local-Caller": "cli", "X-Forwarded-For": "127.0.0.1"},
    ],
)
async def test_a_served_application_knows_no_local_caller(api: Api, headers: dict[str, str]):
    async with LocalClient(api.context) as local:
        assert await read_keys(local) == []
        refused(await api.client.get("/keys", headers=headers), 401, "UNAUTHORIZED")


@pytest.mark.parametrize("command", [("webhooks", "show"), ("batches", "cancel")])
def test_an_id_that_leaves_the_path_is_a_usage_error(command: tuple[str, str]):
    result = CliRunner().invoke(cli, [*command, ".."])
    assert result.exit_code == 2
    assert "is no path of the service" in " ".join(result.stderr.replace("│", " ").split())
