"""`POST /authorize/batch` and `/batches`: whatever comes in, each row gets its answer."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.api.schemas.batch import read_batch as read_order
from app.database import Database
from app.models import AuthorizationSession, Batch, BatchRow
from app.services.keys.service import Scope
from tests.fixtures.api import Api, OpenApi, answered, refused
from tests.fixtures.batches import (
    account_names,
    add_accounts,
    count_rows,
    input_rows,
    place_batch,
    read_batch,
)
from tests.fixtures.routes import granting
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite")

URL = "/authorize/batch"
CSV = {"Content-Type": "text/csv"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def working_api(open_api: OpenApi) -> AsyncIterator[Api]:
    """The application with its workers; a test may look as often as it likes."""
    async with open_api(rate_limit_per_minute=10_000) as opened:
        yield opened
        opened.context.begin_shutdown()


@pytest.fixture(autouse=True)
async def _accounts(database: Database) -> None:
    await add_accounts(database, ["alice", "bob", "carol"])


def row(account_id: Any = "alice", api_app: Any = "AIOTT1", **more: Any) -> dict[str, Any]:
    return {"account_id": account_id, "api_app": api_app, **more}


def outcome(data: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(each["row"], each["account_id"], each["error_code"]) for each in data["rows"]]


async def ended(api: Api, batch_id: str) -> Any:
    async def look() -> Any:
        data = answered(await api.client.get(f"/batches/{batch_id}"))
        return data if data["completed_at"] else None

    return await eventually(look)


async def test_a_list_is_accepted_and_each_row_has_its_answer(api: Api, database: Database):
    response = await api.client.post(URL, json=[row(), row("@BOB", priority=9), row("nobody"), 7])
    data = answered(response, 202)
    assert outcome(data) == [
        (1, "alice", None),
        (2, "bob", None),
        (3, "nobody", "PROFILE_NOT_FOUND"),
        (4, "", "INVALID_REQUEST"),
    ]
    assert all((each["session_id"] is None) == (each["error"] is not None) for each in data["rows"])
    assert (data["accepted"], data["rejected"], data["existing"]) == (2, 2, False)
    assert (data["max_running"], data["stop_percent"], data["stop_window"]) == (10, 50, 20)
    assert response.headers["Location"] == f"/batches/{data['batch_id']}"
    shown = answered(await api.client.get(f"/authorize/{data['rows'][1]['session_id']}"))
    assert (shown["account_id"], shown["priority"]) == ("bob", 9)


@pytest.mark.databases("sqlite", "postgresql")
async def test_batch_completes_by_itself(working_api: Api):
    """GoLogin cannot be reached, so each session fails, with its reason."""
    body = {"rows": [row(), row("bob"), row("carol")], "max_running": 1}
    batch_id = answered(await working_api.client.post(URL, json=body), 202)["batch_id"]
    data = await ended(working_api, batch_id)
    assert (data["status"], data["counts"]["failed"], data["eta_seconds"]) == ("completed", 3, None)
    answer = (await working_api.client.get(f"/batches/{batch_id}/results", params={"page_size": 2})).json()
    assert (answer["total"], answer["page"], answer["total_pages"]) == (3, 1, 2)
    assert [(each["row"], each["status"], each["error_code"]) for each in answer["data"]] == [
        (1, "failed", "GOLOGIN_API_ERROR"),
        (2, "failed", "GOLOGIN_API_ERROR"),
    ]
    listed = (await working_api.client.get("/batches")).json()
    assert [(each["batch_id"], each["status"]) for each in listed["data"]] == [(batch_id, "completed")]

    again = answered(await working_api.client.post(f"/batches/{batch_id}/retry"), 202)
    assert (again["put_back"], again["status"]) == (3, "running")
    assert (await ended(working_api, batch_id))["counts"]["failed"] == 3


async def test_batch_has_options_with_defaults(api: Api, database: Database):
    defaults = {"api_app": "AIOTT1", "priority": 2, "timeout_seconds": 30}
    body = {"rows": [{"account_id": "alice"}], "defaults": defaults, "max_running": 3, "stop_percent": 0}
    data = answered(await api.client.post(URL, json=body | {"stop_window": 7}), 202)
    assert (data["max_running"], data["stop_percent"], data["stop_window"]) == (3, 0, 7)
    assert answered(await api.client.get(f"/authorize/{data['rows'][0]['session_id']}"))["priority"] == 2


async def test_csv_is_accepted(api: Api):
    content = (
        "\ufeffaccount_id,note,api_app,priority\n@Alice,x,AIOTT1,\nbob,,AIOTT1,9\ncarol,,AIOTT1,ten\n,,,\n"
    )
    response = await api.client.post(f"{URL}?max_running=2", content=content.encode(), headers=CSV)
    data = answered(response, 202)
    assert outcome(data) == [
        (1, "alice", None), (2, "bob", None), (3, "carol", "INVALID_REQUEST"), (4, "", "INVALID_REQUEST"),
    ]  # fmt: skip
    assert data["max_running"] == 2
    assert "priority" in data["rows"][2]["error"]


async def test_csv_of_handles_alone_is_accepted(api: Api):
    response = await api.client.post(f"{URL}?api_app=AIOTT1", content=b"account_id\nalice\n", headers=CSV)
    assert outcome(answered(response, 202)) == [(1, "alice", None)]


@pytest.mark.parametrize(
    "bad",
    [
        None, [], "alice", {}, row(None), row(""), row("a b"), row(7), row("bob", None), row("bob", ""),
        row("bob", "N\x00PE"), row("bob", "\ud800"), row("\ud800"), row("x" * 5000), row("bob", priority=10),
        row("bob", priority=True), row("bob", priority="5"), row("bob", password="s3cret"),
        row("bob", **{"\ud800": 1}), row("bob", "x" * 65), row({"a": 1}),
    ],
    ids=repr,
)  # fmt: skip
async def test_bad_row_does_not_block_others(api: Api, bad: Any):
    content = json.dumps([bad, row()])  # the client's own would not send half a character
    response = await api.client.post(URL, content=content, headers={"Content-Type": "application/json"})
    data = answered(response, 202)
    assert [each["error_code"] for each in data["rows"]] == ["INVALID_REQUEST", None]
    assert "s3cret" not in response.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "rows: Field required"),
        ({"rows": "alice"}, "rows: "),
        ({"rows": [row()], "max_running": 0}, "max_running: "),
        ({"rows": [row()], "stop_percent": 101}, "stop_percent: "),
        ({"rows": [row()], "stop_window": 0}, "stop_window: "),
        ({"rows": [row()], "max_runing": 5}, "max_runing: Extra"),
        ({"rows": [row()], "defaults": {"priority": 10}}, "defaults.priority: "),
        ({"rows": [row()], "defaults": {"expires_at": "2020-01-01T00:00:00Z"}}, "expires_at: "),
        ("s3cret", "body: "),
        (7, "body: "),
    ],
)
async def test_invalid_batch_is_refused(api: Api, database: Database, body: Any, said: str):
    sentence = refused(await api.client.post(URL, json=body), 422, "INVALID_REQUEST")
    assert said in sentence
    assert "s3cret" not in sentence
    assert await count_rows(database, Batch) == 0


@pytest.mark.parametrize(
    ("content", "query", "said"),
    [
        (b"", "", "account_id"),
        (b"id;app\nalice;AIOTT1\n", "", "missing: account_id, api_app"),
        (b"account_id\nalice\n", "", "missing: api_app"),
        (b"account_id,api_app\nM\xfcller,AIOTT1\n", "", "not UTF-8"),
        (b'account_id,api_app\n"alice,AIOTT1\n', "", "cannot be read"),
        (b"account_id,api_app\nalice,AIOTT1\n", "max_running=0", "max_running"),
        (b"account_id,api_app\nalice,AIOTT1\n", "colour=red", "colour"),
    ],
)
async def test_unreadable_csv_is_refused(api: Api, database: Database, content: bytes, query: str, said: str):
    response = await api.client.post(f"{URL}?{query}", content=content, headers=CSV)
    assert said in refused(response, 422, "INVALID_REQUEST")
    assert await count_rows(database, Batch) == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"account_id,api_app\nalice,A\n"]
)
async def test_body_that_is_no_json_is_refused(api: Api, content: bytes):
    answer = await api.client.post(URL, content=content, headers={"Content-Type": "application/json"})
    assert "not valid JSON" in refused(answer, 422, "INVALID_REQUEST")
    refused(await api.client.post(URL, content=content), 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_batch_without_a_good_row_is_refused(api: Api, database: Database):
    sentence = refused(await api.client.post(URL, json=[row("nobody"), row("x y")]), 422, "BATCH_EMPTY")
    assert "account: nobody" in sentence
    refused(await api.client.post(URL, json=[]), 422, "BATCH_EMPTY")
    refused(await api.client.post(URL, content=b"account_id,api_app\n", headers=CSV), 422, "BATCH_EMPTY")
    assert (await count_rows(database, Batch), await count_rows(database, BatchRow)) == (0, 0)


async def test_batch_of_too_many_rows_is_refused(open_api: OpenApi):
    async with open_api(workers=False, max_batch_rows=3) as api:
        answered(await api.client.post(URL, json=[row()] * 3), 202)
        sentence = refused(await api.client.post(URL, json=[row()] * 4), 422, "INVALID_REQUEST")
        assert "split it" in sentence


async def test_a_batch_is_read_outside_the_event_loop(api: Api, monkeypatch: pytest.MonkeyPatch):
    threads = []

    def noted(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return read_order(*arguments, **options)

    monkeypatch.setattr("app.api.endpoints.batches.read_batch", noted)
    answered(await api.client.post(URL, json=[row()]), 202)
    assert threads
    assert threading.main_thread() not in threads


async def test_a_priority_of_thousands_of_digits_is_answered_with_its_row(api: Api):
    content = b"account_id,api_app,priority\nalice,AIOTT1," + b"9" * 5000 + b"\nbob,AIOTT1,3\n"
    data = answered(await api.client.post(URL, content=content, headers=CSV), 202)
    assert outcome(data) == [(1, "alice", "INVALID_REQUEST"), (2, "bob", None)]


async def pieces(total: int) -> AsyncIterator[bytes]:
    yield b"account_id,api_app\n"
    for number in range(total // 16):
        yield f"x{number:07d},AIOTT1\n".encode()


@pytest.mark.parametrize("announced", [True, False], ids=["with-length", "chunked"])
async def test_body_of_a_batch_has_its_own_limit(open_api: OpenApi, announced: bool):
    async with open_api(workers=False, max_body_bytes=1024, max_batch_bytes=8192) as api:

        async def send(url: str, total: int) -> httpx.Response:
            content = b"".join([piece async for piece in pieces(total)]) if announced else pieces(total)
            return await api.client.post(url, content=content, headers=CSV)

        refused(await send(URL, 4096), 422, "BATCH_EMPTY")
        refused(await send(URL, 8192), 413, "BODY_TOO_LARGE")
        refused(await send("/authorize", 4096), 413, "BODY_TOO_LARGE")


@pytest.mark.databases("sqlite", "postgresql")
async def test_requests_with_the_same_key_make_one_batch(api: Api, database: Database):
    async def post(*accounts: str) -> httpx.Response:
        headers = {"Idempotency-Key": "k-1"}
        return await api.client.post(URL, json=[row(account) for account in accounts], headers=headers)

    responses = await asyncio.gather(*(post("alice", "bob") for _ in range(6)))
    assert sorted(response.status_code for response in responses) == [200] * 5 + [202]
    data = [response.json()["data"] for response in responses]
    assert len({each["batch_id"] for each in data}) == 1
    assert sorted(each["existing"] for each in data) == [False] + [True] * 5
    assert len({str([each["session_id"] for each in one["rows"]]) for one in data}) == 1
    refused(await post("alice"), 409, "IDEMPOTENCY_CONFLICT")
    response = await api.client.post("/authorize", json=row(), headers={"Idempotency-Key": "k-1"})
    refused(response, 409, "IDEMPOTENCY_CONFLICT")
    assert (await count_rows(database, Batch), await count_rows(database, AuthorizationSession)) == (1, 2)


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_whole_batch_is_cancelled(api: Api, database: Database):
    accounts = account_names(300)
    await add_accounts(database, accounts)
    placed = await place_batch(api.context, input_rows(*accounts))
    data = answered(await api.client.post(f"/batches/{placed.batch_id}/cancel"))
    assert data["status"] == "cancelled"
    assert data["completed_at"]
    assert data["counts"]["cancelled"] + data["counts"]["failed"] == 300
    assert (await read_batch(database, placed.batch_id)).reason == "asked for by bootstrap"
    refused(await api.client.post(f"/batches/{placed.batch_id}/cancel"), 409, "BATCH_ENDED")


async def test_reading_batches_and_changing_them_are_two_scopes(api: Api):
    reads = [("GET", path) for path in ("/batches", f"/batches/{UNKNOWN}", f"/batches/{UNKNOWN}/results")]
    changes = [("POST", URL), *(("POST", f"/batches/{UNKNOWN}/{what}") for what in ("cancel", "retry"))]
    reader = await api.key(Scope.SESSIONS_READ, name="reader")
    caller = await api.key(Scope.AUTHORIZE, name="caller")  # until release 0.3 it reads, too
    stranger = await api.key(*(set(Scope) - granting(Scope.SESSIONS_READ)), name="stranger")
    for method, url in reads:
        assert (await api.client.request(method, url, headers=reader)).status_code in (200, 404)
    for method, url in changes:
        refused(await api.client.request(method, url, headers=reader), 403, "FORBIDDEN")
    for method, url in reads + changes:
        refused(await api.client.request(method, url, headers=stranger), 403, "FORBIDDEN")
        refused(await api.client.request(method, url, headers={"X-API-Key": "x"}), 401, "UNAUTHORIZED")
        response = await api.client.request(method, url, headers=caller)
        assert response.status_code != 403
        if UNKNOWN in url:
            refused(response, 404, "BATCH_NOT_FOUND")


async def test_invalid_pages_are_refused(api: Api):
    for query in ("page=0", "page_size=501", "size=3"):
        refused(await api.client.get(f"/batches?{query}"), 422, "INVALID_REQUEST")


async def test_openapi_describes_both_bodies(api: Api):
    described = (await api.client.get("/openapi.json")).json()["paths"][URL]["post"]["requestBody"]
    assert set(described["content"]) == {"application/json", "text/csv"}
