"""Webhooks from the event table to a real receiver: every event at least once, in order per account."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

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
    utc_now,
)
from app.services.events import order, recorder
from app.services.webhooks.fanout import WebhookFanout
from tests.fixtures.receiver import STALLED, Receiver, reply, running_receiver
from tests.fixtures.services import OpenContext
from tests.fixtures.waiting import eventually
from tests.fixtures.webhooks import (
    FAST,
    ME,
    TYPE,
    add_webhook,
    answered,
    count_deliveries,
    failing_at_first,
    fetch_all,
    fetch_one,
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


@pytest.fixture
def waits() -> list[float]:
    """Waits before the next attempts."""
    return [0.01] * 10


@pytest_asyncio.fixture
async def context(open_services: OpenContext, waits: list[float]) -> AsyncIterator[Context]:
    """A context whose webhook worker does not run."""
    async with open_services(**FAST | {"webhook_retry_waits": waits}) as opened:
        yield opened


async def test_events_are_delivered_once_in_order_and_filtered(context: Context, receiver: Receiver):
    async def is_settled() -> bool:
        async with context.database.reading() as db:
            return (await order.newest_position(db)).event_id > 0

    await record_events(context.database, 0)
    await eventually(is_settled)
    await add_webhook(context, receiver)
    await add_webhook(context, receiver, "/b", account_patterns=["b*"], api_apps=["X"])
    await add_webhook(context, receiver, "/star", event_types=["batch.*", "app.paused"])
    await add_webhook(context, receiver, "/other", event_types=["app.paused"])
    await record_events(context.database, *range(1, 16))
    await record_events(context.database, *range(1, 11), account="berta", api_app="X")
    await record_events(context.database, 5, account="berta", api_app="Y")
    await record_events(context.database, 6, account=None, api_app="X")
    async with running_worker(context):
        await wait_until_delivered(context.database, 2 * 27 + 10)
    assert receiver.numbers("anna") == receiver.numbers("anna", "/star") == list(range(1, 16))
    assert receiver.numbers("berta", "/b") == list(range(1, 11))
    assert Counter(one.path for one in receiver.arrived) == {"/": 27, "/star": 27, "/b": 10}
    attempts = await fetch_all(context.database, select(WebhookAttempt))
    assert {(each.status_code, each.error, each.answer) for each in attempts} == {(200, None, None)}


@pytest.mark.databases("postgresql")  # SQLite has one writer at a time
async def test_an_event_that_commits_late_is_not_left_out(open_services: OpenContext, receiver: Receiver):
    async with open_services(**FAST) as context:
        database = context.database
        await add_webhook(context, receiver)
        async with database.transaction() as late:
            recorder.record(late, TYPE, account_id="late", number=1)
            await late.flush()  # it has its id
            await record_events(database, 1, account="soon")
            await WebhookFanout(database=database).run_once()
            assert await fetch_all(database, select(WebhookDelivery)) == []
        async with running_worker(context):
            await wait_until_delivered(database, 2)
        assert {one.account for one in receiver.taken} == {"late", "soon"}


@pytest.mark.databases("sqlite")
async def test_faults_of_every_kind_lose_nothing_and_keep_the_order(context: Context, receiver: Receiver):
    await add_webhook(context, receiver)
    receiver.answer = lambda got: failing_at_first(got, receiver.arrived)
    for account in ("anna", "berta", "clara"):
        await record_events(context.database, *range(6), account=account)
    async with running_worker(context):
        await wait_until_delivered(context.database, 18)
    for account in ("anna", "berta", "clara"):
        assert receiver.numbers(account) == list(range(6))
    attempts = await fetch_all(context.database, select(WebhookAttempt))
    assert {500, 302, 200, None} == {attempt.status_code for attempt in attempts}
    assert len({one.headers["webhook-id"] for one in receiver.arrived}) == 18


@pytest.mark.databases("sqlite")
async def test_missing_answer_and_endless_body_end_at_the_deadline(
    open_services: OpenContext, receiver: Receiver
):
    answers = iter([None, STALLED])
    receiver.answer = lambda _: next(answers)
    async with open_services(**FAST | {"webhook_timeout": 0.3}) as context:
        await add_webhook(context, receiver)
        await record_events(context.database, 1)
        async with running_worker(context):
            await wait_until_delivered(context.database, 1)
        first, second = await fetch_all(context.database, select(WebhookAttempt).order_by(WebhookAttempt.id))
    assert (first.status_code, first.error) == (None, "No answer within 0.3 seconds")
    assert (second.status_code, second.error, second.answer) == (200, None, "hal")
    assert min(first.milliseconds, second.milliseconds) >= 290


@pytest.mark.databases("sqlite")
async def test_a_long_answer_is_cut(context: Context, receiver: Receiver):
    receiver.answer = lambda _: reply(200, b"\x00" + b"x" * 100_000)
    await add_webhook(context, receiver)
    await record_events(context.database, 1)
    async with running_worker(context):
        await wait_until_delivered(context.database, 1)
    assert (await fetch_one(context.database, select(WebhookAttempt))).answer == "x" * 2048


@pytest.mark.parametrize("waits", [[60.0] * 10])
async def test_a_delivery_that_fails_holds_back_its_account_and_no_other(
    context: Context, receiver: Receiver
):
    blocked = asyncio.Event()
    receiver.answer = lambda got: reply(500 if got.account == "anna" and not blocked.is_set() else 200)
    await add_webhook(context, receiver)
    for number in range(5):
        await record_events(context.database, number, account="anna")
        await record_events(context.database, number, account="berta")
    async with running_worker(context):
        await wait_until_delivered(context.database, 5)
        await eventually(lambda: [got.account for got in receiver.arrived].count("anna") == 1)
        pending = select(WebhookDelivery).where(WebhookDelivery.status == DeliveryStatus.PENDING)
        assert {row.attempts for row in await fetch_all(context.database, pending)} == {0, 1}
        blocked.set()
        (endpoint,) = await fetch_all(context.database, select(WebhookEndpoint.endpoint_id))
        async with context.database.transaction() as db:
            await context.events.webhooks.resume(db, endpoint, ME)
        await wait_until_delivered(context.database, 10)
    assert receiver.numbers("anna") == receiver.numbers("berta") == list(range(5))
    attempts = await fetch_all(context.database, select(WebhookDelivery.attempts))
    assert set(attempts) == {1}, "they are counted anew"


@pytest.mark.parametrize("waits", [[0.01, 0.01]])
async def test_delivery_that_always_fails_is_parked_and_does_not_block_others(
    context: Context, receiver: Receiver
):
    receiver.answer = lambda got: reply(500 if got.number == 1 else 200)
    await add_webhook(context, receiver)
    await record_events(context.database, 1, 2, 3)
    async with running_worker(context):
        await wait_until_delivered(context.database, 2)
    assert receiver.numbers("anna") == [2, 3]
    parked = await fetch_one(
        context.database, select(WebhookDelivery).where(WebhookDelivery.status == DeliveryStatus.PARKED)
    )
    assert (parked.attempts, parked.next_attempt_at, parked.completed_at is None) == (3, None, False)
    assert len(await fetch_all(context.database, select(WebhookAttempt))) == 5


async def test_delivery_whose_event_was_deleted_is_parked(context: Context, receiver: Receiver):
    await add_webhook(context, receiver)
    await record_events(context.database, 1, 2)
    await wait_for_fanout(context, 2)
    async with context.database.transaction() as db:
        first = select(WebhookDelivery.event_id).order_by(WebhookDelivery.id).limit(1).scalar_subquery()
        await db.execute(delete(Event).where(Event.id == first))
    async with running_worker(context):
        await wait_until_delivered(context.database, 1)
    assert receiver.numbers("anna") == [2]
    assert await count_deliveries(context.database, DeliveryStatus.PARKED) == 1
    unsent = await fetch_one(
        context.database, select(WebhookAttempt).where(WebhookAttempt.status_code.is_(None))
    )
    assert "the event was deleted" in unsent.error


async def test_failing_endpoint_is_tried_with_one_delivery(context: Context, receiver: Receiver):
    await add_webhook(context, receiver)
    for account in "abcdefgh":
        await record_events(context.database, 1, account=account)
    await wait_for_fanout(context, 8)
    deliveries = context.events.deliveries
    (webhook_id,) = await deliveries.due_endpoints()
    async with context.database.transaction() as db:
        await db.execute(update(WebhookEndpoint).values(failing_since=utc_now()))
    (trial,) = await deliveries.claim(webhook_id, under_way=0) or []
    assert trial.is_trial
    assert await deliveries.claim(webhook_id, under_way=1) is None
    async with context.database.transaction() as db:
        await db.execute(update(WebhookEndpoint).values(failing_since=None))
    assert len(await deliveries.claim(webhook_id, under_way=1) or []) == deliveries.limits.concurrency - 1


@pytest.mark.databases("sqlite")
async def test_slow_endpoint_delays_no_other(open_services: OpenContext):
    async with (
        running_receiver() as slow,
        running_receiver() as fast,
        open_services(**FAST | {"webhook_timeout": 60, "webhook_concurrency": 2}) as context,
    ):
        slow.answer = lambda _: None
        await add_webhook(context, slow)
        await add_webhook(context, fast)
        for account in "abcdef":
            await record_events(context.database, *range(5), account=account)
        async with running_worker(context, drain=False):  # the slow one's deadline would be waited for
            await eventually(lambda: len(fast.taken) == 30, 30)
            await eventually(lambda: len(slow.arrived) == 2)
            await record_events(context.database, 5, account="a")
            await eventually(lambda: len(fast.taken) == 31)
            assert len(slow.arrived) == 2, "as many at once as an endpoint may have"


@pytest.mark.databases("sqlite", "postgresql")
async def test_two_processes_share_the_work_and_keep_the_order(
    open_services: OpenContext, receiver: Receiver
):
    settings, accounts = FAST | {"webhook_concurrency": 1}, ("anna", "berta", "clara", "dora", "emma", "finn")
    async with open_services(**settings) as first, open_services(**settings) as second:
        await add_webhook(first, receiver)
        receiver.answer = lambda got: failing_at_first(got, receiver.arrived)
        async with running_worker(first, second):
            for number in range(6):
                for account in accounts:
                    await record_events(first.database, number, account=account)
            await wait_until_delivered(first.database, 36)
    for account in accounts:
        assert receiver.first_numbers(account) == list(range(6))


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_lease_that_was_lost_changes_nothing(context: Context, receiver: Receiver):
    await add_webhook(context, receiver)
    await record_events(context.database, 1)
    deliveries = context.events.deliveries
    await wait_for_fanout(context, 1)
    (webhook_id,) = await deliveries.due_endpoints()
    (claim,) = await deliveries.claim(webhook_id, under_way=0) or []
    assert await deliveries.claim(webhook_id, under_way=0) is None, "it is claimed"
    assert await deliveries.due_endpoints() == []
    async with context.database.transaction() as db:
        await db.execute(update(WebhookDelivery).values(lease_expires_at=utc_now() - timedelta(seconds=1)))
    (again,) = await deliveries.claim(webhook_id, under_way=0) or []
    answer = answered(200)
    assert not await deliveries.renew(claim)
    assert await deliveries.renew(again)
    await deliveries.apply(webhook_id, [(claim, answer)])
    assert await count_deliveries(context.database, DeliveryStatus.PENDING) == 1
    await deliveries.apply(webhook_id, [(again, answer)])
    assert await count_deliveries(context.database, DeliveryStatus.DELIVERED) == 1
    assert len(await fetch_all(context.database, select(WebhookAttempt))) == 1
