"""Webhooks on the operators' page: created, tested, paused, replayed, rotated and deleted as over the API."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from app.models import EventType, WebhookDelivery, WebhookEndpoint, WebhookStatus, utc_now
from app.services.keys.service import Scope
from app.services.shared.access import AccessScope
from tests.fixtures.api import Api, OpenApi
from tests.fixtures.costs import explained
from tests.fixtures.dashboard import assert_needs, page_browser, shown_text
from tests.fixtures.receiver import Receiver, reply, running_receiver
from tests.fixtures.waiting import eventually
from tests.fixtures.webhooks import (
    FAST,
    add_webhook,
    fetch_all,
    fetch_one,
    record_events,
    running_worker,
)

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

SCRIPT = "<script>alert(1)</script>"


def secret_of(page: str) -> str:
    return page.partition("data-focus>")[2].partition("<")[0]


async def test_webhook_is_created_and_its_secret_is_shown_once(open_api: OpenApi):
    async with open_api(workers=False, **FAST) as api, page_browser(api) as browser:
        assert "There is no webhook yet." in await browser.shows("/ui/webhooks")
        assert "Create a webhook" in await browser.shows("/ui/webhooks/new")
        created = await browser.post(
            "/ui/webhooks",
            url="http://127.0.0.1:9/hook",
            name="billing",
            event_types="authorization.*, batch.completed",
            api_apps="",
            account_patterns="shop_* other",
        )
        assert created.status_code == 201, shown_text(created)
        secret = secret_of(created.text)
        assert secret.startswith("whsec_")
        row = await fetch_one(api.context.database, select(WebhookEndpoint))
        assert row.event_types == ["authorization.*", "batch.completed"]
        assert row.account_patterns == ["shop_*", "other"]
        page = await browser.shows(f"/ui/webhooks/{row.endpoint_id}")
        assert "Nothing was delivered yet." in page
        assert secret not in page + await browser.shows("/ui/webhooks")
        for wrong in ({"url": "no address"}, {"url": "http://127.0.0.1:9", "event_types": "no.such.type"}):
            refused = await browser.post("/ui/webhooks", **wrong)
            assert refused.status_code == 422, shown_text(refused)


async def test_webhook_is_tested_paused_rotated_and_deleted(open_api: OpenApi):
    async with (
        open_api(workers=False, **FAST) as api,
        page_browser(api) as browser,
        running_receiver() as receiver,
    ):
        path = f"/ui/webhooks/{await add_webhook(api.context, receiver)}"
        assert "The test is delivered: the receiver answered 200" in await browser.does(f"{path}/test")
        receiver.answer = lambda _: reply(500)
        assert "The test is not delivered: the receiver answered 500" in await browser.does(f"{path}/test")
        assert "The webhook is paused." in await browser.does(f"{path}/pause")
        row = await fetch_one(api.context.database, select(WebhookEndpoint))
        assert (row.status, row.pause_reason) == (WebhookStatus.PAUSED, "by bootstrap")
        assert "Deliveries continue" in await browser.does(f"{path}/resume")
        assert "Rotate the secret of" in await browser.shows(f"{path}/rotate")
        rotated = await browser.post(f"{path}/rotate", overlap_seconds="3600")
        assert (rotated.status_code, secret_of(rotated.text)[:6]) == (200, "whsec_")
        again = await browser.post(f"{path}/rotate", overlap_seconds="3600")
        assert (again.status_code, "ROTATION_UNDER_WAY" in again.text) == (409, True)
        forced = await browser.post(f"{path}/rotate", overlap_seconds="0", force="true")
        assert forced.status_code == 200
        assert "Delete the webhook" in await browser.shows(f"{path}/delete")
        assert "The webhook is deleted." in await browser.does(f"{path}/delete")
        assert (await browser.get(path)).status_code == 404


async def test_delivery_is_shown_with_its_attempts_and_replayed(open_api: OpenApi):
    async with (
        open_api(workers=False, **FAST) as api,
        page_browser(api) as browser,
        running_receiver() as receiver,
    ):
        receiver.answer = lambda _: reply(200, SCRIPT.encode())
        path = f"/ui/webhooks/{await add_webhook(api.context, receiver, name=SCRIPT)}"
        await record_events(api.context.database, 1, 2)

        async def are_delivered(number: int) -> bool:
            return len(receiver.taken) == number

        async with running_worker(api.context):
            await eventually(lambda: are_delivered(2))
        rows = await fetch_all(api.context.database, select(WebhookDelivery).order_by(WebhookDelivery.id))
        page = await browser.shows(path)
        assert page.count("delivered</span>") == 2
        assert "2 deliveries, page 1" in page
        assert SCRIPT not in page
        assert "No delivery matches" in await browser.shows(f"{path}?status=parked")
        shown = await browser.get(f"{path}/deliveries/{rows[0].id}")
        assert "The receiver answered 200" in shown_text(shown)
        assert SCRIPT not in shown.text
        assert (await browser.get(f"{path}/deliveries/999999")).status_code == 404
        told = await browser.does(f"{path}/replay", event_id=rows[1].event_id)
        assert f"Events from {rows[1].event_id} on are sent again." in told
        async with running_worker(api.context):
            await eventually(lambda: are_delivered(3))
        since = (utc_now() - timedelta(minutes=1)).isoformat()
        assert "are sent again." in await browser.does(f"{path}/replay", since=since, event_id="")
        later = (utc_now() + timedelta(hours=1)).isoformat()
        assert "No event is kept from there on" in await browser.does(f"{path}/replay", since=later)
        none = await browser.post(f"{path}/replay", since="", event_id="")
        assert (none.status_code, "since and event_id" in none.text) == (422, True)


async def test_views_and_actions_need_their_scope(open_api: OpenApi):
    async with open_api(workers=False, **FAST) as api:
        path = f"/ui/webhooks/{await add_webhook(api.context, Receiver(port=9))}"
        await assert_needs(
            api,
            Scope.WEBHOOKS,
            [
                "/ui/webhooks",
                "/ui/webhooks/new",
                path,
                f"{path}/deliveries/1",
                f"{path}/rotate",
                f"{path}/delete",
            ],
            [
                "/ui/webhooks",
                *(f"{path}/{name}" for name in ("test", "pause", "resume", "replay", "rotate", "delete")),
            ],
        )


async def test_restricted_key_has_its_own_webhooks_only(open_api: OpenApi):
    async with open_api(workers=False, rate_limit_per_minute=10_000, **FAST) as api:
        path = f"/ui/webhooks/{await add_webhook(api.context, Receiver(port=9), name='foreign')}"
        access = AccessScope.from_lists(["AIOTT1"], ["anna_*"])
        key = (await api.key(Scope.WEBHOOKS, access=access))["X-API-Key"]
        async with page_browser(api, key) as browser:
            assert "foreign" not in await browser.shows("/ui/webhooks")
            for name in ("", "/deliveries/1", "/rotate", "/delete"):
                assert (await browser.get(f"{path}{name}")).status_code == 404, name
            for name in ("test", "pause", "resume", "rotate", "delete"):
                assert (await browser.post(f"{path}/{name}")).status_code == 404, name
            assert (await browser.post(f"{path}/replay", event_id="1")).status_code == 404
            wide = await browser.post("/ui/webhooks", url="http://127.0.0.1:9/", account_patterns="bert")
            assert wide.status_code == 403, shown_text(wide)
            own = await browser.post(
                "/ui/webhooks", url="http://127.0.0.1:9/", api_apps="", account_patterns=""
            )
            assert own.status_code == 201
        rows = await fetch_all(api.context.database, select(WebhookEndpoint).order_by(WebhookEndpoint.id))
        assert [row.account_patterns for row in rows] == [[], ["anna_*"]]


async def test_statements_do_not_depend_on_the_rows(postgresql_api: Api):
    api = postgresql_api
    async with page_browser(api) as browser:

        async def count(path: str) -> int:
            with explained(api.context.database) as seen:
                await browser.shows(path)
            return len(seen)

        async def add(number: int) -> WebhookEndpoint:
            async with api.context.database.transaction() as db:
                row = WebhookEndpoint(
                    endpoint_id=f"webhook-{number}",
                    name="",
                    url="http://x",
                    event_types=[],
                    api_apps=[],
                    account_patterns=[],
                    secret="",
                    after_xact_id=0,
                    after_event_id=0,
                    created_by="tests",
                )
                db.add(row)
                await db.flush()
                db.add_all(
                    WebhookDelivery(
                        endpoint_row_id=row.id, event_id=each, event_type=EventType.BATCH_COMPLETED
                    )
                    for each in range(number)
                )
            return row

        await add(1)
        paths = ["/ui/webhooks", "/ui/webhooks/webhook-1"]
        few = [await count(path) for path in paths]
        await add(20)
        paths = ["/ui/webhooks", "/ui/webhooks/webhook-20"]
        assert [await count(path) for path in paths] == few == [3, 5]
