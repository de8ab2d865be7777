"""What commands do in the database of the settings and at a service: the same, by the same tests."""

import asyncio
import inspect
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer

from app.api.schemas.webhook import WebhookResponse
from app.cli import backend, keys, webhooks
from app.cli.backend import LocalClient, open_backend
from app.cli.events import follow_locally
from app.client import AsyncClient, ServiceError, StreamedEvent
from app.client.options import StreamFilters
from app.context import Context
from app.models import utc_now
from app.services.keys.service import Scope
from app.services.keys.status import KeyStatus
from app.utils.exceptions import AppException
from tests.fixtures.api import API_KEY
from tests.fixtures.events import record
from tests.fixtures.receiver import running_receiver
from tests.fixtures.serving import Served
from tests.fixtures.waiting import eventually

PLACES = ("local", "remote")
REFUSALS = (AppException, ServiceError)
Place = dict[str, str | None]
Run = Callable[..., Awaitable[list[str]]]

LOCAL: Place = {"url": None, "key": None}


@pytest.fixture(params=PLACES)
def place(
    request: pytest.FixtureRequest, service: Served, context: Context, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """The options that say where a command works."""
    monkeypatch.setattr(backend, "settings", lambda: context.settings)
    return LOCAL if request.param == "local" else {"url": service.url, "key": API_KEY}


@pytest.fixture
def run(place: Place, capsys: pytest.CaptureFixture[str]) -> Run:
    """`await run(command, …)`: the words that it prints."""

    async def run(command: Callable[..., Any], *arguments: Any, **options: Any) -> list[str]:
        capsys.readouterr()
        named = {**place, **options}
        if command is webhooks.create_webhook:
            named["service_url"] = named.pop("url")
        await inspect.unwrap(command)(*arguments, **named)
        return capsys.readouterr().out.split()

    return run


async def listed_keys(place: Place, **filters: Any) -> list[Any]:
    async with open_backend(**place) as opened:
        return await keys.read_keys(opened, **filters)


async def webhook(place: Place, webhook_id: str) -> WebhookResponse:
    async with open_backend(**place) as opened:
        return WebhookResponse.model_validate(await opened.call("GET", f"/webhooks/{webhook_id}"))


async def test_a_key_from_its_making_to_its_end(run: Run, place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keys, "_PAGE_SIZE", 1)
    name = secrets.token_hex(4)
    (first,) = await run(keys.create_key, name, [Scope.EVENTS], account=["@Shop_*"], rate_limit=7)
    await run(keys.create_key, f"{name}_two", [Scope.EVENTS])
    (second,) = await run(keys.rotate_key, name, 60)
    assert first != second
    with pytest.raises(REFUSALS) as under_way:
        await run(keys.rotate_key, name, 60)
    assert "force" in str(under_way.value)
    (second,) = await run(keys.rotate_key, name, 60, force=True)
    (row,) = [row for row in await listed_keys(place) if row.name == name]
    assert (row.prefix, row.account_patterns, row.rate_limit_per_minute) == (second[:12], ["shop_*"], 7)
    await run(keys.revoke_key, name)
    assert name not in [row.name for row in await listed_keys(place, status=KeyStatus.ACTIVE)]
    assert await listed_keys(place) == await listed_keys(LOCAL)
    with pytest.raises(REFUSALS, match="No API key 'nobody'"):
        await run(keys.rotate_key, "nobody", 0)


@pytest.mark.parametrize("place", ["remote"], indirect=True)
async def test_a_restricted_key_makes_a_webhook_of_its_own_reach(run: Run, place: Place):
    (key,) = await run(keys.create_key, secrets.token_hex(4), [Scope.WEBHOOKS], account=["team_*"], **LOCAL)
    webhook_id, _ = await run(webhooks.create_webhook, "http://127.0.0.1:9/", key=key)
    assert (await webhook(LOCAL, webhook_id)).account_patterns == ["team_*"]
    await run(webhooks.delete_webhook, webhook_id, **LOCAL)


async def test_a_webhook_from_its_making_to_its_end(run: Run, place: Place):
    async with running_receiver() as receiver:
        webhook_id, receiver.secrets["/"] = await run(
            webhooks.create_webhook, receiver.url(), "mine", account=["@Team_*"]
        )
        made = await webhook(place, webhook_id)
        assert (made.id, made.url, made.account_patterns) == (webhook_id, receiver.url(), ["team_*"])
        assert webhook_id in await run(webhooks.list_webhooks)
        with pytest.raises(typer.Exit) as delivered:
            await run(webhooks.try_webhook, webhook_id)
        assert delivered.value.exit_code == 0
    assert [one.body["type"] for one in receiver.taken] == ["webhook.test"]
    with pytest.raises(typer.Exit) as lost:
        await run(webhooks.try_webhook, webhook_id)
    assert lost.value.exit_code == 1
    await run(webhooks.pause_webhook, webhook_id)
    assert (await webhook(place, webhook_id)).status == "paused"
    await run(webhooks.resume_webhook, webhook_id)
    assert (await webhook(place, webhook_id)).status == "active"
    assert await run(webhooks.rotate_webhook, webhook_id, 60 / 3600) != [receiver.secrets["/"]]
    ends_at = (await webhook(place, webhook_id)).previous_secret_expires_at
    assert ends_at is not None
    assert ends_at < utc_now() + timedelta(minutes=2)
    with pytest.raises(REFUSALS):
        await run(webhooks.rotate_webhook, webhook_id, 60 / 3600)
    await run(webhooks.rotate_webhook, webhook_id, 60 / 3600, force=True)
    told = await run(webhooks.replay_webhook, webhook_id, datetime(2030, 1, 1, tzinfo=UTC))
    assert told == ["Nothing", "to", "send", "again."]
    assert await webhook(place, webhook_id) == await webhook(LOCAL, webhook_id)
    shown = await run(webhooks.show_webhook, webhook_id)
    assert shown == await run(webhooks.show_webhook, webhook_id, **LOCAL)
    await run(webhooks.delete_webhook, webhook_id)
    with pytest.raises(REFUSALS, match="No webhook"):
        await run(webhooks.show_webhook, webhook_id)


async def test_events_are_the_same_in_both_places(service: Served, context: Context):
    """The stream goes on after its lifetime in both."""
    account = f"anna_{secrets.token_hex(4)}"
    for number in range(3):
        await record(context.database, number, account_id=account, api_app="AIOTT1")
    filters: StreamFilters = {"event_type": "batch.*", "account_id": account}
    async with AsyncClient(service.url, API_KEY) as remote, LocalClient(context) as local:
        listed = [event async for event in remote.events(**filters)]
        assert [event.data["number"] for event in listed] == [2, 1, 0]
        assert [event async for event in local.events(**filters)] == listed
        opened = context.events.streams.totals.opened
        following = [
            asyncio.create_task(_first(4, stream))
            for stream in (
                follow_locally(context, "0-0", **filters),
                remote.stream_events(last_event_id="0-0", **filters),
            )
        ]
        await eventually(lambda: context.events.streams.totals.opened >= opened + 5)
        await record(context.database, 3, account_id=account, api_app="AIOTT1")
        async with asyncio.timeout(60):
            told = await asyncio.gather(*following)
    assert told[0] == told[1]
    assert [event.data["number"] for event in told[0]] == [0, 1, 2, 3]


async def _first(count: int, events: AsyncGenerator[StreamedEvent, None]) -> list[StreamedEvent]:
    async with aclosing(events):
        return [await anext(events) for _ in range(count)]
