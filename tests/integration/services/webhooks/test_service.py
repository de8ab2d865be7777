"""The life of a webhook: replayed, paused, rotated, refused, deleted, stopped."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
import pytest_asyncio
from sqlalchemy import delete, select, update

from app.context import Context
from app.models import (
    DeliveryStatus,
    Event,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookStatus,
    utc_now,
)
from app.services.webhooks.service import WebhookChange
from app.services.workers.cleanup_worker import CleanupWorker
from app.utils.exceptions import (
    InvalidRequestException,
    RotationUnderWayException,
    TooManyWebhooksException,
    WebhookNotFoundException,
    WebhookUrlRefusedException,
)
from tests.fixtures.receiver import Received, Receiver, reply, running_receiver
from tests.fixtures.services import OpenContext
from tests.fixtures.waiting import eventually
from tests.fixtures.webhooks import (
    FAST,
    ME,
    TYPE,
    add_webhook,
    count_deliveries,
    fetch_all,
    fetch_one,
    new_worker,
    record_events,
    running_worker,
    wait_for_fanout,
    wait_until_delivered,
)

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as running:
        yield running


@pytest_asyncio.fixture
async def context(open_services: OpenContext) -> AsyncIterator[Context]:
    """A context whose webhook worker does not run."""
    async with open_services(**FAST) as opened:
        yield opened


async def test_a_replay_sends_everything_since_again_and_only_once_more(context: Context, receiver: Receiver):
    endpoint_id = await add_webhook(context, receiver)
    await record_events(context.database, *range(10))
    await record_events(context.database, *range(10), account="berta")

    async def replay(since: int | datetime) -> int | None:
        async with context.database.transaction() as db:
            return (await context.events.webhooks.replay(db, endpoint_id, ME, since=since)).from_event_id

    async with running_worker(context, batch_size=4):
        await wait_until_delivered(context.database, 20)
    event_ids = await fetch_all(context.database, select(Event.id).where(Event.event_type == TYPE))
    async with context.database.transaction() as db:  # as the retention does
        await db.execute(delete(WebhookDelivery).where(WebhookDelivery.event_id == event_ids[5]))
    for _ in range(2):
        assert await replay(event_ids[3]) == event_ids[3]
    assert await replay(utc_now() + timedelta(days=1)) is None
    async with running_worker(context, batch_size=4):
        await eventually(lambda: len(receiver.taken) == 20 + 17, 60)
        assert receiver.numbers("anna") == [*range(10), *range(3, 10)]
        assert receiver.numbers("berta") == [*range(10), *range(10)]
        assert len({got.headers["webhook-id"] for got in receiver.arrived}) == 20
        await wait_until_delivered(context.database, 20)
        assert await replay(utc_now() - timedelta(days=1))
        await eventually(lambda: len(receiver.taken) == 20 + 17 + 20, 60)
    replays = select(Event).where(Event.event_type == "webhook.replayed")
    assert [
        (event.actor, event.data["since_event"]) for event in await fetch_all(context.database, replays)
    ] == [
        ("me", event_ids[3]),
        ("me", 1),
    ]


async def test_a_paused_endpoint_gets_everything_once_it_is_resumed(context: Context, receiver: Receiver):
    endpoint_id = await add_webhook(context, receiver)
    await record_events(context.database, 1)
    await wait_for_fanout(context, 1)
    async with context.database.transaction() as db:
        await context.events.webhooks.pause(db, endpoint_id, ME)
        replay = await context.events.webhooks.replay(db, endpoint_id, ME, since=1)
    assert replay.status is WebhookStatus.PAUSED, "nothing is sent yet"
    await record_events(context.database, 2)
    worker = new_worker(context)
    assert await worker.run_once() == 0
    await worker.finish_started()
    assert receiver.arrived == []
    async with context.database.transaction() as db:
        await context.events.webhooks.resume(db, endpoint_id, ME)
    async with running_worker(context):
        await wait_until_delivered(context.database, 2)
    assert receiver.numbers("anna") == [1, 2]


@pytest.mark.parametrize(
    ("status", "hours", "reason"), [(410, 12, "410"), (500, 0.0000001, "every delivery")]
)
async def test_an_endpoint_that_is_gone_or_fails_for_too_long_is_paused_with_an_event(
    open_services: OpenContext, receiver: Receiver, status: int, hours: float, reason: str
):
    receiver.answer = lambda _: reply(status)
    async with open_services(**FAST | {"webhook_pause_after_hours": hours}) as context:
        endpoint_id = await add_webhook(context, receiver)
        await record_events(context.database, 1)

        async def paused() -> bool:
            return bool(
                await fetch_all(context.database, select(Event).where(Event.event_type == "webhook.paused"))
            )

        async with running_worker(context):
            await eventually(paused)
        row = await fetch_one(context.database, select(WebhookEndpoint))
        event = await fetch_one(context.database, select(Event).where(Event.event_type == "webhook.paused"))
        assert row.status is WebhookStatus.PAUSED
        assert reason in row.pause_reason
        assert (event.actor, event.data["webhook_id"]) == ("service", endpoint_id)
        assert await count_deliveries(context.database, DeliveryStatus.PENDING) == 1, "nothing is lost"


@pytest.mark.databases("sqlite")
async def test_a_rotated_secret_and_the_one_before_are_both_valid_for_a_while(
    context: Context, receiver: Receiver
):
    endpoint_id = await add_webhook(context, receiver)
    old = receiver.secrets["/"]
    new = await context.events.webhooks.rotate(endpoint_id, ME, overlap=timedelta(hours=1))
    assert new.get_secret_value() != old
    for secret in (old, new.get_secret_value()):
        receiver.secrets["/"] = secret
        assert (await context.events.webhooks.test(endpoint_id, ME)).succeeded
    with pytest.raises(RotationUnderWayException):
        await context.events.webhooks.rotate(endpoint_id, ME, overlap=timedelta(hours=1))
    assert (await context.events.webhooks.test(endpoint_id, ME)).succeeded, "nothing has changed"
    newest = await context.events.webhooks.rotate(endpoint_id, ME, overlap=timedelta(0), force=True)
    receiver.secrets["/"] = newest.get_secret_value()
    answer = await context.events.webhooks.test(endpoint_id, ME)
    assert answer.succeeded
    assert len(receiver.arrived[-1].headers["webhook-signature"].split()) == 1
    stored = str(await fetch_all(context.database, select(WebhookEndpoint.secret)))
    assert not any(
        secret[6:] in stored for secret in (old, new.get_secret_value(), newest.get_secret_value())
    )
    events = await fetch_all(context.database, select(Event))
    assert "whsec" not in str([event.data for event in events])


@pytest.mark.databases("sqlite")
async def test_name_that_comes_to_lead_to_a_private_address_is_refused_at_the_delivery(
    open_services: OpenContext, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    addresses = {"hooks.example.test": ["127.0.0.1"]}

    async def resolve(host: str, port: int) -> list[str]:
        return addresses[host]

    monkeypatch.setattr("app.clients.addresses.is_public", lambda address: address == "127.0.0.1")
    async with open_services(**FAST | {"webhook_allow_private_addresses": False}) as context:
        monkeypatch.setattr(context.events.webhook_client, "resolve", resolve)
        url = f"http://hooks.example.test:{receiver.port}/"
        row, _ = await context.events.webhooks.create(WebhookChange(url=url, event_types=[TYPE]), ME)
        await record_events(context.database, 1, 2)
        async with running_worker(context):
            await wait_until_delivered(context.database, 2)
            addresses["hooks.example.test"] = ["127.0.0.1", "127.0.0.2"]  # the one inside is one of several
            await record_events(context.database, 3)

            async def refused() -> bool:
                attempts = await fetch_all(context.database, select(WebhookAttempt.error))
                return any("not public" in (error or "") for error in attempts)

            await eventually(refused)
            assert len(receiver.arrived) == 2
            addresses["hooks.example.test"] = ["127.0.0.1"]
            await wait_until_delivered(context.database, 3)
        assert receiver.arrived[0].headers["host"] == f"hooks.example.test:{receiver.port}"
        addresses["hooks.example.test"] = ["127.0.0.3"]
        with pytest.raises(WebhookUrlRefusedException):
            await context.events.webhooks.create(WebhookChange(url=url), ME)
        with pytest.raises(WebhookUrlRefusedException):
            await context.events.webhooks.update(row.endpoint_id, WebhookChange(url=url), ME)


async def test_deleted_webhook_gets_nothing_and_is_forgotten(context: Context, receiver: Receiver):
    endpoint_id = await add_webhook(context, receiver)
    await record_events(context.database, 1)
    await wait_for_fanout(context, 1)
    async with context.database.transaction() as db:
        await context.events.webhooks.delete(db, endpoint_id, ME)
    row = await fetch_one(context.database, select(WebhookEndpoint))
    assert (row.secret, row.url) == ("", "")
    assert await context.events.deliveries.due_endpoints() == []
    async with context.database.reading() as db:
        with pytest.raises(WebhookNotFoundException):
            await context.events.webhooks.get(db, endpoint_id, ME)
    cleanup = context.workers.get("cleanup")
    assert isinstance(cleanup, CleanupWorker)
    assert await cleanup.run_once()
    assert await fetch_all(context.database, select(WebhookDelivery)) == []
    assert await fetch_all(context.database, select(WebhookEndpoint)) == []


async def test_number_of_webhooks_has_a_limit(open_services: OpenContext, receiver: Receiver):
    async with open_services(**FAST | {"webhook_max_endpoints": 1}) as context:
        await add_webhook(context, receiver)
        with pytest.raises(TooManyWebhooksException):
            await add_webhook(context, receiver)


@pytest.mark.databases("sqlite")
async def test_number_of_patterns_of_a_webhook_has_a_limit(context: Context, receiver: Receiver):
    patterns = [f"a_{number}" for number in range(21)]
    with pytest.raises(InvalidRequestException, match="at most 20"):
        await add_webhook(context, receiver, account_patterns=patterns)
    endpoint_id = await add_webhook(context, receiver, account_patterns=patterns[:20])
    with pytest.raises(InvalidRequestException, match="at most 20"):
        await context.events.webhooks.update(endpoint_id, WebhookChange(account_patterns=patterns), ME)


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_stop_leaves_nothing_claimed(open_services: OpenContext, receiver: Receiver):
    async with open_services(**FAST | {"webhook_concurrency": 1}) as context:
        await add_webhook(context, receiver)
        for account in "abcd":
            await record_events(context.database, 1, account=account)
        await wait_for_fanout(context, 4)
        worker = new_worker(context)

        def answer(_: Received) -> bytes:
            worker.stop()
            return reply()

        receiver.answer = answer
        await worker.run()
        assert len(receiver.arrived) == 1
        rows = await fetch_all(context.database, select(WebhookDelivery))
        assert sorted((row.status, row.lease_token) for row in rows) == [
            (DeliveryStatus.DELIVERED, None),
            *[(DeliveryStatus.PENDING, None)] * 3,
        ]


@pytest.mark.databases("sqlite")
async def test_a_secret_that_no_key_opens_pauses_its_webhook_with_an_event(
    context: Context, receiver: Receiver
):
    endpoint_id = await add_webhook(context, receiver)
    paused = select(Event.data).where(Event.event_type == "webhook.paused")
    await record_events(context.database, 1)
    async with context.database.transaction() as db:
        await db.execute(update(WebhookEndpoint).values(secret="k:nothing"))
    async with running_worker(context):
        await eventually(lambda: fetch_all(context.database, paused))
    row = await fetch_one(context.database, select(WebhookEndpoint))
    assert (row.status, row.pause_reason) == (
        WebhookStatus.PAUSED,
        "its secret opens with none of ENCRYPTION_KEYS",
    )
    assert (await fetch_one(context.database, paused))["webhook_id"] == endpoint_id
    assert await count_deliveries(context.database, DeliveryStatus.PENDING) == 1, "nothing is lost"


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_commit_wakes_the_worker(context: Context):
    worker = context.workers.get("webhooks")
    assert worker is not None
    worker._wake.clear()
    await record_events(context.database, 1)
    assert worker._wake.is_set()
