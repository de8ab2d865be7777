"""`/webhooks` as a caller meets it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import select

from app.models import Event, EventType
from app.services.events import recorder
from app.services.keys.service import Caller, Scope
from app.services.shared.access import AccessScope
from app.services.webhooks.service import WebhookChange
from app.utils.exceptions import OutOfReachException, WebhookNotFoundException
from tests.fixtures.api import Api, OpenApi, answered, refused
from tests.fixtures.receiver import Receiver, reply, running_receiver
from tests.fixtures.waiting import eventually

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.databases("sqlite", long="postgresql")]

SETTINGS = {"webhook_allow_private_addresses": True, "rate_limit_per_minute": 100_000}

HOOKS = "/webhooks"


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as running:
        yield running


@pytest_asyncio.fixture
async def api(open_api: OpenApi) -> AsyncIterator[Api]:
    async with open_api(workers=False, **SETTINGS) as opened:
        yield opened


@pytest_asyncio.fixture
async def working_api(open_api: OpenApi) -> AsyncIterator[Api]:
    async with open_api(**SETTINGS) as opened:
        yield opened
        opened.context.begin_shutdown()


async def create(api: Api, receiver: Receiver, **body: Any) -> dict[str, Any]:
    made = answered(await api.client.post(HOOKS, json={"url": receiver.url("/hook")} | body), 201)
    receiver.secrets["/hook"] = made["secret"]
    found: dict[str, Any] = made
    return found


async def wait_for_data(
    get: Callable[[], Awaitable[httpx.Response]], condition: Callable[[Any], object]
) -> Any:
    async def look() -> tuple[Any, ...]:
        data = (await get()).json()["data"]
        return (data,) if condition(data) else ()

    (found,) = await eventually(look)
    return found


async def test_a_cursor_leads_through_the_deliveries_of_one_webhook(working_api: Api, receiver: Receiver):
    other = await create(working_api, receiver, account_patterns=["nobody"])
    made = await create(working_api, receiver, event_types=["batch.*"])
    url = f"{HOOKS}/{made['id']}/deliveries"
    async with working_api.context.database.transaction() as db:
        for number in range(3):
            recorder.record(db, EventType.BATCH_COMPLETED, account_id=f"a_{number}")
    await wait_for_data(lambda: working_api.client.get(url), lambda rows: len(rows) == 3)
    first = (await working_api.client.get(url, params={"page_size": 2})).json()
    assert ([row["account_id"] for row in first["data"]], first["total"]) == (["a_2", "a_1"], 3)
    query = {"page_size": 2, "cursor": first["next_cursor"]}
    rest = (await working_api.client.get(url, params=query)).json()
    assert ([row["account_id"] for row in rest["data"]], rest["next_cursor"]) == (["a_0"], None)
    refused(
        await working_api.client.get(f"{HOOKS}/{other['id']}/deliveries", params=query), 422, "INVALID_CURSOR"
    )


async def test_webhook_lives_from_creation_to_deletion(working_api: Api, receiver: Receiver):
    made = await create(
        working_api, receiver, name="crm", event_types=["batch.*"], account_patterns=["@Team_*"]
    )
    url = f"{HOOKS}/{made['id']}"
    assert (made["status"], made["account_patterns"], made["pending"]) == ("active", ["team_*"], 0)
    shown = answered(await working_api.client.get(url))
    assert shown == {key: value for key, value in made.items() if key != "secret"}
    assert answered(await working_api.client.get(HOOKS)) == [shown]

    receiver.answer = lambda _: reply(204 if receiver.arrived[0].body["type"] == "webhook.test" else 500)
    tested = answered(await working_api.client.post(f"{url}/test"))
    assert (tested["delivered"], tested["status_code"], tested["error"]) == (True, 204, None)
    assert receiver.arrived[0].body["type"] == "webhook.test"

    receiver.answer = lambda _: reply(500, b"broken")
    async with working_api.context.database.transaction() as db:
        recorder.record(db, EventType.BATCH_COMPLETED, account_id="team_a", api_app="X", number=1)
        recorder.record(db, EventType.BATCH_COMPLETED, account_id="other", number=2)
    deliveries = await wait_for_data(
        lambda: working_api.client.get(f"{url}/deliveries"), lambda rows: rows and rows[0]["attempts"]
    )
    (delivery,) = deliveries
    assert (delivery["event_type"], delivery["account_id"], delivery["status"]) == (
        "batch.completed",
        "team_a",
        "pending",
    )
    detail = answered(await working_api.client.get(f"{url}/deliveries/{delivery['id']}"))
    (attempt,) = detail.pop("attempt_list")
    assert detail == delivery
    assert (attempt["status_code"], attempt["answer"], attempt["error"]) == (500, "broken", None)
    assert answered(await working_api.client.get(url))["failing_since"]

    receiver.answer = lambda _: reply()
    paused = answered(await working_api.client.post(f"{url}/pause"))
    assert (paused["status"], paused["pause_reason"], paused["pending"]) == ("paused", "by bootstrap", 1)
    patched = answered(await working_api.client.patch(url, json={"name": "CRM", "event_types": []}))
    assert (patched["name"], patched["event_types"], patched["account_patterns"]) == ("CRM", [], ["team_*"])
    new = answered(await working_api.client.post(f"{url}/rotate", json={"overlap_seconds": 60}))["secret"]
    assert new != made["secret"]
    again = await working_api.client.post(f"{url}/rotate")
    assert '"force": true' in refused(again, 409, "ROTATION_UNDER_WAY")
    assert answered(await working_api.client.get(url))["previous_secret_expires_at"]
    resumed = answered(await working_api.client.post(f"{url}/resume"))
    assert (resumed["status"], resumed["failing_since"]) == ("active", None)
    (delivery,) = await wait_for_data(
        lambda: working_api.client.get(f"{url}/deliveries", params={"status": "delivered"}), lambda rows: rows
    )
    replayed = answered(
        await working_api.client.post(f"{url}/replay", json={"event_id": delivery["event_id"]}), 202
    )
    assert replayed == {"from_event_id": delivery["event_id"], "status": "active"}
    assert answered(await working_api.client.delete(url)) is None
    assert answered(await working_api.client.get(HOOKS)) == []
    refused(await working_api.client.get(url), 404, "WEBHOOK_NOT_FOUND")

    async with working_api.context.database.reading() as db:
        events = (await db.scalars(select(Event).order_by(Event.id))).all()
    told = [event for event in events if event.event_type.startswith("webhook.")]
    assert [event.event_type.partition(".")[2] for event in told] == [
        "created", "tested", "paused", "updated", "rotated", "resumed", "replayed", "deleted",
    ]  # fmt: skip
    assert {(event.actor, event.data["webhook_id"]) for event in told} == {("bootstrap", made["id"])}
    assert not any(
        secret in str([event.data for event in events]) for secret in (made["secret"], new, receiver.url())
    )


async def test_invalid_webhooks_are_refused(api: Api):
    for body, code in (
        ({}, "INVALID_REQUEST"),
        ({"url": "ftp://h/"}, "WEBHOOK_URL_REFUSED"),
        ({"url": "http://u:p@127.0.0.1/"}, "WEBHOOK_URL_REFUSED"),
        ({"url": "http://127.0.0.1/", "event_types": ["no spaces"]}, "INVALID_REQUEST"),
        ({"url": "http://127.0.0.1/", "account_patterns": ["a?"]}, "INVALID_REQUEST"),
        ({"url": "http://127.0.0.1/", "account_patterns": ["a"] * 21}, "INVALID_REQUEST"),
        ({"url": "http://127.0.0.1/", "name": "\x00"}, "INVALID_REQUEST"),
        ({"url": "http://127.0.0.1/", "secret": "mine"}, "INVALID_REQUEST"),
    ):
        refused(await api.client.post(HOOKS, json=body), 422, code)
    time = "2026-01-01T00:00:00"
    for begin in ({}, {"event_id": 1, "since": f"{time}Z"}, {"event_id": 0}, {"since": time}):
        refused(await api.client.post(f"{HOOKS}/{uuid4()}/replay", json=begin), 422, "INVALID_REQUEST")
    refused(await api.client.get(HOOKS, headers=await api.key(Scope.AUTHORIZE)), 403, "FORBIDDEN")
    own = await api.key(Scope.WEBHOOKS, name="hooks")
    assert answered(await api.client.get(HOOKS, headers=own)) == []


async def test_addresses_inside_are_refused_by_default(open_api: OpenApi, receiver: Receiver):
    async with open_api(workers=False) as api:
        refused(await api.client.post(HOOKS, json={"url": receiver.url()}), 422, "WEBHOOK_URL_REFUSED")
        api.context.begin_shutdown()


async def test_unknown_webhook_is_not_found(api: Api, receiver: Receiver):
    url = f"{HOOKS}/{uuid4()}"
    for method, path, body in (
        ("GET", "", None), ("PATCH", "", {}), ("DELETE", "", None), ("POST", "/rotate", None), ("POST", "/pause", None),
        ("POST", "/resume", None), ("POST", "/test", None), ("POST", "/replay", {"event_id": 1}),
        ("GET", "/deliveries", None), ("GET", "/deliveries/1", None),
    ):  # fmt: skip
        refused(await api.client.request(method, url + path, json=body), 404, "WEBHOOK_NOT_FOUND")
    made = await create(api, receiver)
    refused(await api.client.get(f"{HOOKS}/{made['id']}/deliveries/1"), 404, "DELIVERY_NOT_FOUND")


async def test_a_key_that_is_for_some_accounts_makes_and_sees_no_more(api: Api, receiver: Receiver):
    webhooks, database = api.context.events.webhooks, api.context.database
    team = Caller("team", frozenset({Scope.WEBHOOKS}), AccessScope.from_lists(["X"], ["team_*"]))
    everything, _ = await webhooks.create(WebhookChange(url=receiver.url()), Caller("all", frozenset()))
    mine, _ = await webhooks.create(WebhookChange(url=receiver.url()), team)
    assert (mine.api_apps, mine.account_patterns) == (["X"], ["team_*"])
    change = WebhookChange(url=receiver.url(), account_patterns=["team_a*"])
    assert (await webhooks.create(change, team))[0].account_patterns == ["team_a*"]
    for wider in ({"account_patterns": ["tea*"]}, {"account_patterns": []}, {"api_apps": ["X", "Y"]}):
        with pytest.raises(OutOfReachException):
            await webhooks.create(WebhookChange(url=receiver.url(), **wider), team)
        with pytest.raises(OutOfReachException):
            await webhooks.update(mine.endpoint_id, WebhookChange(**wider), team)
    async with database.reading() as db:
        with pytest.raises(WebhookNotFoundException):
            await webhooks.get(db, everything.endpoint_id, team)
        assert (await webhooks.get(db, mine.endpoint_id, team)).id == mine.id
