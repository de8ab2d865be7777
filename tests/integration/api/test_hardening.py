"""What comes in is hostile, or broken: it is refused in the one envelope, and what goes out is kept by nobody."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from app.api.protocol import MAX_HEADER_BYTES, MAX_URI_BYTES
from tests.fixtures.api import API_KEY, NO_PLACE, Api, OpenApi, refused
from tests.fixtures.serving import Served, served
from tests.fixtures.settings import MakeSettings

JSON = {"Content-Type": "application/json"}
NOTHING_RUNS = "default-src 'none'; frame-ancestors 'none'"
KEY = "k:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
APPS = {"AIOTT1": {"client_id": "c", "client_secret": "s", "redirect_uri": "http://localhost/callback"}}
POST = {"account_id": "alice", "api_app": "AIOTT1"}


BROKEN: list[tuple[bytes, dict[str, str], str | None, str]] = [
    (b"{", JSON, "INVALID_REQUEST", "not valid JSON"),
    (b"", JSON, "INVALID_REQUEST", "body: Field required"),
    (b"\xff\xfe{}", JSON, "INVALID_REQUEST", "not valid JSON"),
    (b"[" * 30_000, JSON, "INVALID_REQUEST", "not valid JSON"),
    (b'{"priority": ' + b"9" * 5_000 + b"}", JSON, "INVALID_REQUEST", "not valid JSON"),
    (b'{"priority": 1e999}', JSON, "INVALID_REQUEST", "priority: "),
    (b"NaN", JSON, "INVALID_REQUEST", "body: "),
    (b'{"\\ud800": 1}', JSON, "INVALID_REQUEST", "without lone surrogates"),
    (b'{"account_id": "\\ud800", "api_app": "A"}', JSON, "INVALID_REQUEST", "account_id: "),
    (b'{"account_id": "a", "api_app": "\\udfff"}', JSON, "INVALID_REQUEST", "api_app: "),
    (b'{"account_id": "a\\u0000", "api_app": "A"}', JSON, "INVALID_REQUEST", "account_id: "),
    (b'{"account_id": "a", "api_app": "A\\u0000"}', JSON, "UNKNOWN_API_APP", "Unknown api_app"),
    (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, "UNSUPPORTED_MEDIA_TYPE", "json"),
    (json.dumps(POST).encode(), {"Content-Type": "text/plain"}, "UNSUPPORTED_MEDIA_TYPE", "json"),
    (json.dumps(POST).encode(), {}, "UNSUPPORTED_MEDIA_TYPE", "json"),
    (json.dumps(POST).encode(), {"Content-Type": "application/json; charset=\xe4"}, None, ""),
    (json.dumps(POST).encode(), JSON | {"Idempotency-Key": "\xe4\xff"}, None, ""),
    (json.dumps(POST).encode(), JSON | {"Prefer": "wait=\xff"}, None, ""),
    *(
        (
            json.dumps(POST | {name: time}).encode(),
            JSON,
            "INVALID_REQUEST",
            f"{name}: must be a time between",
        )
        for name in ("not_before", "expires_at")
        for time in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "1969-12-31T00:00:00Z")
    ),
    (b'{"not_before": "2026-11-21T08:00:00"}', JSON, "INVALID_REQUEST", "allowed: a time with its zone"),
    (b'{"force": "maybe"}', JSON, "INVALID_REQUEST", "allowed: true or false"),
]
"""Body, headers, code of the answer (None: it is taken), and words of its sentence."""


async def test_a_broken_body_is_refused(sqlite_api: Api):
    for body, headers, expected, words in BROKEN:
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = await sqlite_api.client.post("/authorize", content=body, headers=raw)
        code = expected or "PROFILE_NOT_FOUND"  # only the account has none
        status = {"UNSUPPORTED_MEDIA_TYPE": 415, "PROFILE_NOT_FOUND": 404}.get(code, 422)
        assert words in refused(answer, status, code), body[:100]


async def test_lone_surrogates_in_a_batch(sqlite_api: Api):
    for body in (b'{"rows": [], "\\ud800": 1}', b'{"rows": [], "defaults": {"\\ud800": 1}}'):
        answer = await sqlite_api.client.post("/authorize/batch", content=body, headers=JSON)
        assert "lone surrogates" in refused(answer, 422, "INVALID_REQUEST")
    answer = await sqlite_api.client.post(
        "/authorize/batch", content=b'[{"account_id": "\\ud800", "\\ud800": "\\ud800"}]', headers=JSON
    )
    refused(answer, 422, "BATCH_EMPTY")


async def test_a_refusal_tells_field_problem_and_what_is_allowed(sqlite_api: Api):
    body = {"account_id": "secret value", "api_app": "A", "priority": 10, "consent": "secret", "secret": 1}
    answer = await sqlite_api.client.post("/authorize", json=body)
    sentence = refused(answer, 422, "INVALID_REQUEST")
    problems = {each.pop("field"): each for each in answer.json()["data"]["problems"]}
    assert problems["priority"] == {
        "problem": "Input should be less than or equal to 9",
        "allowed": "at most 9",
    }
    assert problems["consent"]["allowed"] == "'automatic' or 'attended'"
    assert problems.keys() == {"account_id", "priority", "consent", "secret"}
    assert all(f"{field}: " in sentence for field in problems)
    assert "secret value" not in answer.text


async def test_as_many_problems_as_somebody_reads(sqlite_api: Api):
    answer = await sqlite_api.client.post("/authorize", json={f"x{number}" * 20: 1 for number in range(400)})
    refused(answer, 422, "INVALID_REQUEST")
    assert len(answer.json()["data"]["problems"]) == 20
    assert len(answer.content) < 10_000


STRANGE: list[tuple[str, str | None]] = [
    ("/profiles/a%00b", "INVALID_REQUEST"),
    ("/health?x=%00", "INVALID_REQUEST"),
    ("/profiles/%ff%fe", "UNKNOWN_PROFILE"),
    ("/profiles/%ed%a0%80", "UNKNOWN_PROFILE"),
    ("/profiles?text=%ff%ed%a0%80", None),
    ("/profiles?page=1&page=2", None),
    ("/authorize?since=9999-12-31T23:59:59-14:00", "INVALID_REQUEST"),
    ("/authorize?since=1e400", "INVALID_REQUEST"),
    ("/events?until=0001-01-01T00:00:00%2B14:00", "INVALID_REQUEST"),
    ("/webhooks/x/deliveries/99999999999999999999", "INVALID_REQUEST"),
    ("/authorize/" + "x" * 5_000, "SESSION_NOT_FOUND"),
    ("/authorize/", "NOT_FOUND"),
    ("/authorize//x", "NOT_FOUND"),
    ("//authorize", "NOT_FOUND"),
    ("/accounts/%2e%2e/token?api_app=A", "INVALID_REQUEST"),
]


async def test_a_strange_address_is_answered(api: Api):
    for path, code in STRANGE:
        answer = await api.client.get(httpx.URL("http://service" + path))
        if code is None:
            assert answer.status_code == 200, path
        else:
            refused(answer, 422 if code == "INVALID_REQUEST" else 404, code)


async def test_a_method_that_an_address_does_not_take(sqlite_api: Api):
    for method, path, allowed in (
        ("DELETE", "/authorize", "GET, POST"),
        ("TRACE", "/authorize/batch", "POST"),
        ("OPTIONS", "/accounts/a/token", "DELETE, GET"),
        ("PATCH", "/health", "GET"),
    ):
        answer = await sqlite_api.client.request(method, path)
        assert f"does not take {method}; allowed: {allowed}" in refused(answer, 405, "METHOD_NOT_ALLOWED")
        assert answer.headers["Allow"] == allowed


async def test_every_answer_carries_the_headers_of_security(sqlite_api: Api):
    for path, key in (
        ("/health", API_KEY),
        ("/nowhere", API_KEY),
        ("/accounts", API_KEY),
        ("/accounts", "no"),
    ):
        headers = (await sqlite_api.client.get(path, headers={"X-API-Key": key})).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Content-Security-Policy"] == NOTHING_RUNS
        assert "Strict-Transport-Security" not in headers
        assert "Access-Control-Allow-Origin" not in headers


async def test_the_docs_are_shown_in_development_only(open_sqlite_api: OpenApi):
    real = {"environment": "production", "gologin_api_token": "t", "oauth_apps": APPS, "encryption_keys": KEY}
    for changes, status in (
        ({}, 200),
        ({"docs_enabled": False}, 404),
        (real, 404),
        (real | {"docs_enabled": True}, 200),
    ):
        async with open_sqlite_api(**changes) as api:
            for path in ("/docs", "/redoc", "/openapi.json"):
                answer = await api.client.get(path)
                assert answer.status_code == status, (changes, path)
                runs = status == 200 and path != "/openapi.json"
                policy = answer.headers["Content-Security-Policy"]
                assert ("cdn.jsdelivr.net" in policy) == runs
                assert (policy == NOTHING_RUNS) != runs


async def test_only_origins_of_the_settings_may_call_from_a_page(open_sqlite_api: OpenApi):
    mine, other = "https://tools.example.com", "https://evil.example.com"
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    async with open_sqlite_api(cors_origins=[mine]) as api:
        for origin, allowed in ((mine, mine), (other, None)):
            answer = await api.client.get("/health", headers={"Origin": origin})
            assert answer.headers.get("Access-Control-Allow-Origin") == allowed
            assert "RateLimit-Remaining" in answer.headers["Access-Control-Expose-Headers"]
            answer = await api.client.options("/authorize", headers={"Origin": origin, **preflight})
            assert answer.headers.get("Access-Control-Allow-Origin") == allowed
            assert "Access-Control-Allow-Credentials" not in answer.headers
            assert answer.headers["X-Request-ID"]


@pytest.fixture
async def sqlite_api(open_sqlite_api: OpenApi) -> Any:
    async with open_sqlite_api() as opened:
        yield opened


# --- before the application sees it ----------------------------------------------------------------------------


@pytest.fixture
async def service(make_settings: MakeSettings, sqlite_url: str, no_retries: None) -> Any:
    nobody = {"gologin_api_url": NO_PLACE, "gologin_local_url": NO_PLACE}
    async with served(
        make_settings(database_url=sqlite_url, api_key=API_KEY, shutdown_grace=2, **nobody)
    ) as it:
        yield it


async def exchange(service: Served, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to what is sent, piece by piece, until the server closes."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    try:
        async with asyncio.timeout(20):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, body


async def test_what_is_too_large_or_no_http_is_refused_before_it_is_read(service: Served):
    start, end = b"GET /health HTTP/1.1\r\nHost: x\r\n", b"Connection: close\r\n\r\n"
    long_name = b"X-A: " + b"a" * MAX_HEADER_BYTES
    for pieces, status, code in (
        ((b"GET /" + b"a" * MAX_URI_BYTES + b" HTTP/1.1\r\nHost: x\r\n" + end,), 414, "URI_TOO_LONG"),
        ((b"GET /health?" + b"a" * 3 * MAX_HEADER_BYTES,), 414, "URI_TOO_LONG"),
        ((start + long_name + b"\r\n" + end,), 431, "HEADERS_TOO_LARGE"),
        ((start + b"X-A: a\r\n" * 9_000 + end,), 431, "HEADERS_TOO_LARGE"),
        ((start + long_name, b"a"), 431, "HEADERS_TOO_LARGE"),  # and no end of it
        ((b"\x16\x03\x01\x02\x00\x01", b"\r\n\r\n"), 400, "MALFORMED_REQUEST"),
        ((b"GET /\xff HTTP/1.1\r\nHost: x\r\n" + end,), 400, "MALFORMED_REQUEST"),
        ((b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\x00b\r\n" + end,), 400, "MALFORMED_REQUEST"),
    ):
        found, headers, body = await exchange(service, *pieces)
        answer = json.loads(body)
        assert (found, answer["error_code"], answer["success"]) == (status, code, False), pieces[0][:40]
        assert answer["request_id"] == headers["x-request-id"]
        assert (headers["cache-control"], headers["connection"]) == ("no-store", "close")


async def test_what_is_large_but_not_too_large_is_taken(service: Served):
    """Bodies, and many requests on one connection, count for nothing."""
    head = b"POST /profiles/sync HTTP/1.1\r\nHost: x\r\nX-API-Key: " + API_KEY.encode() + b"\r\n"
    padding = b"X-A: " + b"a" * (MAX_HEADER_BYTES - 1_000) + b"\r\n"
    body = b'{"allow_mass_removal": false' + b" " * 60_000 + b"}"
    sized = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    request = head + padding + sized
    chunks = [body[start : start + 7_000] for start in range(0, len(body), 7_000)]
    status, _, answers = await exchange(
        service, request + b"\r\n" + body, request + b"Connection: close\r\n\r\n", *chunks
    )
    assert (status, answers.count(b'"success":true')) == (202, 2)


async def test_a_websocket_is_a_request_like_any_other(service: Served):
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
    status, _, body = await exchange(
        service, b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + upgrade + b"\r\n"
    )
    assert (status, json.loads(body)["error_code"]) == (404, "NOT_FOUND")
