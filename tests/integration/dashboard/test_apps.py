"""OAuth apps on the operators' page."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from app.models import AppState, Event, EventType, utc_now
from app.services.keys.service import Scope
from app.services.shared.access import AccessScope
from tests.fixtures.api import Api, OpenApi
from tests.fixtures.dashboard import PageBrowser, assert_needs, page_browser, shown_text

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


async def pause(api: Api, *names: str) -> None:
    async with api.context.database.transaction() as db:
        db.add_all(
            AppState(api_app=name, failures_in_a_row=5, paused_at=utc_now(), reason="<b>INVALID_CLIENT</b>")
            for name in names
        )


async def test_paused_and_limited_apps_are_shown_and_resumed(api: Api, browser: PageBrowser):
    assert "works" in shown_text(await browser.get("/ui/apps"))
    await pause(api, "AIOTT1")
    async with api.context.database.transaction() as db:
        db.add(
            AppState(
                api_app="GONE",
                failures_in_a_row=0,
                limited_until=utc_now() + timedelta(hours=1),
                limited_by="x-rate-limit",
            )
        )
    page = await browser.get("/ui/apps")
    text = shown_text(page)
    assert "paused since" in text
    assert "<b>" not in page.text
    assert "limited until" in text
    assert "(x-rate-limit)" in text
    assert "not in the settings" in text
    assert "AIOTT1 starts its sessions again." in await browser.does("/ui/apps/AIOTT1/resume")
    assert "AIOTT1 was neither paused nor limited." in await browser.does("/ui/apps/AIOTT1/resume")
    async with api.context.database.reading() as db:
        actors = await db.scalars(select(Event.actor).where(Event.event_type == EventType.APP_RESUMED))
        assert actors.all() == ["bootstrap"]


@pytest.mark.databases("sqlite")
async def test_views_and_actions_need_their_scopes(api: Api):
    await assert_needs(api, Scope.FLEET_READ, ["/ui/apps"])
    await assert_needs(api, Scope.ADMIN, [], ["/ui/apps/AIOTT1/resume"])
    reader = (await api.key(Scope.FLEET_READ, name="reader"))["X-API-Key"]
    async with page_browser(api, reader) as browser:
        assert "Resume" not in (await browser.shows("/ui/apps")).partition("</table>")[0]


@pytest.mark.databases("sqlite")
async def test_restricted_key_sees_and_resumes_its_app_only(open_sqlite_api: OpenApi):
    async with open_sqlite_api(workers=False) as api:
        await pause(api, "AIOTT1", "AIOTT2")
        key = (await api.key(Scope.ADMIN, access=AccessScope.from_lists(["AIOTT1"], [])))["X-API-Key"]
        async with page_browser(api, key) as browser:
            assert "AIOTT2" not in await browser.shows("/ui/apps")
            assert (await browser.post("/ui/apps/AIOTT2/resume")).status_code == 403
            assert "starts its sessions again" in await browser.does("/ui/apps/AIOTT1/resume")
