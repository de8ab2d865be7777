"""`/keys` over HTTP: shown once, used, rotated, revoked; and what a restricted key sees of apps."""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from app.database import Database
from app.models import ApiKey, AppState, Event, utc_now
from app.services.keys.service import Scope
from app.services.shared.access import AccessScope
from tests.fixtures.api import Api, OpenApi, answered, refused
from tests.fixtures.factories import new_profile
from tests.fixtures.logs import logged

pytestmark = pytest.mark.databases("sqlite")

BILLING = {
    "name": "billing",
    "scopes": ["authorize", "tokens:read"],
    "api_apps": ["AIOTT1"],
    "account_patterns": ["@Shop_*"],
    "rate_limit_per_minute": 7,
    "expires_at": "2100-01-01T00:00:00Z",
}


async def made(api: Api, **values: Any) -> Any:
    return answered(await api.client.post("/keys", json=BILLING | values), 201)


async def use(api: Api, key: str) -> httpx.Response:
    return await api.client.get("/accounts", headers={"X-API-Key": key})


async def test_a_key_is_shown_once_and_listed_without_it(api: Api):
    response = await api.client.post("/keys", json=BILLING)
    assert response.headers["Cache-Control"] == "no-store"
    shown = answered(response, 201)
    key = shown.pop("key")
    assert shown == BILLING | {
        "key_id": shown["key_id"],
        "prefix": key[:12],
        "status": "active",
        "account_patterns": ["shop_*"],
        "previous_prefix": None,
        "previous_expires_at": None,
        "created_by": "bootstrap",
        "created_at": shown["created_at"],
        "revoked_at": None,
        "last_used_at": None,
    }
    assert answered(await api.client.get(f"/keys/{shown['key_id']}")) == shown
    listed = await api.client.get("/keys", params={"status": "active", "text": "BILL"})
    assert (listed.json()["data"], listed.json()["total"]) == ([shown], 1)
    assert key[12:] not in listed.text


async def test_key_is_rotated_and_revoked(api: Api):
    first = await made(api)
    path = f"/keys/{first['key_id']}"
    second = answered(await api.client.post(f"{path}/rotate"))
    assert second["previous_prefix"] == first["prefix"]
    for key in (first["key"], second["key"]):
        assert (await use(api, key)).status_code == 200
    again = await api.client.post(f"{path}/rotate", json={"overlap": 0})
    assert '"force": true' in refused(again, 409, "ROTATION_UNDER_WAY")
    third = answered(await api.client.post(f"{path}/rotate", json={"overlap": 0, "force": True}))
    refused(await use(api, second["key"]), 401, "UNAUTHORIZED")
    assert (await use(api, third["key"])).status_code == 200

    for _ in range(2):
        assert answered(await api.client.delete(path))["status"] == "revoked"
    refused(await use(api, third["key"]), 401, "UNAUTHORIZED")
    refused(await api.client.post(f"{path}/rotate"), 409, "KEY_ENDED")
    refused(await api.client.post("/keys", json=BILLING), 409, "KEY_NAME_TAKEN")


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"name": "cli"}, "INVALID_REQUEST"),
        ({"scopes": []}, "INVALID_REQUEST"),
        ({"scopes": ["all"]}, "INVALID_REQUEST"),
        ({"api_apps": ["NOPE"]}, "UNKNOWN_API_APP"),
        ({"account_patterns": ["shop%"]}, "INVALID_REQUEST"),
        ({"account_patterns": ["shop_*"] * 21}, "INVALID_REQUEST"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "INVALID_REQUEST"),
        ({"rate_limit_per_minute": 0}, "INVALID_REQUEST"),
        ({"key": "my own"}, "INVALID_REQUEST"),
    ],
)
async def test_invalid_key_is_refused(api: Api, values: dict[str, Any], code: str):
    refused(await api.client.post("/keys", json=BILLING | values), 422, code)
    assert (await api.client.get("/keys")).json()["total"] == 0


async def test_restricted_key_makes_no_stronger_one(api: Api):
    within = {"scopes": ["admin"], "expires_at": "2090-01-01T00:00:00Z"}
    headers = {"X-API-Key": (await made(api, **within))["key"]}
    for values, words in (
        ({}, "expires_at must be 2090-01-01"),
        (within | {"expires_at": None}, "expires_at"),
        (within | {"rate_limit_per_minute": None}, "rate_limit_per_minute must be given, and at most 7"),
        (within | {"account_patterns": []}, "scopes, apps or accounts"),
    ):
        answer = await api.client.post("/keys", json=BILLING | {"name": "more"} | values, headers=headers)
        assert words in refused(answer, 403, "KEY_ESCALATION")
    answered(await api.client.post("/keys", json=BILLING | within | {"name": "same"}, headers=headers), 201)


async def test_unknown_key_is_not_found(api: Api):
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/rotate")):
        refused(await api.client.request(method, f"/keys/nobody{path}"), 404, "KEY_NOT_FOUND")


async def test_a_key_for_an_app_resumes_that_app(api: Api, database: Database):
    async with database.transaction() as db:
        db.add_all(
            AppState(api_app=name, paused_at=utc_now(), reason="x", failures_in_a_row=5)
            for name in ("AIOTT1", "AIOTT9")
        )
    headers = await api.key(Scope.ADMIN, access=AccessScope.from_lists(["AIOTT1"], []))
    paused = answered(await api.client.get("/apps/paused", headers=headers))
    assert [row["api_app"] for row in paused] == ["AIOTT1"]
    refused(await api.client.post("/apps/AIOTT9/resume", headers=headers), 403, "OUT_OF_REACH")
    assert answered(await api.client.post("/apps/AIOTT1/resume", headers=headers)) == {
        "api_app": "AIOTT1", "was_paused": True, "was_limited": False,
    }  # fmt: skip


async def test_a_limited_app_is_listed_with_its_limit_and_resumed(api: Api):
    context = api.context
    for app, seconds in (("AIOTT1", 600), ("AIOTT2", -1)):
        async with context.database.transaction() as db:
            await context.tokens.apps.set_limit(db, app, seconds=seconds, reason="x-rate-limit")
    (listed,) = answered(await api.client.get("/apps/paused"))
    until = datetime.fromisoformat(listed.pop("limited_until"))
    assert timedelta(seconds=590) < until - utc_now() <= timedelta(seconds=600)
    assert listed == {"api_app": "AIOTT1", "paused_at": None, "reason": "", "limited_by": "x-rate-limit"}
    resumed = answered(await api.client.post("/apps/AIOTT1/resume"))
    assert (resumed["was_paused"], resumed["was_limited"]) == (False, True)
    assert answered(await api.client.get("/apps/paused")) == []


async def test_a_batch_takes_the_rows_in_reach_and_says_why_not_the_others(api: Api, database: Database):
    async with database.transaction() as db:
        db.add_all(new_profile(account_id=name) for name in ("shop_1", "anna"))
    headers = await api.key(Scope.AUTHORIZE, access=AccessScope.from_lists(["AIOTT1"], ["shop_*"]))
    rows = [{"account_id": name, "api_app": "AIOTT1"} for name in ("shop_1", "anna")]
    placed = answered(await api.client.post("/authorize/batch", json=rows, headers=headers), 202)
    assert [row["error_code"] for row in placed["rows"]] == [None, "OUT_OF_REACH"]
    assert placed["accepted"] == 1
    seen = await api.client.get(f"/batches/{placed['batch_id']}/results", headers=headers)
    assert seen.json()["total"] == 2, "its own batch, with what it named itself"
    others = await api.key(
        Scope.AUTHORIZE, name="others", access=AccessScope.from_lists(["AIOTT1"], ["shop_*"])
    )
    answer = await api.client.get(f"/batches/{placed['batch_id']}", headers=others)
    refused(answer, 404, "BATCH_NOT_FOUND")


async def test_requester_of_a_sync_is_recorded(api: Api, database: Database):
    headers = await api.key(Scope.PROFILES)
    await api.client.post("/profiles/sync", headers=headers)
    async with database.reading() as db:
        query = select(Event.actor).where(Event.event_type == "profiles.sync_requested")
        assert await db.scalar(query) == "own"


async def test_log_names_the_caller_and_the_reason_of_a_refusal(api: Api, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    reader = await api.key(Scope.TOKENS_READ, name="reader")
    await api.client.get("/keys", headers={"X-API-Key": "x"})
    await api.client.get("/keys", headers=reader)
    await api.client.get("/keys")
    lines = [
        (line["status"], line.get("key"), line.get("error_code")) for line in logged(caplog, "http.request")
    ]
    assert lines == [(401, None, "UNAUTHORIZED"), (403, "reader", "FORBIDDEN"), (200, "bootstrap", None)]
    assert all(line["client"] for line in logged(caplog, "http.request"))


async def test_the_log_names_a_key_that_is_known_and_refused(
    open_sqlite_api: OpenApi, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    async with open_sqlite_api(workers=False) as api:
        limited = await made(api, name="limited", rate_limit_per_minute=1)
        ended = await made(api, name="ended")
        await api.client.delete(f"/keys/{ended['key_id']}")
        async with api.context.database.transaction() as db:
            past = utc_now() - timedelta(seconds=1)
            expired = await made(api, name="expired")
            await db.execute(update(ApiKey).where(ApiKey.name == "expired").values(expires_at=past))
        caplog.clear()
        for key in (limited, limited, ended, expired):
            await use(api, key["key"])
        await api.client.post("/authorize", json={"priority": -1})
    lines = logged(caplog, "http.request")
    assert [(line["status"], line.get("key")) for line in lines] == [
        (200, "limited"),
        (429, "limited"),
        (401, "ended"),
        (401, "expired"),
        (422, "bootstrap"),
    ]


async def test_events_of_a_key_tell_its_kind_and_id(api: Api, database: Database):
    own = await made(
        api,
        name="own",
        scopes=["admin"],
        api_apps=[],
        account_patterns=[],
        rate_limit_per_minute=None,
        expires_at=None,
    )
    async with database.transaction() as db:  # as an old database may have it
        await db.execute(update(ApiKey).where(ApiKey.name == "own").values(name="self-healing"))
    asked = {"json": {"name": "second", "scopes": ["events"]}, "headers": {"X-API-Key": own["key"]}}
    answered(await api.client.post("/keys", **asked), 201)
    async with database.reading() as db:
        query = select(Event.actor, Event.actor_kind, Event.actor_id).order_by(Event.id)
        rows = [tuple(row) for row in await db.execute(query.where(Event.event_type == "api_key.created"))]
    assert rows == [("bootstrap", "bootstrap", None), ("self-healing", "key", own["key_id"])]
