"""Order of the deliveries to an endpoint, and deliveries while it is changed."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import delete, func, select, update

from app.context import Context
from app.models import (
    DeliveryStatus,
    Event,
    EventClass,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    utc_now,
)
from app.services.events import recorder
from app.services.keys.service import Caller, Scope
from app.services.operations.event_retention import EventLimits
from app.services.shared.access import AccessScope
from app.services.shared.paging import PageRequest
from app.services.webhooks import queries
from app.services.webhooks.fanout import WebhookFanout
from app.services.webhooks.service import WebhookChange
from app.utils.exceptions import DeliveryNotFoundException
from tests.fixtures.events import add_events
from tests.fixtures.receiver import Receiver, reply, running_receiver
from tests.fixtures.retention import event_retention
from tests.fixtures.services import OpenContext
from tests.fixtures.waiting import eventually
from tests.fixtures.webhooks import (
    FAST,
    ME,
    TYPE,
    add_webhook,
    answered,
    count_deliveries,
    fetch_all,
    fetch_one,
    record_events,
    running_worker,
    wait_for_fanout,
    wait_until_delivered,
)

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

TEAM = Caller("team", frozenset({Scope.WEBHOOKS}), AccessScope.from_lists([], ["team_*"]))


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as running:
        yield running


@pytest.fixture
def changes() -> dict[str, Any]:
    """Return changes of the settings."""
    return {}


@pytest_asyncio.fixture
async def context(open_services: OpenContext, changes: dict[str, Any]) -> AsyncIterator[Context]:
    """Its webhook worker does not run."""
    async with open_services(**FAST | changes) as opened:
        yield opened


@pytest.mark.databases("postgresql")  # SQLite has one writer at a time
@pytest.mark.parametrize("batch", [500, 1])
async def test_late_event_of_an_older_transaction_is_delivered_later(
    context: Context, receiver: Receiver, batch: int
):
    database = context.database
    await add_webhook(context, receiver)
    async with database.transaction() as older:
        recorder.record(older, TYPE, account_id="berta", number=1)
        await older.flush()
        await record_events(database, 1, account="anna")
        recorder.record(older, TYPE, account_id="anna", number=2)
    await wait_for_fanout(context, 3, batch_size=batch)
    due = select(WebhookDelivery.account_id).where(WebhookDelivery.next_attempt_at.is_not(None))
    assert sorted(await fetch_all(database, due)) == ["anna", "berta"]
    async with running_worker(context, batch_size=batch):
        await wait_until_delivered(database, 3)
    assert receiver.numbers("anna") == [1, 2]


async def test_delivery_waits_for_the_replay_of_an_earlier_one(context: Context, receiver: Receiver):
    deliveries, endpoint_id = context.events.deliveries, await add_webhook(context, receiver)
    await record_events(context.database, 1)
    async with running_worker(context):
        await wait_until_delivered(context.database, 1)
    await record_events(context.database, 2)
    await wait_for_fanout(context, 2)
    (row_id,) = await deliveries.due_endpoints()
    (claim,) = await deliveries.claim(row_id, under_way=0) or []
    first, _ = await fetch_all(context.database, select(Event.id).where(Event.event_type == TYPE))
    async with context.database.transaction() as db:
        await context.events.webhooks.replay(db, endpoint_id, ME, since=first)
    await WebhookFanout(database=context.database, batch_size=1).run_once()
    await deliveries.apply(row_id, [(claim, answered(500))])
    due = select(WebhookDelivery.event_id).where(WebhookDelivery.next_attempt_at.is_not(None))
    assert await fetch_all(context.database, due) == [first]


@pytest.mark.parametrize("changes", [{"webhook_retry_waits": [60.0]}])
async def test_events_without_an_account_wait_for_nothing(context: Context, receiver: Receiver):
    receiver.answer = lambda got: reply(500 if got.number == 1 else 200)
    await add_webhook(context, receiver)
    await record_events(context.database, 1, 2, 3, account=None)
    await wait_for_fanout(context, 3)
    async with running_worker(context):
        await wait_until_delivered(context.database, 2)
    assert {got.number for got in receiver.taken} == {2, 3}


@pytest.mark.parametrize("changes", [{"webhook_timeout": 60, "webhook_concurrency": 2}])
async def test_slow_account_delays_no_other(context: Context, receiver: Receiver):
    too_long_for_each_delivery = 1.0
    receiver.answer = lambda got: None if got.account == "slow" else reply()
    await add_webhook(context, receiver)
    await record_events(context.database, 1, 2, account="slow")
    for number in range(40):
        await record_events(context.database, 1, account=f"a{number}")
    async with running_worker(context, poll_interval=too_long_for_each_delivery, drain=False):
        await eventually(lambda: len(receiver.taken) == 40, 30)
        await record_events(context.database, 2, account="a1")
        await eventually(lambda: len(receiver.taken) == 41, 30)
        assert len(receiver.arrived) == 42


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("changes", [{"webhook_timeout": 0.5, "webhook_concurrency": 1}])
@pytest.mark.parametrize("change", ["delete", "pause", "move"])
async def test_change_applies_to_every_delivery_that_is_not_being_sent(
    context: Context, receiver: Receiver, change: str
):
    endpoint_id = await add_webhook(context, receiver)
    receiver.secrets["/moved"] = receiver.secrets["/"]
    receiver.answer = lambda got: None if got.path == "/" else reply()
    for account in "abcd":
        await record_events(context.database, 1, account=account)
    await wait_for_fanout(context, 4)
    async with running_worker(context) as worker:
        await eventually(lambda: len(receiver.arrived) == 1)
        if change == "move":
            await context.events.webhooks.update(endpoint_id, WebhookChange(url=receiver.url("/moved")), ME)
            await wait_until_delivered(context.database, 4)
        else:
            async with context.database.transaction() as db:
                await getattr(context.events.webhooks, change)(db, endpoint_id, ME)
            await worker.finish_started()
    paths = [got.path for got in receiver.arrived]
    assert paths == ["/"] + ["/moved"] * (4 if change == "move" else 0)


@pytest.mark.parametrize(
    "narrower", [WebhookChange(account_patterns=["team_*"]), WebhookChange(event_types=["app.*"])]
)
async def test_narrowed_webhook_neither_sends_nor_shows_events_outside_its_filter(
    context: Context, receiver: Receiver, narrower: WebhookChange
):
    endpoint_id = await add_webhook(context, receiver)
    await record_events(context.database, *range(6), account="anna")
    await wait_for_fanout(context, 6)
    row = await context.events.webhooks.update(endpoint_id, narrower, ME)
    async with running_worker(context):
        await eventually(lambda: _all_parked(context, 6))
    assert receiver.arrived == []
    errors = await fetch_all(context.database, select(WebhookAttempt.error))
    assert len(errors) == 6
    assert set(errors) == {"Not sent: the webhook is no longer for this type, app or account"}
    wanted = PageRequest(sort="event_id", descending=True)
    async with context.database.reading() as db:
        mine = await queries.fetch_deliveries(db, row, ME.access, wanted, status=None)
        theirs = await queries.fetch_deliveries(db, row, TEAM.access, wanted, status=None)
        assert (len(mine.rows), len(theirs.rows)) == (6, 0)
        with pytest.raises(DeliveryNotFoundException):
            await queries.delivery(db, row, TEAM.access, mine.rows[0].id)


async def _all_parked(context: Context, count: int) -> bool:
    return await count_deliveries(context.database, DeliveryStatus.PARKED) == count


async def test_a_resumed_webhook_begins_all_attempts_anew(context: Context, receiver: Receiver):
    endpoint_id = await add_webhook(context, receiver)
    await record_events(context.database, 1, 2)
    await record_events(context.database, 1, account="berta")
    await wait_for_fanout(context, 3)
    times = (utc_now() - timedelta(hours=1), utc_now() + timedelta(hours=1))
    async with context.database.transaction() as db:
        for account, time in zip(("anna", "berta"), times, strict=True):
            first = (WebhookDelivery.account_id == account, WebhookDelivery.next_attempt_at.is_not(None))
            await db.execute(update(WebhookDelivery).where(*first).values(attempts=9, next_attempt_at=time))
        await context.events.webhooks.pause(db, endpoint_id, ME)
    async with context.database.transaction() as db:
        await context.events.webhooks.resume(db, endpoint_id, ME)
    assert set(await fetch_all(context.database, select(WebhookDelivery.attempts))) == {0}
    async with running_worker(context):
        await wait_until_delivered(context.database, 3)
    assert receiver.numbers("anna") == [1, 2]


async def test_events_deleted_before_their_delivery_are_reported_as_missed(
    context: Context, receiver: Receiver
):
    endpoint_id = await add_webhook(context, receiver)
    await record_events(context.database, 1)
    await wait_for_fanout(context, 1)
    seen = (await fetch_one(context.database, select(WebhookEndpoint))).after_event_id
    async with context.database.transaction() as db:
        await context.events.webhooks.pause(db, endpoint_id, ME)
    await record_events(context.database, 2, 3, 4)
    async with context.database.transaction() as db:  # as the retention does
        kept = await db.scalar(select(func.max(Event.id))) or 0
        await db.execute(delete(Event).where(Event.id < kept))
        await context.events.webhooks.resume(db, endpoint_id, ME)
    await wait_for_fanout(context, 2)
    await record_events(context.database, 5)
    await wait_for_fanout(context, 3)
    lost = await fetch_one(
        context.database, select(Event.data).where(Event.event_type == "webhook.events_lost")
    )
    assert (lost["webhook_id"], lost["from_event_id"], lost["to_event_id"]) == (
        endpoint_id,
        seen + 1,
        kept - 1,
    )


@pytest.mark.parametrize("wants_routine", [True, False])
async def test_deleted_events_of_a_wanted_class_are_reported_as_missed_once(
    context: Context, receiver: Receiver, wants_routine: bool
):
    """Older events of other types stay, so that the oldest one tells nothing of the gap."""
    wanted = [TYPE, "credential.*"] if wants_routine else [TYPE]
    endpoint_id = await add_webhook(context, receiver, event_types=wanted)
    await record_events(context.database, 1)
    await wait_for_fanout(context, 1)
    seen = (await fetch_one(context.database, select(WebhookEndpoint))).after_event_id
    async with context.database.transaction() as db:
        await context.events.webhooks.pause(db, endpoint_id, ME)
    await add_events(
        context.database, {"event_type": "credential.refreshed"}, {"event_type": "api_key.created"}
    )
    none = {EventClass.ROUTINE: EventLimits(days=1, count=0)}
    assert await event_retention(context.database, limits=none).delete_old() == 1
    mark = await fetch_one(context.database, select(Event.data).where(Event.event_type == "events.evicted"))
    async with context.database.transaction() as db:
        await context.events.webhooks.resume(db, endpoint_id, ME)
    for number in (2, 3):
        await record_events(context.database, number)
        await wait_for_fanout(context, number)
    lost = await fetch_all(
        context.database, select(Event.data).where(Event.event_type == "webhook.events_lost")
    )
    ranges = [(each["from_event_id"], each["to_event_id"]) for each in lost]
    assert ranges == ([(seen + 1, mark["to_event_id"])] if wants_routine else [])


async def test_only_an_update_changes_the_update_time(context: Context, receiver: Receiver):
    endpoint_id = await add_webhook(context, receiver)
    made = await fetch_one(context.database, select(WebhookEndpoint))
    await record_events(context.database, 1)
    await wait_for_fanout(context, 1)
    seen = await fetch_one(context.database, select(WebhookEndpoint))
    assert seen.after_event_id != made.after_event_id
    assert seen.updated_at == made.updated_at
    await context.events.webhooks.update(endpoint_id, WebhookChange(name="other"), ME)
    assert (await fetch_one(context.database, select(WebhookEndpoint))).updated_at > made.updated_at


@pytest.mark.parametrize("changes", [{"webhook_retry_waits": [60.0]}])
async def test_a_process_whose_clock_is_ahead_delays_nothing(
    context: Context, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    for module in ("deliveries", "ordering", "fanout"):
        monkeypatch.setattr(
            f"app.services.webhooks.{module}.utc_now", lambda: utc_now() + timedelta(days=1), raising=False
        )
    receiver.answer = lambda _: reply(500)
    await add_webhook(context, receiver)
    await record_events(context.database, 1)
    await wait_for_fanout(context, 1)
    row = await fetch_one(context.database, select(WebhookDelivery))
    assert row.next_attempt_at < utc_now() + timedelta(hours=1)
    async with running_worker(context):
        await eventually(lambda: fetch_all(context.database, select(WebhookAttempt)))
    row = await fetch_one(context.database, select(WebhookDelivery))
    assert utc_now() < row.next_attempt_at < utc_now() + timedelta(hours=1)
