"""`Authorization: Bearer` opens what `X-API-Key` opens, under the same limits, and two keys open nothing."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from app.models import utc_now
from app.services.keys.service import Scope
from tests.fixtures.api import API_KEY, Api, OpenApi, answered, refused
from tests.fixtures.logs import LogLines, logged

STRANGER = "gla_00000000_" + "x" * 43
HOUR = timedelta(hours=1)


@pytest_asyncio.fixture
async def keyless_api(open_sqlite_api: OpenApi) -> AsyncIterator[Api]:
    """The application; its client sends no key."""
    async with open_sqlite_api(workers=False, event_stream_lifetime=0.2) as opened:
        del opened.client.headers["X-API-Key"]
        yield opened


async def bearer(api: Api, *scopes: Scope, **options: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {(await api.key(*scopes, **options))['X-API-Key']}"}


async def test_same_key_has_the_same_rights_in_either_header(keyless_api: Api):
    headers = await bearer(keyless_api, Scope.SESSIONS_READ)
    answered(await keyless_api.client.get("/gologin/breaker", headers={"Authorization": f"bearer {API_KEY}"}))
    assert (await keyless_api.client.get("/authorize", headers=headers)).status_code == 200
    answer = await keyless_api.client.get("/keys", headers=headers)
    assert "'admin'" in refused(answer, 403, "FORBIDDEN")
    both = headers | {"X-API-Key": headers["Authorization"].removeprefix("Bearer ")}
    assert (await keyless_api.client.get("/authorize", headers=both)).status_code == 200


@pytest.mark.parametrize("path", ["/events/export?format=ndjson", "/events/stream"])
async def test_long_answer_asks_again_for_the_key_of_the_bearer(keyless_api: Api, path: str):
    headers = await bearer(keyless_api, Scope.EVENTS) | {"Last-Event-ID": "0-0"}
    assert "api_key.created" in (await keyless_api.client.get(path, headers=headers)).text


async def test_key_in_a_query_or_a_form_is_not_read(keyless_api: Api):
    """RFC 6750 allows both, and advises against them: addresses end in logs."""
    for name in ("access_token", "api_key", "X-API-Key"):
        answer = await keyless_api.client.get("/accounts", params={name: API_KEY})
        refused(answer, 401, "UNAUTHORIZED")
    answer = await keyless_api.client.post("/keys", data={"access_token": API_KEY})
    refused(answer, 401, "UNAUTHORIZED")


async def test_two_different_keys_are_refused_whichever_is_valid(keyless_api: Api, log_lines: LogLines):
    own = (await keyless_api.key(*Scope, expires_at=utc_now() + HOUR))["X-API-Key"]
    for first, second in ((own, STRANGER), (STRANGER, own), (own, API_KEY), (STRANGER, f"{STRANGER}x")):
        headers = {"X-API-Key": first, "Authorization": f"Bearer {second}"}
        for path in ("/accounts", "/events/stream"):
            answer = await keyless_api.client.get(path, headers=headers)
            sentence = refused(answer, 400, "MALFORMED_REQUEST")
            assert "send one of these headers" in sentence
            assert not any(key in answer.text for key in (first, second))
    written = json.dumps(log_lines())
    assert "MALFORMED_REQUEST" in written
    assert not any(key in written for key in (own, STRANGER, API_KEY))


async def test_failed_bearers_count_with_the_address(open_sqlite_api: OpenApi):
    async with open_sqlite_api(workers=False, auth_failures_per_minute=2) as api:
        del api.client.headers["X-API-Key"]
        for headers, status in (
            ({"Authorization": f"Bearer {STRANGER}"}, 401),
            ({"Authorization": "Bearer ,"}, 401),
            ({"Authorization": f"Bearer {STRANGER}"}, 429),
            ({"X-API-Key": STRANGER}, 429),
            ({"Authorization": f"Bearer {API_KEY}"}, 200),
        ):
            assert (await api.client.get("/accounts", headers=headers)).status_code == status, headers


async def test_requests_of_a_key_count_together_whichever_header_has_it(open_sqlite_api: OpenApi):
    async with open_sqlite_api(workers=False, rate_limit_per_minute=2) as api:
        for headers in ({}, {"X-API-Key": "", "Authorization": f"Bearer {API_KEY}"}):
            assert (await api.client.get("/accounts", headers=headers)).status_code == 200
        refused(await api.client.get("/accounts"), 429, "RATE_LIMITED")


async def test_log_names_the_key_of_a_bearer_and_does_not_show_it(
    keyless_api: Api, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    headers = await bearer(keyless_api, Scope.ADMIN, name="anna")
    await keyless_api.client.get("/keys", headers=headers)
    (line,) = logged(caplog, "http.request")
    assert (line["key"], line["status"]) == ("anna", 200)
    assert headers["Authorization"].removeprefix("Bearer ") not in str(line)
