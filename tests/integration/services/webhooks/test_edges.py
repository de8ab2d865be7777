"""One result, one endpoint or one lost row changes nothing for the rest."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sqlalchemy import delete, select, update

from app.context import Context
from app.models import (
    DeliveryStatus,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookStatus,
    utc_now,
)
from app.services.webhooks.deliveries import Claim
from app.services.webhooks.service import WebhookChange
from tests.fixtures.costs import statements_of
from tests.fixtures.receiver import Receiver, reply, running_receiver
from tests.fixtures.services import OpenContext
from tests.fixtures.webhooks import (
    FAST,
    ME,
    add_webhook,
    answered,
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
    """Its webhook worker does not run."""
    async with open_services(**FAST | {"webhook_retry_waits": [60.0]}) as opened:
        yield opened


async def claimed(context: Context) -> tuple[int, list[Claim]]:
    deliveries = context.events.deliveries
    (row_id,) = await deliveries.due_endpoints()
    return row_id, await deliveries.claim(row_id, under_way=0) or []


@pytest.mark.parametrize("by", ["resume", "event"])
async def test_queue_of_an_account_continues_after_its_first_delivery_was_deleted(
    context: Context, receiver: Receiver, by: str
):
    endpoint_id = await add_webhook(context, receiver)
    await record_events(context.database, 1, 2, 3)
    await record_events(context.database, 1, account="berta")
    await wait_for_fanout(context, 4)
    first = (WebhookDelivery.account_id == "anna", WebhookDelivery.next_attempt_at.is_not(None))
    async with context.database.transaction() as db:
        await db.execute(delete(WebhookDelivery).where(*first))
        if by == "resume":
            await context.events.webhooks.resume(db, endpoint_id, ME)
    if by == "event":
        await record_events(context.database, 4)
        await wait_for_fanout(context, 4)
    _, claims = await claimed(context)
    assert sorted(claim.message.body.count('"account_id":"anna"') for claim in claims) == [0, 1]
    due = select(WebhookDelivery).where(*first)
    pending = select(WebhookDelivery.event_id).where(WebhookDelivery.account_id == "anna")
    assert (await fetch_one(context.database, due)).event_id == min(
        await fetch_all(context.database, pending)
    )


@pytest.mark.parametrize("change", ["move", "pause"])
@pytest.mark.parametrize("status", [410, 500])
async def test_late_result_of_a_changed_endpoint_is_dropped(
    context: Context, receiver: Receiver, change: str, status: int
):
    endpoint_id = await add_webhook(context, receiver)
    await record_events(context.database, 1)
    await wait_for_fanout(context, 1)
    row_id, (claim,) = await claimed(context)
    if change == "move":
        await context.events.webhooks.update(endpoint_id, WebhookChange(url=receiver.url("/new")), ME)
    else:
        for action in (context.events.webhooks.pause, context.events.webhooks.resume):
            async with context.database.transaction() as db:
                await action(db, endpoint_id, ME)
    await context.events.deliveries.apply(row_id, [(claim, answered(status))])
    row = await fetch_one(context.database, select(WebhookEndpoint))
    assert (row.status, row.failing_since) == (WebhookStatus.ACTIVE, None)
    assert (await fetch_one(context.database, select(WebhookAttempt))).status_code == status


async def test_a_new_url_does_not_inherit_the_failures_of_the_old_one(context: Context, receiver: Receiver):
    endpoint_id = await add_webhook(context, receiver)
    async with context.database.transaction() as db:
        await db.execute(update(WebhookEndpoint).values(failing_since=utc_now()))
    assert (await context.events.webhooks.update(endpoint_id, WebhookChange(name="same"), ME)).failing_since
    moved = await context.events.webhooks.update(endpoint_id, WebhookChange(url=receiver.url("/new")), ME)
    assert moved.failing_since is None


async def test_refused_delivery_holds_back_its_account_alone(context: Context, receiver: Receiver):
    receiver.answer = lambda got: reply(400 if str(got.account).startswith("bad") else 200)
    await add_webhook(context, receiver)
    for number in range(12):
        await record_events(context.database, 1, 2, account=f"bad{number}")
    await wait_for_fanout(context, 24)
    async with context.database.transaction() as db:
        await db.execute(update(WebhookEndpoint).values(failing_since=utc_now()))
    await record_events(context.database, 1, account="good")
    await wait_for_fanout(context, 25)
    async with running_worker(context, poll_interval=600.0):  # a pause would be seen
        await wait_until_delivered(context.database, 1)
    assert len(receiver.arrived) == 13


async def test_an_endpoint_that_refuses_everything_is_paused_in_the_end(context: Context, receiver: Receiver):
    await add_webhook(context, receiver)
    await record_events(context.database, 1)
    await wait_for_fanout(context, 1)
    row_id, (claim,) = await claimed(context)
    deliveries = context.events.deliveries
    began = utc_now() - deliveries.limits.pause_after
    async with context.database.transaction() as db:
        await db.execute(
            update(WebhookEndpoint).values(failing_since=began, updated_at=claim.endpoint_changed_at)
        )
    await deliveries.apply(row_id, [(claim, answered(404))])
    assert (await fetch_one(context.database, select(WebhookEndpoint))).status is WebhookStatus.PAUSED


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_replay_leaves_alone_what_is_being_sent(context: Context, receiver: Receiver):
    endpoint_id = await add_webhook(context, receiver)
    await record_events(context.database, 1, 2)
    await wait_for_fanout(context, 2)
    row_id, (claim,) = await claimed(context)
    async with context.database.transaction() as db:
        await context.events.webhooks.replay(db, endpoint_id, ME, since=1)
    await wait_for_fanout(context, 2)
    await context.events.deliveries.apply(row_id, [(claim, answered(200))])
    assert await count_deliveries(context.database, DeliveryStatus.DELIVERED) == 1
    assert (await fetch_one(context.database, select(WebhookAttempt))).status_code == 200
    assert len((await claimed(context))[1]) == 1


@pytest.mark.parametrize("trouble", ["error", "lock"])
async def test_trouble_of_one_endpoint_delays_no_other(context: Context, receiver: Receiver, trouble: str):
    database = context.database
    if trouble == "lock" and database.is_sqlite:
        pytest.skip("one writes at a time")
    await add_webhook(context, receiver)
    await add_webhook(context, receiver, "/b")
    first = WebhookEndpoint.id == (await fetch_all(database, select(WebhookEndpoint.id)))[0]
    await record_events(database, 1)
    if trouble == "error":
        async with database.transaction() as db:
            await db.execute(update(WebhookEndpoint).where(first).values(event_types=[1]))
        await wait_for_fanout(context, 1)
        return
    async with database.transaction() as db, asyncio.timeout(60):
        await db.execute(select(WebhookEndpoint).where(first).with_for_update())
        await wait_for_fanout(context, 1)
    await wait_for_fanout(context, 2)


async def test_claim_without_a_free_slot_asks_no_query(context: Context, receiver: Receiver):
    await add_webhook(context, receiver)
    await record_events(context.database, 1)
    await wait_for_fanout(context, 1)
    deliveries = context.events.deliveries
    (row_id,) = await deliveries.due_endpoints()
    with statements_of(context.database) as statements:
        assert await deliveries.claim(row_id, under_way=deliveries.limits.concurrency) is None
        await deliveries.apply(row_id, [])
    assert statements == []


@pytest.mark.databases("sqlite")
async def test_idle_look_has_fixed_cost(context: Context, receiver: Receiver):
    worker = new_worker(context)
    with statements_of(context.database) as without_endpoint:
        assert await worker.run_once() == 0
    assert len(without_endpoint) == 1
    endpoint_id = await add_webhook(context, receiver)
    await record_events(context.database, 1)
    while await worker.run_once():
        pass
    await worker.finish_started()
    assert len(receiver.taken) == 1  # the endpoint is active now
    with statements_of(context.database) as with_endpoint:
        assert await worker.run_once() == 0
    assert len(with_endpoint) == 3
    async with context.database.transaction() as db:
        await context.events.webhooks.pause(db, endpoint_id, ME)
    with statements_of(context.database) as paused:
        assert await worker.run_once() == 0
    assert len(paused) == 1


@pytest.mark.databases("sqlite")  # PostgreSQL goes by its statistics
async def test_queries_read_only_the_needed_rows(context: Context, receiver: Receiver):
    """A replay would hold SQLite's one write lock for as long as it reads."""
    endpoint_id = await add_webhook(context, receiver)
    await record_events(context.database, 1, 2)
    with statements_of(context.database) as of_fanout:
        await wait_for_fanout(context, 2)
    with statements_of(context.database) as of_replay:
        for since in (1, utc_now()):
            async with context.database.transaction() as db:
                await context.events.webhooks.replay(db, endpoint_id, ME, since=since)
    plans = []
    async with context.database.engine.connect() as connection:
        for statement, parameters in dict(of_fanout + of_replay).items():
            if "min(events.id)" in statement or statement.startswith("UPDATE webhook_deliveries"):
                rows = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans += [row.detail for row in rows]
    assert any("ix_webhook_deliveries_line" in plan for plan in plans)
    costly = (
        r"SCAN (events|webhook_deliveries)|ix_events_stream|deliveries_(status|due)|\(endpoint_row_id=\?\)"
    )
    assert [plan for plan in plans if re.search(costly, plan)] == []


async def test_failure_does_not_change_the_update_time(context: Context, receiver: Receiver):
    await add_webhook(context, receiver)
    made = (await fetch_one(context.database, select(WebhookEndpoint))).updated_at
    await record_events(context.database, 1)
    await record_events(context.database, 1, account="berta")
    await wait_for_fanout(context, 2)
    row_id, claims = await claimed(context)
    for claim, status in zip(claims, (500, 200), strict=True):
        await context.events.deliveries.apply(row_id, [(claim, answered(status))])
        row = await fetch_one(context.database, select(WebhookEndpoint))
        assert (row.failing_since is None, row.updated_at) == (status == 200, made)
