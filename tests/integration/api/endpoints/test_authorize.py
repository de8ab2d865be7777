"""`POST /authorize` and `GET /authorize/{session_id}`: the envelope, whatever comes in."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from app.database import Database
from app.models import ApiKey, AuthorizationSession, Event, utc_now
from app.services.keys.service import Scope
from tests.fixtures.api import Api, OpenApi, refused
from tests.fixtures.factories import AddRow

pytestmark = pytest.mark.databases("sqlite")

BODY = {"account_id": "alice", "api_app": "AIOTT1"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"
ENVELOPE = {"success", "data", "error", "error_code", "request_id", "timestamp"}


@pytest.fixture(autouse=True)
async def alice(add_profile: AddRow) -> Any:
    return await add_profile(account_id="alice")


async def written(database: Database) -> tuple[int, int]:
    """Sessions, and events that tell of one."""
    async with database.reading() as db:
        sessions = await db.scalar(select(func.count()).select_from(AuthorizationSession))
        events = await db.scalar(select(func.count()).where(Event.session_id.is_not(None)))
    return sessions or 0, events or 0


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k-1"}], ids=["without_key", "with_key"])
async def test_a_hundred_requests_at_once_make_one_session(
    open_api: OpenApi, database: Database, headers: dict[str, str]
):
    """The session stays open, so that no request comes after its end."""
    body = {**BODY, "not_before": (utc_now() + timedelta(hours=1)).isoformat()}
    async with open_api(rate_limit_per_minute=1000) as api:
        answers = await asyncio.gather(
            *(api.client.post("/authorize", json=body, headers=headers) for _ in range(100))
        )
        api.context.begin_shutdown()
    assert sorted(answer.status_code for answer in answers) == [200] * 99 + [202]
    data = [answer.json()["data"] for answer in answers]
    assert len({each["session_id"] for each in data}) == 1
    assert [each["existing"] for each in data].count(False) == 1
    assert await written(database) == (1, 1)


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_request_is_accepted_at_once(api: Api, alice: Any, database: Database):
    response = await api.client.post("/authorize", json=BODY)
    answer = response.json()
    assert response.status_code == 202
    assert set(answer) == ENVELOPE
    assert (answer["success"], answer["error"], answer["error_code"]) == (True, None, None)
    assert datetime.fromisoformat(answer["timestamp"]).utcoffset() == timedelta(0)
    data = answer["data"]
    assert data["status"] in ("pending", "in_progress")
    assert (data["profile_id"], data["account_id"], data["api_app"]) == (alice.profile_id, "alice", "AIOTT1")
    assert response.headers["Location"] == f"/authorize/{data['session_id']}"
    async with database.reading() as db:
        row = (await db.scalars(select(AuthorizationSession))).one()
    assert (row.session_id, row.requested_by) == (data["session_id"], "bootstrap")


async def test_the_location_shows_the_session(api: Api):
    made = await api.client.post("/authorize", json=BODY)
    shown = await api.client.get(made.headers["Location"])
    assert shown.status_code == 200
    assert shown.json()["data"]["session_id"] == made.json()["data"]["session_id"]


async def test_a_caller_may_wait_for_the_end(working_api: Api):
    """GoLogin cannot be reached, so the end is a failure, with its reason."""
    response = await working_api.client.post("/authorize", json=BODY, headers={"Prefer": "wait=30"})
    data = response.json()["data"]
    assert response.status_code == 202
    assert (data["status"], data["error_code"]) == ("failed", "GOLOGIN_API_ERROR")
    assert "cannot be reached" in data["error"]
    assert data["completed_at"] is not None
    again = await working_api.client.get(response.headers["Location"], headers={"Prefer": "wait=30"})
    assert again.json()["data"]["status"] == "failed"


@pytest.mark.parametrize("account_id", ["alice", "@alice", " @ALICE "])
async def test_an_account_is_found_however_it_is_spelt(api: Api, account_id: str):
    response = await api.client.post(
        "/authorize", json={**BODY, "account_id": account_id, "action": "authorize"}
    )
    assert response.json()["data"]["account_id"] == "alice"


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        ({**BODY, "api_app": "NOPE"}, 422, "UNKNOWN_API_APP", "AIOTT1"),
        ({**BODY, "account_id": "nobody"}, 404, "PROFILE_NOT_FOUND", "account: nobody"),
        ({**BODY, "account_id": ""}, 422, "INVALID_REQUEST", "account_id: must be an account's handle"),
        ({**BODY, "account_id": "@"}, 422, "INVALID_REQUEST", "account_id: must be"),
        ({**BODY, "account_id": "a" * 65}, 422, "INVALID_REQUEST", "1 to 64 letters"),
        ({**BODY, "account_id": "a" * 1000}, 422, "INVALID_REQUEST", "at most 128"),
        ({**BODY, "account_id": None}, 422, "INVALID_REQUEST", "account_id: "),
        ({**BODY, "action": "s3cret"}, 422, "INVALID_REQUEST", "action: "),
        ({**BODY, "password": "s3cret"}, 422, "INVALID_REQUEST", "password: Extra"),
        ({}, 422, "INVALID_REQUEST", "account_id: Field required; api_app: Field required"),
        ([], 422, "INVALID_REQUEST", "body: "),
        ("s3cret", 422, "INVALID_REQUEST", "body: "),
    ],
)
async def test_invalid_body_is_refused(
    api: Api, database: Database, body: object, status: int, code: str, said: str
):
    sentence = refused(await api.client.post("/authorize", json=body), status, code)
    assert said in sentence
    assert "s3cret" not in sentence
    assert await written(database) == (0, 0)


@pytest.mark.parametrize(
    "content", [b"{", b"", b"not json s3cret", b'{"account_id": "alice",}', b"\xff\xfe", b"[" * 5000]
)
async def test_body_that_is_no_json_is_refused(api: Api, database: Database, content: bytes):
    response = await api.client.post(
        "/authorize", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (400, 422)
    sentence = refused(response, response.status_code, "INVALID_REQUEST")
    assert "s3cret" not in sentence
    assert await written(database) == (0, 0)


async def chunks(total: int) -> AsyncIterator[bytes]:
    yield b'{"account_id": "'
    for _ in range(total // 1024):
        yield b"a" * 1024
    yield b'", "api_app": "AIOTT1"}'


@pytest.mark.parametrize("announced", [True, False], ids=["with-length", "chunked"])
async def test_body_over_64_kib_is_refused(api: Api, database: Database, announced: bool):
    content = b"".join([chunk async for chunk in chunks(64 * 1024)]) if announced else chunks(64 * 1024)
    response = await api.client.post(
        "/authorize", content=content, headers={"Content-Type": "application/json"}
    )
    refused(response, 413, "BODY_TOO_LARGE")
    assert await written(database) == (0, 0)


@pytest.mark.parametrize("key", [None, "", "wrong", "gla_00000000_wrong"])
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_missing_or_wrong_key_is_refused(api: Api, database: Database, key: str | None, method: str):
    del api.client.headers["X-API-Key"]
    headers = {} if key is None else {"X-API-Key": key}
    url = "/authorize" if method == "POST" else f"/authorize/{UNKNOWN}"
    response = await api.client.request(method, url, json=BODY, headers=headers)
    assert "X-API-Key header" in refused(response, 401, "UNAUTHORIZED")
    assert await written(database) == (0, 0)


async def test_a_made_key_opens_and_signs_the_session(api: Api, database: Database):
    headers = await api.key(Scope.AUTHORIZE)
    assert (await api.client.post("/authorize", json=BODY, headers=headers)).status_code == 202
    async with database.reading() as db:
        assert await db.scalar(select(AuthorizationSession.requested_by)) == "own"
        query = select(Event.actor).where(Event.event_type == "authorization.requested")
        assert await db.scalar(query) == "own"


async def test_expired_key_is_refused(api: Api, database: Database):
    headers = await api.key(Scope.AUTHORIZE)
    async with database.transaction() as db:
        await db.execute(update(ApiKey).values(expires_at=utc_now() - timedelta(seconds=1)))
    refused(await api.client.post("/authorize", json=BODY, headers=headers), 401, "UNAUTHORIZED")
    assert await written(database) == (0, 0)


async def test_key_without_the_scope_is_refused(api: Api, database: Database):
    headers = await api.key(Scope.TOKENS_READ)
    for method, url, scope in (
        ("POST", "/authorize", "authorize"),
        ("GET", f"/authorize/{UNKNOWN}", "sessions:read"),
    ):
        response = await api.client.request(method, url, json=BODY, headers=headers)
        assert f"'{scope}'" in refused(response, 403, "FORBIDDEN")
    assert await written(database) == (0, 0)


@pytest.mark.parametrize("session_id", [UNKNOWN, "x", "x" * 5000, "%01", "%F0%9F%98%80"])
async def test_unknown_session_is_not_found(api: Api, session_id: str):
    refused(await api.client.get(f"/authorize/{session_id}"), 404, "SESSION_NOT_FOUND")


async def test_unknown_address_is_not_found(api: Api):
    assert "openapi.json" in refused(await api.client.get("/nowhere"), 404, "NOT_FOUND")


async def test_unknown_method_is_refused(api: Api):
    response = await api.client.put("/authorize", json=BODY)
    refused(response, 405, "METHOD_NOT_ALLOWED")
    assert "POST" in response.headers["Allow"]


async def test_request_over_the_limit_is_refused(open_api: OpenApi, database: Database):
    async with open_api(workers=False, rate_limit_per_minute=2) as api:
        for _ in range(2):
            assert (await api.client.get(f"/authorize/{UNKNOWN}")).status_code == 404
        response = await api.client.post("/authorize", json=BODY)
        assert "More than 2 requests a minute" in refused(response, 429, "RATE_LIMITED")
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        other = await api.key(Scope.AUTHORIZE)
        assert await written(database) == (0, 0)
        assert (await api.client.post("/authorize", json=BODY, headers=other)).status_code == 202


class TestRequestId:
    async def test_callers_request_id_is_echoed_and_stored(self, api: Api, database: Database):
        response = await api.client.post("/authorize", json=BODY, headers={"X-Request-ID": "order-7"})
        assert response.headers["X-Request-ID"] == "order-7"
        assert response.json()["request_id"] == "order-7"
        assert response.json()["data"]["request_id"] == "order-7"
        async with database.reading() as db:
            query = select(Event.request_id).where(Event.event_type == "authorization.requested")
            assert await db.scalar(query) == "order-7"

    async def test_worker_continues_under_the_request_id(self, working_api: Api, database: Database, caplog):
        headers = {"X-Request-ID": "order-7", "Prefer": "wait=30"}
        await working_api.client.post("/authorize", json=BODY, headers=headers)
        lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        of_the_work = [line for line in lines if line["event"].startswith("authorization.")]
        assert {line["event"] for line in of_the_work} >= {"authorization.started", "authorization.failed"}
        assert {line["request_id"] for line in of_the_work} == {"order-7"}
        assert {line["account_id"] for line in of_the_work} == {"alice"}
        async with database.reading() as db:
            query = select(Event.request_id).where(Event.session_id.is_not(None)).distinct()
            assert list(await db.scalars(query)) == ["order-7"]

    @pytest.mark.parametrize("sent", [None, "", "a b", "x" * 129, '"><script>'])
    async def test_service_mints_a_request_id_without_a_valid_one(self, api: Api, sent: str | None):
        headers = {} if sent is None else {"X-Request-ID": sent}
        response = await api.client.post("/authorize", json=BODY, headers=headers)
        minted = response.headers["X-Request-ID"]
        assert uuid.UUID(minted)
        assert response.json()["data"]["request_id"] == minted

    async def test_request_id_is_echoed_on_a_refusal(self, api: Api):
        response = await api.client.post("/authorize", json={}, headers={"X-Request-ID": "order-7"})
        assert response.headers["X-Request-ID"] == response.json()["request_id"] == "order-7"

    async def test_request_id_is_echoed_on_a_crash_that_shows_no_internals(
        self, api: Api, database: Database
    ):
        async with database.transaction() as db:
            await db.execute(text("DROP TABLE api_keys"))
        response = await api.client.post("/authorize", json=BODY, headers={"X-Request-ID": "order-7"})
        assert refused(response, 500, "INTERNAL_ERROR") == "An unexpected error occurred"
        assert response.headers["X-Request-ID"] == "order-7"
        assert "api_keys" not in response.text
        assert (await api.client.get("/health")).status_code == 200
