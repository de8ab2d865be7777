"""Every route × every kind of key → the expected status. A route that the table does not know fails the first test."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi.routing import APIRoute
from sqlalchemy import update

from app.api.dependencies import KeyFirstRoute
from app.main import create_app
from app.models import ApiKey, EventType, Evidence, ProfileSync, WebhookDelivery, WebhookEndpoint, utc_now
from app.services.events import recorder
from app.services.keys.service import Caller, Scope
from app.services.shared.access import AccessScope
from app.services.webhooks.vault import WebhookVault, new_secret
from tests.fixtures.api import Api, OpenApi
from tests.fixtures.batches import input_rows, place_batch
from tests.fixtures.factories import new_profile, new_session, new_tokens
from tests.fixtures.routes import APP, HOOK, NOBODY, OTHER_APP, ROUTES, WITHIN_BODY, Access, filled, granting
from tests.fixtures.settings import MakeSettings

WITHIN = AccessScope.from_lists([APP], ["anna_*"])
"""Reach of a restricted key: one app, and the accounts of most rows of this file."""
MAKER = Caller("within admin", frozenset({Scope.ADMIN}), WITHIN)
_APPS = {
    name: {"client_id": name, "redirect_uri": "http://127.0.0.1:9/callback"} for name in (APP, OTHER_APP)
}

PUBLIC = {
    "health",
    "ready",
    "/openapi.json",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    "/static-offline-docs",
}


def name_of(route: Any) -> str:
    return getattr(route, "operation_id", None) or route.path


def flat(routes: Any) -> Iterator[Any]:
    for route in routes:
        included = getattr(route, "original_router", None)
        yield from flat(included.routes) if included else [route]


class Asker:
    """Sends one route's request, about things of its own each time that it is asked for new ones."""

    def __init__(self, api: Api, route: APIRoute, access: Access) -> None:
        self._api = api
        self._method = min(route.methods)
        self._path = route.path
        self._access = access
        self._values: dict[str, str] = {}

    async def renew(self, numbers: Iterator[int]) -> None:
        self._values = await make_things(self._api, next(numbers))

    async def status(self, headers: dict[str, str]) -> int:
        return (await self.ask(headers)).status_code

    async def ask(self, headers: dict[str, str]) -> httpx.Response:
        return await self._api.client.request(
            self._method,
            self._path.format(**self._values),
            params=self._access.query,
            json=filled(self._access.body, self._values),
            headers=headers,
        )


async def make_things(api: Api, number: int) -> dict[str, str]:
    """One of each kind, of an account of its own; their ids, by the names that the paths have for them."""
    account = f"anna_{number}"
    context = api.context
    profiles = [
        new_profile(account_id=name, api_app=APP, is_linked=True)
        for name in (account, f"{account}_new", f"{account}_batch")
    ]
    row = new_session(profiles[0])
    sync = ProfileSync(sync_id=f"sync-{number}", requested_by="tests")
    seen = Evidence(
        session_id=row.session_id, attempt=1, url="", title="", test_ids=[], console=[], screenshot=b"JPEG"
    )
    async with context.database.transaction() as db:
        db.add_all([*profiles, row, sync, seen])
        await db.flush()
        await context.tokens.credentials.store(
            db,
            account_id=account,
            api_app=APP,
            provider_user_id="1",
            tokens=new_tokens(),
            session_id=row.session_id,
        )
        key = await context.keys.create(
            db, name=f"key {number}", scopes=frozenset({Scope.EVENTS}), access=WITHIN, caller=MAKER
        )
        hook = WebhookEndpoint(
            endpoint_id=f"hook-{number}",
            name="",
            url=HOOK,
            event_types=[],
            **WITHIN_BODY,
            secret=WebhookVault(key_ring=context.settings.key_ring).seal(f"hook-{number}", new_secret()),
            after_xact_id=0,
            after_event_id=0,
            created_by="tests",
        )
        db.add(hook)
        await db.flush()
        delivery = WebhookDelivery(
            endpoint_row_id=hook.id, event_id=1, event_type="batch.completed", account_id=account, api_app=APP
        )
        db.add(delivery)
    batch = await place_batch(context, input_rows(f"{account}_batch"))
    return {
        "account_id": account,
        "new_account": f"{account}_new",
        "profile_id": profiles[0].profile_id,
        "session_id": row.session_id,
        "sync_id": sync.sync_id,
        "batch_id": batch.batch_id,
        "api_app": APP,
        "key_id": key.row.key_id,
        "new_name": f"new {number}",
        "webhook_id": hook.endpoint_id,
        "delivery_id": str(delivery.id),
    }


@pytest_asyncio.fixture
async def quiet_api(open_api: OpenApi) -> AsyncIterator[Api]:
    """An application whose workers have stopped."""
    changes: dict[str, Any] = {"oauth_apps": _APPS, "x_web_url": NOBODY, "x_api_url": NOBODY}
    changes |= {
        "rate_limit_per_minute": 10_000,
        "auth_failures_per_minute": 1000,
        "event_stream_lifetime": 0.2,
        "webhook_allow_private_addresses": True,
        "webhook_max_endpoints": 1000,
    }
    async with open_api(**changes) as opened:
        await opened.context.workers.stop(grace=5)
        yield opened


@pytest.fixture
def routes(make_settings: MakeSettings) -> dict[str, Any]:
    """Routes by name, without those of the operators' page, which have tests of their own."""
    routes = {name_of(route): route for route in flat(create_app(make_settings()).routes)}
    return {name: route for name, route in routes.items() if not name.startswith("/ui")}


def test_every_route_has_an_entry(routes: dict[str, Any]):
    assert set(routes) == PUBLIC | set(ROUTES), "say in ROUTES who may call it"
    assert all(isinstance(routes[name], KeyFirstRoute) for name in ROUTES)


@pytest.mark.databases("sqlite")
async def test_every_route_answers_each_kind_of_key_as_its_entry_says(quiet_api: Api, routes: dict[str, Any]):
    """One test sends a thousand requests to one application."""
    del quiet_api.client.headers["X-API-Key"]
    keys = await all_keys(quiet_api)
    numbers = itertools.count(1)
    wrong = []
    for name, access in ROUTES.items():
        asker = Asker(quiet_api, routes[name], access)
        await asker.renew(numbers)
        for kind, headers, expected in refusals(access, keys):
            if (status := await asker.status(headers)) != expected:
                wrong.append((name, kind, status, expected))
        for kind in granting(access.scope):
            await asker.renew(numbers)
            holder = kind if access.whole_fleet else f"maker with {kind}"
            if (status := await asker.status(keys[holder])) != access.granted:
                wrong.append((name, f"granted by {holder}", status, access.granted))
    assert wrong == [], "(route, key, its status, the expected one)"


def refusals(access: Access, keys: dict[str, dict[str, str]]) -> Iterator[tuple[str, dict[str, str], int]]:
    for kind in ("no key", "wrong", "expired", "revoked", "rotated away"):
        yield kind, keys[kind], 401
    for scope in set(Scope) - granting(access.scope):
        yield scope, keys[scope], 403
    for kind, expected in zip(("other app", "other account"), access.elsewhere, strict=True):
        yield kind, keys[kind], expected
    if access.whole_fleet:
        yield "restricted", keys[f"maker with {access.scope}"], 403


async def all_keys(api: Api) -> dict[str, dict[str, str]]:
    everything = tuple(Scope)
    keys = {
        "no key": {},
        "wrong": {"X-API-Key": "gla_00000000_" + "x" * 43},
        "expired": await api.key(*everything, name="expired", expires_at=utc_now() + timedelta(hours=1)),
        "revoked": await api.key(*everything, name="revoked"),
        "rotated away": await api.key(*everything, name="rotated away"),
        "other app": await api.key(
            *everything, name="other app", access=AccessScope.from_lists([OTHER_APP], [])
        ),
        "other account": await api.key(
            *everything, name="other account", access=AccessScope.from_lists([], ["bob"])
        ),
    }
    for scope in Scope:
        keys[scope] = await api.key(scope, name=f"all {scope}")
        keys[f"maker with {scope}"] = await api.key(scope, name=f"within {scope}", access=WITHIN)
    async with api.context.database.transaction() as db:
        past = utc_now() - timedelta(seconds=1)
        for name, values in (
            ("expired", {"expires_at": past}),
            ("revoked", {"revoked_at": past}),
            ("rotated away", {"key_hash": "0" * 64}),
        ):
            await db.execute(update(ApiKey).where(ApiKey.name == name).values(**values))
    return keys


LISTS: list[tuple[str, Callable[[Any], Any]]] = [
    ("/accounts", lambda row: row["account_id"]),
    ("/profiles", lambda row: row["twitter_username"]),
    ("/authorize", lambda row: row["account_id"]),
    ("/batches", lambda row: row["batch_id"]),
]


@pytest.mark.databases("sqlite")
async def test_list_holds_the_rows_within_the_keys_scope(quiet_api: Api):
    things = [await make_things(quiet_api, number) for number in (1, 2)]
    anna = AccessScope.from_lists([APP], ["anna_1*"])
    headers = await quiet_api.key(Scope.AUTHORIZE, Scope.PROFILES, name="anna", access=anna)
    elsewhere = await quiet_api.key(*Scope, name="elsewhere", access=AccessScope.from_lists([OTHER_APP], []))
    for path, name in LISTS:
        everything = (await quiet_api.client.get(path)).json()
        mine = (await quiet_api.client.get(path, headers=headers)).json()
        assert mine["total"] * 2 == everything["total"] > 0, path
        expected = [row for row in everything["data"] if name(row).startswith("anna_1")]
        assert mine["data"] == (
            expected or [row for row in everything["data"] if name(row) == things[0]["batch_id"]]
        )
        assert (await quiet_api.client.get(path, headers=elsewhere)).json()["data"] == []


@pytest.mark.databases("sqlite")
async def test_events_are_told_as_far_as_a_key_reaches(quiet_api: Api):
    async with quiet_api.context.database.transaction() as db:
        for account, app in (("anna_1", APP), ("anna_2", APP), ("anna_3", OTHER_APP), (None, None)):
            recorder.record(db, EventType.BATCH_COMPLETED, account_id=account, api_app=app, number=account)
    keys = [
        (await quiet_api.key(*Scope, name="all"), {"anna_1", "anna_2", "anna_3"}),
        (
            await quiet_api.key(
                *Scope, name="anna", access=AccessScope.from_lists([APP], ["anna_1", "anna_3"])
            ),
            {"anna_1"},
        ),
        (
            await quiet_api.key(
                *Scope, name="elsewhere", access=AccessScope.from_lists([OTHER_APP], ["bob"])
            ),
            set(),
        ),
    ]
    for path in ("/events", "/events/export?format=ndjson", "/events/export?format=csv", "/events/stream"):
        for headers, seen in keys:
            of_none = {"api_key.created"} if "anna_2" in seen else set()  # belongs to no account
            text = await told(quiet_api, path, headers, until=seen | of_none)
            assert set(re.findall(r"anna_\d|api_key.created", text)) == seen | of_none, path


async def told(api: Api, path: str, headers: dict[str, str], *, until: set[str]) -> str:
    """The stream on PostgreSQL tells of an event once no older transaction is open."""
    async with asyncio.timeout(60):
        while True:
            text = (await api.client.get(path, headers=headers | {"Last-Event-ID": "0-0"})).text
            if path != "/events/stream" or all(name in text for name in until):
                return text


@pytest.mark.databases("sqlite")
async def test_webhooks_and_keys_are_listed_as_far_as_a_key_reaches(quiet_api: Api):
    await make_things(quiet_api, 1)
    anna = await quiet_api.key(*Scope, name="anna", access=AccessScope.from_lists([APP], ["anna_1*"]))
    elsewhere = await quiet_api.key(*Scope, name="elsewhere", access=AccessScope.from_lists([OTHER_APP], []))
    made = await quiet_api.client.post("/webhooks", json={"url": HOOK}, headers=anna)
    own = {"name": "of anna", "scopes": ["events"], "api_apps": [APP], "account_patterns": ["anna_1"]}
    await quiet_api.client.post("/keys", json=own, headers=anna)

    async def listed(path: str, name: str, headers: dict[str, str]) -> set[str]:
        answer = (await quiet_api.client.get(path, headers=headers)).json()
        assert answer.get("total", len(answer["data"])) == len(answer["data"])
        return {row[name] for row in answer["data"]}

    hook = made.json()["data"]["id"]
    for headers, hooks, keys in (
        ({}, {hook, "hook-1"}, {"anna", "elsewhere", "of anna", "key 1"}),
        (anna, {hook}, {"anna", "of anna"}),  # the other reaches further
        (elsewhere, set(), {"elsewhere"}),
    ):
        assert await listed("/webhooks", "id", headers) == hooks
        assert await listed("/keys", "name", headers) == keys
