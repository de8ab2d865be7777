"""API keys on the operators' page: created within the caller's own rights, shown once, rotated and revoked."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from app.models import ApiKey, utc_now
from app.services.keys.service import Scope
from app.services.shared.access import AccessScope
from tests.fixtures.api import Api
from tests.fixtures.costs import explained
from tests.fixtures.dashboard import PageBrowser, assert_needs, page_browser, shown_text

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

WITHIN = {"access": AccessScope.from_lists(["AIOTT1"], ["anna_*"])}


async def row_of(api: Api, name: str) -> ApiKey | None:
    async with api.context.database.reading() as db:
        return await db.scalar(select(ApiKey).where(ApiKey.name == name))


def secret_of(page: str) -> str:
    return page.partition("data-focus>")[2].partition("<")[0]


async def test_key_is_created_shown_once_rotated_and_revoked(api: Api, browser: PageBrowser):
    assert "There is no key yet" in await browser.shows("/ui/keys")
    form = await browser.shows("/ui/keys/new")
    assert all(f'name="scope {scope}"' in form for scope in Scope)
    values = {
        "name": "billing",
        "scope tokens:read": "true",
        "scope events": "true",
        "api_apps": "AIOTT1",
        "account_patterns": "shop_*, other",
        "expires_at": (utc_now() + timedelta(days=1)).isoformat(),
        "rate_limit_per_minute": "50",
    }
    created = await browser.post("/ui/keys", **values)
    assert created.status_code == 201, shown_text(created)
    key = secret_of(created.text)
    assert (await api.client.get("/events", headers={"X-API-Key": key})).status_code == 200
    row = await row_of(api, "billing")
    assert row is not None
    assert (row.scopes, row.api_apps, row.account_patterns, row.rate_limit_per_minute, row.created_by) == (
        ["events", "tokens:read"], ["AIOTT1"], ["shop_*", "other"], 50, "bootstrap",
    )  # fmt: skip
    path = f"/ui/keys/{row.key_id}"
    shown = await browser.shows(path) + await browser.shows("/ui/keys")
    assert row.prefix in shown
    assert key not in shown
    taken = await browser.post("/ui/keys", **values)
    assert (taken.status_code, "KEY_NAME_TAKEN" in taken.text) == (409, True)

    assert "Rotate the key billing?" in await browser.shows(f"{path}/rotate")
    rotated = secret_of((await browser.post(f"{path}/rotate", overlap="0")).text)
    assert (await api.client.get("/events", headers={"X-API-Key": key})).status_code == 401
    assert (await api.client.get("/events", headers={"X-API-Key": rotated})).status_code == 200
    await browser.post(f"{path}/rotate", overlap="3600")
    again = await browser.post(f"{path}/rotate", overlap="3600")
    assert (again.status_code, "ROTATION_UNDER_WAY" in again.text) == (409, True)
    assert "End the one before at once" in await browser.shows(f"{path}/rotate")

    assert "Revoke the key billing?" in await browser.shows(f"{path}/revoke")
    assert (await api.client.get("/events", headers={"X-API-Key": rotated})).status_code == 200
    assert "The key billing is revoked." in await browser.does(f"{path}/revoke")
    assert (await api.client.get("/events", headers={"X-API-Key": rotated})).status_code == 401
    assert "billing" in await browser.shows("/ui/keys?status=revoked&text=BILL")
    assert "No key matches" in await browser.shows("/ui/keys?status=active")


@pytest.mark.databases("sqlite")
async def test_key_that_cannot_be_is_refused(api: Api, browser: PageBrowser):
    for values, code in (
        ({"name": "x"}, "INVALID_REQUEST"),
        ({"name": "", "scope events": "true"}, "INVALID_REQUEST"),
        ({"name": "x", "scope events": "true", "api_apps": "UNKNOWN"}, "UNKNOWN_API_APP"),
        ({"name": "x", "scope events": "true", "expires_at": "2020-01-01T00:00"}, "INVALID_REQUEST"),
        ({"name": "x", "scope events": "true", "rate_limit_per_minute": "0"}, "INVALID_REQUEST"),
    ):
        refused = await browser.post("/ui/keys", **values)
        assert (refused.status_code >= 400, code in refused.text) == (True, True), shown_text(refused)
    assert await row_of(api, "x") is None


async def test_views_and_actions_need_their_scope(api: Api):
    await api.key(Scope.EVENTS, name="there")
    row = await row_of(api, "there")
    assert row is not None
    path = f"/ui/keys/{row.key_id}"
    await assert_needs(
        api,
        Scope.ADMIN,
        ["/ui/keys", "/ui/keys/new", path, f"{path}/rotate", f"{path}/revoke"],
        ["/ui/keys", f"{path}/rotate", f"{path}/revoke"],
    )
    assert (await row_of(api, "there")).revoked_at is None  # type: ignore[union-attr]


async def test_restricted_key_manages_its_own_and_gives_no_more_than_it_has(api: Api):
    await api.key(Scope.EVENTS, name="foreign")
    row = await row_of(api, "foreign")
    assert row is not None
    key = (await api.key(Scope.ADMIN, **WITHIN))["X-API-Key"]
    async with page_browser(api, key) as browser:
        assert "foreign" not in await browser.shows("/ui/keys")
        for name in ("", "/rotate", "/revoke"):
            assert (await browser.get(f"/ui/keys/{row.key_id}{name}")).status_code == 404
        for name in ("/rotate", "/revoke"):
            assert (await browser.post(f"/ui/keys/{row.key_id}{name}")).status_code == 404
        wide = await browser.post("/ui/keys", name="wide", **{"scope events": "true"})
        assert (wide.status_code, "KEY_ESCALATION" in wide.text) == (403, True), shown_text(wide)
        values = {"scope events": "true", "api_apps": "AIOTT1", "account_patterns": "anna_1"}
        own = await browser.post("/ui/keys", name="narrow", rate_limit_per_minute="10", **values)
        assert own.status_code == 201, shown_text(own)
        assert "narrow" in await browser.shows("/ui/keys")


async def test_statements_do_not_depend_on_the_rows(postgresql_api: Api):
    api = postgresql_api
    async with page_browser(api) as browser:

        async def count() -> int:
            with explained(api.context.database) as seen:
                await browser.shows("/ui/keys")
            return len(seen)

        await api.key(Scope.EVENTS, name="<script>")
        few = await count()
        assert "<script>" not in (await browser.get("/ui/keys")).text.partition("<main")[2]
        for number in range(20):
            await api.key(Scope.EVENTS, name=f"key {number}")
        assert await count() == few == 3
