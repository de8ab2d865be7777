"""What commands do in the database of the settings and at a service: the same, by the same tests."""

import asyncio
import inspect
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from app.api.schemas.key import CreateKeyRequest
from app.api.schemas.webhook import CreateWebhookRequest, ReplayWebhookRequest
from app.cli import key_desk
from app.cli.key_desk import LocalKeys, RemoteKeys
from app.cli.reading import LocalReading
from app.cli.webhook_desk import LocalWebhooks, RemoteWebhooks
from app.cli.webhooks import create_webhook
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


@pytest.fixture(params=PLACES)
async def keys(
    request: pytest.FixtureRequest, service: Served, context: Context
) -> AsyncIterator[LocalKeys | RemoteKeys]:
    if request.param == "local":
        yield LocalKeys(context)
        return
    async with RemoteKeys(service.url, API_KEY) as remote:
        yield remote


@pytest.fixture(params=PLACES)
async def webhooks(
    request: pytest.FixtureRequest, service: Served, context: Context
) -> AsyncIterator[LocalWebhooks | RemoteWebhooks]:
    if request.param == "local":
        yield LocalWebhooks(context)
        return
    async with RemoteWebhooks(service.url, API_KEY) as remote:
        yield remote


async def test_key_lives_from_creation_to_revocation(
    keys: LocalKeys | RemoteKeys, context: Context, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(key_desk, "_PAGE", 1)
    name = secrets.token_hex(4)
    wanted = CreateKeyRequest(
        name=name, scopes={Scope.EVENTS}, account_patterns=["@Shop_*"], rate_limit_per_minute=7
    )
    first = await keys.create(wanted)
    await keys.create(CreateKeyRequest(name=f"{name}_two", scopes={Scope.EVENTS}))
    second = await keys.rotate(name, overlap=60)
    assert first != second
    with pytest.raises(REFUSALS) as under_way:
        await keys.rotate(name, overlap=60)
    assert "force" in str(under_way.value)
    second = await keys.rotate(name, overlap=60, force=True)
    (row,) = [row for row in await keys.listed(None) if row.name == name]
    assert (row.prefix, row.account_patterns, row.rate_limit_per_minute) == (second[:12], ["shop_*"], 7)
    await keys.revoke(name)
    assert name not in [row.name for row in await keys.listed(KeyStatus.ACTIVE)]
    assert await keys.listed(None) == await LocalKeys(context).listed(None)
    with pytest.raises(REFUSALS, match="No API key 'nobody'"):
        await keys.rotate("nobody", overlap=0)


async def test_a_restricted_key_makes_a_webhook_of_its_own_reach(
    service: Served, context: Context, capsys: pytest.CaptureFixture[str]
):
    wanted = CreateKeyRequest(name=secrets.token_hex(4), scopes={Scope.WEBHOOKS}, account_patterns=["team_*"])
    key = await LocalKeys(context).create(wanted)
    create = inspect.unwrap(create_webhook)
    await create("http://127.0.0.1:9/", service_url=service.url, key=key)  # type: ignore[misc]
    webhook_id = capsys.readouterr().out.split()[0]
    assert (await LocalWebhooks(context).get(webhook_id)).account_patterns == ["team_*"]
    await LocalWebhooks(context).delete(webhook_id)


async def test_webhook_lives_from_creation_to_deletion(
    webhooks: LocalWebhooks | RemoteWebhooks, context: Context
):
    async with running_receiver() as receiver:
        wanted = CreateWebhookRequest(url=receiver.url(), name="mine", account_patterns=["@Team_*"])
        webhook_id, receiver.secrets["/"] = await webhooks.create(wanted)
        made = await webhooks.get(webhook_id)
        assert (made.id, made.url, made.account_patterns) == (webhook_id, receiver.url(), ["team_*"])
        assert made in await webhooks.listed()
        assert (await webhooks.test(webhook_id)).delivered
    assert [one.body["type"] for one in receiver.taken] == ["webhook.test"]
    assert not (await webhooks.test(webhook_id)).delivered
    await webhooks.pause(webhook_id)
    assert (await webhooks.get(webhook_id)).status == "paused"
    await webhooks.resume(webhook_id)
    assert (await webhooks.get(webhook_id)).status == "active"
    assert await webhooks.rotate(webhook_id, overlap=60) != receiver.secrets["/"]
    ends_at = (await webhooks.get(webhook_id)).previous_secret_expires_at
    assert ends_at is not None
    assert ends_at < utc_now() + timedelta(minutes=2)
    with pytest.raises(REFUSALS):
        await webhooks.rotate(webhook_id, overlap=60)
    await webhooks.rotate(webhook_id, overlap=60, force=True)
    begin = ReplayWebhookRequest(since=datetime(2030, 1, 1, tzinfo=UTC))
    assert (await webhooks.replay(webhook_id, begin)).from_event_id is None
    assert await webhooks.get(webhook_id) == await LocalWebhooks(context).get(webhook_id)
    await webhooks.delete(webhook_id)
    with pytest.raises(REFUSALS, match="No webhook"):
        await webhooks.get(webhook_id)


async def test_events_are_the_same_in_both_places(service: Served, context: Context):
    """The stream goes on after its lifetime in both."""
    account, local = f"anna_{secrets.token_hex(4)}", LocalReading(context)
    for number in range(3):
        await record(context.database, number, account_id=account, api_app="AIOTT1")
    filters: StreamFilters = {"event_type": "batch.*", "account_id": account}
    async with AsyncClient(service.url, API_KEY) as remote:
        listed = [event async for event in remote.events(**filters)]
        assert [event.data["number"] for event in listed] == [2, 1, 0]
        assert [event async for event in local.events(**filters)] == listed
        opened = context.events.streams.totals.opened
        following = [
            asyncio.create_task(_first(4, place.stream_events(last_event_id="0-0", **filters)))
            for place in (local, remote)
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
