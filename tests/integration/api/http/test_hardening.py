"""Hostile and broken requests are refused in the one envelope, and answers are cached by nobody."""

import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.fixtures.api import API_KEY, Api, OpenApi, refused
from tests.fixtures.logs import LogLines, logged

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

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


async def test_lone_surrogates_in_a_batch_are_refused(sqlite_api: Api):
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


async def test_refusal_lists_at_most_twenty_problems(sqlite_api: Api):
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


async def test_unsupported_method_is_answered_with_the_allowed_ones(sqlite_api: Api):
    for method, path, allowed in (
        ("DELETE", "/authorize", "GET, HEAD, POST"),
        ("TRACE", "/authorize/batch", "POST"),
        ("OPTIONS", "/accounts/a/token", "DELETE, GET, HEAD"),
        ("PATCH", "/health", "GET, HEAD"),
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
        async with open_sqlite_api(workers=False, **changes) as api:
            for path in ("/docs", "/redoc", "/openapi.json"):
                answer = await api.client.get(path)
                assert answer.status_code == status, (changes, path)
                runs = status == 200 and path != "/openapi.json"
                policy = answer.headers["Content-Security-Policy"]
                assert ("script-src 'self' 'unsafe-inline';" in policy) == runs
                assert "http" not in policy
                assert (policy == NOTHING_RUNS) != runs


async def test_only_origins_of_the_settings_may_call_from_a_page(open_sqlite_api: OpenApi):
    mine, other = "https://tools.example.com", "https://evil.example.com"
    wanted = "x-api-key, authorization"
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}
    async with open_sqlite_api(workers=False, cors_origins=[mine]) as api:
        for origin, allowed in ((mine, mine), (other, None)):
            answer = await api.client.get("/health", headers={"Origin": origin})
            assert answer.headers.get("Access-Control-Allow-Origin") == allowed
            assert "RateLimit-Remaining" in answer.headers["Access-Control-Expose-Headers"]
            answer = await api.client.options("/authorize", headers={"Origin": origin, **preflight})
            assert answer.headers.get("Access-Control-Allow-Origin") == allowed
            assert "Access-Control-Allow-Credentials" not in answer.headers
            assert answer.headers["X-Request-ID"]
            if allowed is None:
                refused(answer, 403, "CROSS_ORIGIN_REFUSED")


async def test_a_crash_is_answered_like_anything_else(
    open_sqlite_api: OpenApi, monkeypatch: pytest.MonkeyPatch
):
    origin = "https://tools.example.com"
    async with open_sqlite_api(workers=False, cors_origins=[origin]) as api:
        monkeypatch.setattr(api.context.keys, "fetch_page", None)
        answer = await api.client.get("/keys", headers={"Origin": origin})
    refused(answer, 500, "INTERNAL_ERROR")
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert answer.headers["RateLimit-Limit"] == "100"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_401_names_the_required_scheme(sqlite_api: Api):
    answer = await sqlite_api.client.get("/accounts", headers={"X-API-Key": "no"})
    refused(answer, 401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="GoLogin automation"'


@pytest.fixture
async def sqlite_api(open_sqlite_api: OpenApi) -> Any:
    async with open_sqlite_api(workers=False) as opened:
        yield opened


@pytest.mark.parametrize(
    "name", ["X-API-Key", "Idempotency-Key", "X-Request-ID", "Authorization", "Last-Event-ID", "Content-Type"]
)
async def test_a_header_that_decides_is_refused_when_it_comes_twice(
    sqlite_api: Api, name: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    headers = [(name, API_KEY), (name.lower(), "application/json")]
    answer = await sqlite_api.client.post("/authorize", json=POST, headers=headers)
    assert refused(answer, 400, "MALFORMED_REQUEST").startswith(f"{name}: ")
    assert answer.headers["X-Request-ID"] != API_KEY
    (line,) = logged(caplog, "http.request")
    assert line["error_code"] == "MALFORMED_REQUEST"


async def test_the_bootstrap_key_in_a_wrong_place_is_masked(open_sqlite_api: OpenApi, log_lines: LogLines):
    key = 'boot/strap+key "with" quotes and blanks'
    spellings = (key, json.dumps(key)[1:-1], quote(key), quote(key, safe=""))
    answers = []
    async with open_sqlite_api(workers=False, api_key=key) as api:
        headers = {"X-API-Key": key, "Referer": f"http://service/{quote(key)}"}
        for path in ("/accounts", "/keys", "/batches", "/nowhere"):
            address = f"{path}/{quote(key, safe='')}?key={quote(key)}"
            answers.append(await api.client.get(address, headers=headers))
        body = {"account_id": "alice", "api_app": key, key: 1}
        answers.append(await api.client.post("/authorize", json=body, headers=headers))
    written = json.dumps(log_lines())
    assert "/keys/[masked]" in written
    for text in (written, *(answer.text for answer in answers)):
        assert not any(spelling in text for spelling in spellings)
