"""`/events`: the trail as pages, as a file and as a stream, for those who may see it and no more than they may."""

import asyncio
import csv
import io
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.api.schemas.event import read_position
from app.models import utc_now
from app.services.events.tail import BEGINNING
from app.services.keys.service import Caller, Scope
from app.services.shared.access import AccessScope
from app.utils.exceptions import AuthenticationException
from tests.fixtures.api import Api, OpenApi, answered, refused
from tests.fixtures.events import add_events, record
from tests.fixtures.waiting import eventually

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.databases("sqlite", long="postgresql")]


@pytest.fixture
async def events(api: Api) -> Api:
    """Thirty of three accounts, in two apps."""
    rows = [
        {
            "event_type": "batch.requested" if number % 2 == 0 else "batch.retried",
            "account_id": f"account_{number % 3}",
            "api_app": "AIOTT1" if number < 20 else "AIOTT2",
            "data": {"number": number, "words": 'a, "b"\nc'},
            "occurred_at": utc_now() - timedelta(minutes=30 - number),
        }
        for number in range(30)
    ]
    await add_events(api.context.database, *rows)
    return api


async def stream(api: Api, *, last: str = "") -> httpx.Response:
    """Return the stream of an account's events once the server has ended it."""
    return await api.client.get("/events/stream", params={"account_id": "a"}, headers={"Last-Event-ID": last})


async def listed(api: Api, **query: Any) -> dict[str, Any]:
    response = await api.client.get("/events", params={"event_type": "batch.*"} | query)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


def seen(page: dict[str, Any]) -> list[int]:
    return [event["data"]["number"] for event in page["data"]]


async def test_latest_events_come_first_page_by_page(events: Api):
    first, third = await listed(events, page_size=12), await listed(events, page_size=12, page=3)
    assert (seen(first), seen(third)) == (list(range(29, 17, -1)), list(range(5, -1, -1)))
    assert (first["total"], first["total_is_exact"], first["total_pages"]) == (30, True, 3)
    assert (first["next_cursor"] is None, third["next_cursor"]) == (False, None)
    assert set(first["data"][0]) == {
        "id", "event_type", "occurred_at", "account_id", "api_app", "session_id", "profile_id", "actor", "request_id",
        "data",
    }  # fmt: skip


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_cursor_goes_on_where_the_page_ended_whatever_came_since(events: Api):
    first = await listed(events, page_size=12)
    await record(events.context.database, 99, event_type="batch.stopped")
    second = await listed(events, page_size=12, cursor=first["next_cursor"])
    third = await listed(events, page_size=12, cursor=second["next_cursor"])
    assert seen(first) + seen(second) + seen(third) == list(range(29, -1, -1))
    refused(
        await events.client.get("/events", params={"actor": "x", "cursor": first["next_cursor"]}),
        422,
        "INVALID_CURSOR",
    )


async def test_events_are_filtered(events: Api):
    by_number = (await listed(events, page_size=100))["data"]
    at_10 = next(event["occurred_at"] for event in by_number if event["data"]["number"] == 10)
    numbers = set(range(30))
    for query, expected in (
        ({"event_type": "batch.requested"}, {number for number in numbers if number % 2 == 0}),
        ({"account_id": "account_1"}, {number for number in numbers if number % 3 == 1}),
        ({"api_app": "AIOTT2", "account_id": "account_1"}, {22, 25, 28}),
        ({"since": at_10, "until": by_number[0]["occurred_at"]}, set(range(10, 29))),
        ({"text": "17"}, {17}),
        ({"text": "BATCH.REQUESTED"}, {number for number in numbers if number % 2 == 0}),
        ({"actor": "nobody"}, set()),
    ):
        assert set(seen(await listed(events, page_size=100, **query))) == expected, query


async def test_invalid_filters_are_refused(api: Api):
    for query in (
        {"event_type": "a*b"},
        {"event_type": "token.rea"},
        {"event_type": "tokens.*"},
        {"event_type": ""},
        {"since": "2026-11-21T08:00:00"},
        {"page": "201"},
        {"page_size": "501"},
        {"text": ""},
        {"sort": "id"},
    ):
        refused(await api.client.get("/events", params=query), 422, "INVALID_REQUEST")
    for last in ("garbage", "1", "1-", f"{2**70}-1", "-1-1", "999999-999999"):
        response = await api.client.get("/events/stream", headers={"Last-Event-ID": last})
        refused(response, 422, "UNKNOWN_EVENT_ID")


async def test_a_key_without_the_scope_sees_nothing(api: Api):
    other = await api.key(Scope.AUTHORIZE, name="other")
    paths = ("/events", "/events/export", "/events/stream")
    for path in paths:
        refused(await api.client.get(path, headers=other), 403, "FORBIDDEN")
    for path in (*paths, "/events/stream/stats"):
        refused(await api.client.get(path, headers={"X-API-Key": "x"}), 401, "UNAUTHORIZED")
    events = await api.key(Scope.EVENTS, name="events")
    refused(await api.client.get("/events/stream/stats", headers=events), 403, "FORBIDDEN")


async def test_a_restricted_key_sees_what_it_is_for(open_api: OpenApi, monkeypatch: pytest.MonkeyPatch):
    """The restriction holds in a list, in a file and in the stream, both from the database and as it happens."""
    mine = Caller("mine", frozenset({Scope.EVENTS}), AccessScope.from_lists(["AIOTT2"], ["account_1*"]))

    async def authenticate(*_: object) -> Caller:
        return mine

    async with open_api() as api:
        monkeypatch.setattr(api.context.keys, "authenticate", authenticate)
        places = [("account_1", "AIOTT2"), ("account_1", "AIOTT1"), ("account_2", "AIOTT2"), (None, None)]
        rows = [{"account_id": account_id, "api_app": app} for account_id, app in places]
        await add_events(api.context.database, *rows)
        stream = asyncio.create_task(api.client.get("/events/stream", headers={"Last-Event-ID": "0-0"}))
        await eventually(lambda: api.context.events.streams.totals.told == 1)
        for account_id, app in places:
            await record(api.context.database, 1, account_id=account_id, api_app=app)
        listed = (await api.client.get("/events")).json()["data"]
        exported = (await api.client.get("/events/export")).text.splitlines()
        await eventually(lambda: api.context.events.streams.totals.told == 2)
        api.context.events.streams.close()
        streamed = [line for line in (await stream).text.splitlines() if line.startswith('data: {"id"')]
        found = [json.loads(line.removeprefix("data: ")) for line in streamed]
        assert [json.loads(line) for line in exported] == listed == found[::-1]
        assert [(event["account_id"], event["api_app"]) for event in found] == places[:1] * 2


async def test_a_stream_ends_when_its_key_may_not_read_it_any_more(
    open_api: OpenApi, monkeypatch: pytest.MonkeyPatch
):
    """The key was revoked, has lost the scope, or is for other accounts."""
    allowed = Caller("own", frozenset({Scope.EVENTS}))
    async with open_api(event_stream_heartbeat=0.05, event_stream_lifetime=20) as api:
        for later in (
            None,
            replace(allowed, scopes=frozenset()),
            replace(allowed, access=AccessScope.from_lists(["A"], [])),
        ):
            now: list[Caller | None] = [allowed]

            async def authenticate(*_: object, now: list[Caller | None] = now) -> Caller:
                if now[0] is None:
                    raise AuthenticationException
                return now[0]

            monkeypatch.setattr(api.context.keys, "authenticate", authenticate)
            stream = asyncio.create_task(api.client.get("/events/stream"))
            await eventually(lambda: api.context.events.streams.readers)
            now[0] = later
            assert (await stream).text.endswith('event: end\ndata: {"reason": "access"}\n\n')


async def test_events_are_exported(events: Api):
    expected = (await listed(events, page_size=100, account_id="account_1"))["data"]
    query = {"event_type": "batch.*", "account_id": "account_1"}
    lines = (await events.client.get("/events/export", params=query)).text.splitlines()
    assert [json.loads(line) for line in lines] == expected
    response = await events.client.get("/events/export", params=query | {"format": "csv"})
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert [json.loads(row["data"]) for row in rows] == [event["data"] for event in expected]
    assert [row["id"] for row in rows] == [str(event["id"]) for event in expected]
    exported = (await listed(events, event_type="events.exported"))["data"]
    assert [(event["actor"], event["data"]["filters"]) for event in exported] == [("bootstrap", query)] * 2


async def test_pages_end_with_that_of_the_10_000th_event(api: Api):
    await add_events(api.context.database, *({"event_type": "batch.cancelled"} for _ in range(10_001)))
    page = await listed(api, page_size=300, page=34)
    assert (page["total"], page["total_is_exact"], page["total_pages"], len(page["data"])) == (
        10_000, False, 34, 101,
    )  # fmt: skip
    for size, number, last in ((300, 35, 34), (500, 10_000, 20), (50, 201, 200)):
        response = await api.client.get("/events", params={"page": number, "page_size": size})
        assert "follow next_cursor" in refused(response, 422, "INVALID_REQUEST")
        (problem,) = response.json()["data"]["problems"]
        assert (problem["field"], problem["allowed"]) == ("query.page", f"at most {last}")
    some = await listed(api, page_size=500)
    await listed(api, page_size=500, page=10_000, cursor=some["next_cursor"])


async def test_the_stream_replays_beats_and_says_why_it_ends(open_api: OpenApi):
    async with open_api(event_stream_lifetime=1.0, event_stream_heartbeat=0.1) as api:
        database = api.context.database
        first = await stream(api)
        assert first.headers["Content-Type"].startswith("text/event-stream")
        assert (first.headers["Cache-Control"], first.headers["X-Accel-Buffering"]) == ("no-store", "no")
        connected, *beats, end = first.text.rstrip("\n").split("\n\n")
        begin = connected.splitlines()[1].removeprefix("id: ")
        assert connected == f": connected\nid: {begin}\nretry: 1000"
        assert all(beat.startswith(": heartbeat\nid: ") for beat in beats)
        assert end == 'event: end\ndata: {"reason": "lifetime"}'
        await record(database, 2, account_id="a")
        await record(database, 3, account_id="b")
        text = ""
        async with asyncio.timeout(60):
            # Other tests of the server have older transactions; a busy machine may have a second without a beat.
            while not ('"number":2' in text.replace(" ", "") and ": heartbeat" in text):
                text = (await stream(api, last=begin)).text
        block = next(each for each in text.split("\n\n") if each.startswith('data: {"id"'))
        data, event_id = block.splitlines()
        assert json.loads(data.removeprefix("data: "))["data"] == {"number": 2}
        assert (read_position(event_id.removeprefix("id: ")) or BEGINNING) > (
            read_position(begin) or BEGINNING
        )
        stats = answered(await api.client.get("/events/stream/stats"))
        assert (stats["readers"], stats["kept"]) == ([], 0)
        assert min(stats["opened"] - 1, stats["told"]) >= 1


async def test_too_many_streams_are_refused(open_api: OpenApi):
    async with open_api(event_stream_readers_per_key=1) as api:
        streams = api.context.events.streams
        streams.readers.append(object.__new__(type("Busy", (), {"key_name": "bootstrap"})))
        response = await api.client.get("/events/stream")
        refused(response, 429, "TOO_MANY_STREAMS")
        assert response.headers["Retry-After"] == "5"
        streams.readers.clear()
