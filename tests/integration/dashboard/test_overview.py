"""The overview: numbers of the monitor with the lists behind them, history for the charts, live for many pages."""

import asyncio
import re
from datetime import timedelta
from html import unescape

import httpx
import pytest
from sqlalchemy import select

from app.dashboard.overview_parts import OverviewParts
from app.models import Alarm, ApiKey, CredentialStatus, SessionStatus, WebhookEndpoint, utc_now
from app.services.keys.service import COMMAND_LINE, Scope
from app.services.shared.access import AccessScope
from tests.fixtures.api import Api, OpenApi
from tests.fixtures.costs import statements_of
from tests.fixtures.dashboard import PageBrowser, page_browser, shown_text
from tests.fixtures.factories import new_credential, new_profile, new_session
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

ENDED = {
    SessionStatus.COMPLETED: None,
    SessionStatus.FAILED: "BROWSER_CRASHED",
    SessionStatus.TIMEOUT: "AUTH_TIMEOUT",
}


async def fill(api: Api) -> None:
    """Add sessions, tokens and an alarm, and let the monitor count them."""
    now = utc_now()
    async with api.context.database.transaction() as db:
        for status, code in ENDED.items():
            for minutes in (2, 30, 200):
                ended = now - timedelta(minutes=minutes)
                row = new_session(new_profile(), status=status, error_code=code, completed_at=ended)
                row.created_at = ended - timedelta(hours=2)  # the lists go by the end, not by the request
                db.add(row)
        profile = new_profile(account_id="waits")
        db.add_all([profile, new_session(profile, created_at=now - timedelta(minutes=20))])
        db.add_all(
            [new_credential("soon", token_expires_at=now + timedelta(minutes=90)), new_credential("later")]
        )
        db.add(new_credential("broken", status=CredentialStatus.REAUTHORIZATION_REQUIRED))
        db.add(new_credential("over", token_expires_at=now - timedelta(minutes=1)))
        db.add(Alarm(name="too_many_waiting", is_active=True, detail="12 sessions wait"))
    assert await api.context.accounts.reports.store_fleet()


def parts_of(api: Api) -> OverviewParts:
    parts: OverviewParts = api.client._transport.app.state.overview_parts
    return parts


async def overview(browser: PageBrowser) -> tuple[str, str]:
    """The page: its markup and its text."""
    response = await browser.get("/ui")
    assert response.status_code == 200
    return response.text, shown_text(response)


async def test_overview_before_the_first_count_says_what_is_missing(browser: PageBrowser):
    page, text = await overview(browser)
    assert "No monitor has counted the fleet yet" in text
    assert text.count("There is no history of this time yet") == 2
    assert "No session failed in the last 24 hours" in text
    assert "No monitor has counted the tokens yet" in text
    assert "No machine has reported yet" in text
    assert "data-chart" not in page


async def test_numbers_lead_to_the_lists_that_they_count(api: Api, browser: PageBrowser):
    await fill(api)
    await api.context.fleet.gate.reserve()
    await api.context.fleet.gate.open_breaker("HTTP 429")
    page, text = await overview(browser)
    for sentence in (
        "1 waiting session",
        "20 min",
        "2 completed in the last hour",
        "2 failed in the last hour",
        "2 timed out in the last hour",
        "2 have a token that works",
        "too many waiting since",
        "12 sessions wait",
        "GoLogin's breaker is open since",
        "2 expire within 24 hours",
        "0 expire within an hour",
    ):
        assert sentence in text, sentence
    links = {unescape(link) for link in re.findall(r'href="(/ui/[^"]+)"', page) if "static" not in link}
    for link in links:
        assert (await browser.get(link)).status_code == 200, link
    counted = {
        "status=failed": 2, "status=timeout": 2, "status=completed": 2, "status=pending": 1, "state=working": 2,
        "state=broken": 1, "state=never_authorized": 1, "state=expiring": 1,
    }  # fmt: skip
    for part, number in counted.items():
        (link,) = (each for each in links if f"?{part}" in each and "order=" not in each)
        assert len(re.findall(r'<th scope="row"', await browser.shows(link))) == number, link


async def test_expiries_lead_to_the_accounts_that_they_count(api: Api, browser: PageBrowser):
    await fill(api)
    page, _ = await overview(browser)
    tiles = re.findall(r'id="n-(expired|15m|1h|24h)"[^>]*href="([^"]+)">\s*<strong>(\d+)<', page)
    assert [(name, number) for name, _, number in tiles] == [
        ("expired", "1"), ("15m", "0"), ("1h", "0"), ("24h", "2")
    ]  # fmt: skip
    hours = re.findall(r'id="expire-(\d+)" href="([^"]+)">(\d+)<', page)
    assert [number for _, _, number in hours] == ["0", "2", *["0"] * 22]
    for name, link, number in [*tiles, *hours[:3]]:
        rows = re.findall(r'<th scope="row"', await browser.shows(unescape(link)))
        assert len(rows) == int(number), name


async def test_sessions_that_ended_lead_to_their_list(api: Api, browser: PageBrowser):
    await fill(api)
    page, _ = await overview(browser)
    for name, number in (("ended-hour", 6), ("completed-hour", 2), ("ended-day", 9), ("completed-day", 3)):
        (link,) = re.findall(rf'id="{name}" href="([^"]+)"', page)
        assert len(re.findall(r'<th scope="row"', await browser.shows(unescape(link)))) == number, name


async def test_failing_webhook_leads_to_its_view(api: Api, browser: PageBrowser):
    async with api.context.database.transaction() as db:
        db.add(
            WebhookEndpoint(
                endpoint_id="hook-1", name="billing", url="https://h.example", event_types=[], api_apps=[],
                account_patterns=[], secret="x", after_xact_id=0, after_event_id=0, created_by="tests",
                failing_since=utc_now(),
            )
        )  # fmt: skip
    page, _ = await overview(browser)
    (link,) = re.findall(r'href="([^"]+)">billing<', page)
    assert "https://h.example" in await browser.shows(link)


async def test_failures_by_code_lead_to_their_sessions(api: Api, browser: PageBrowser):
    await fill(api)
    page, _ = await overview(browser)
    (link,) = re.findall(r'id="hour-BROWSER_CRASHED" href="([^"]+)">2<', page)
    assert len(re.findall(r'<th scope="row"', await browser.shows(unescape(link)))) == 2
    assert 'href="/ui/errors#AUTH_TIMEOUT"' in page


async def test_charts_have_a_table_with_the_same_values(api: Api, browser: PageBrowser):
    await fill(api)
    page, text = await overview(browser)
    hour = page.partition('id="values-hour"')[2].partition("</table>")[0]
    rows = re.findall(
        r'<tr data-x="(\d+)" data-minutes="1">.*?<td>(\d+)</td><td>(\d+)</td><td>(\d+)</td>', hour
    )
    assert 58 <= len(rows) <= 60
    assert all(int(seconds) % 60 == 0 for seconds, *_ in rows)
    assert sum(int(completed) for _, completed, _, _ in rows) == 2
    assert sum(int(without) for _, _, without, _ in rows) == 4
    assert "6 sessions ended" in text
    assert "0.1 a minute; 33 % completed" in text
    tokens = page.partition('id="values-expiry"')[2].partition("</table>")[0]
    assert [int(number) for number in re.findall(r">(\d+)</a></td>", tokens)] == [0, 2, *[0] * 22]


async def test_open_page_gets_the_parts_and_goes_on_when_the_process_stops(
    open_api: OpenApi, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "app.dashboard.overview_parts._MAX_AGE", 3600.0
    )  # however long fifty pages take to open
    async with open_api(workers=False, event_stream_heartbeat=0.05) as api, page_browser(api) as browser:
        parts = parts_of(api)
        following = [asyncio.create_task(browser.get("/ui/overview/live")) for _ in range(50)]
        with statements_of(api.context.database) as seen:
            await eventually(lambda: parts.readers == 50)
        assert len([text for text, _ in seen if "FROM fleet_reports" in text]) <= 1  # one look for all
        api.context.begin_shutdown()
        answers = await asyncio.gather(*following)
    for answer in answers:
        assert events(answer) == ["numbers", "charts", "state"]
        assert "No monitor has counted the fleet yet" in answer.text
        assert "event: end" not in answer.text  # the browser comes again
    assert parts.readers == 0


@pytest.mark.databases("sqlite", "postgresql")
async def test_changes_reach_an_open_page(open_api: OpenApi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.dashboard.overview_parts._MAX_AGE", 0.0)
    async with open_api(workers=False, event_stream_heartbeat=0.05) as api, page_browser(api) as browser:
        following = asyncio.create_task(browser.get("/ui/overview/live"))
        await eventually(lambda: parts_of(api)._parts)  # the page is told of what was before, too
        await fill(api)
        await eventually(lambda: parts_of(api)._parts.get("numbers", "").count("12 sessions wait"))
        api.context.begin_shutdown()
        answer = await following
    assert "12 sessions wait" in answer.text
    assert events(answer).count("numbers") >= 2  # those before, and those after one or several changes


async def test_open_page_of_a_revoked_key_gets_nothing_more(open_api: OpenApi):
    async with open_api(workers=False, event_stream_heartbeat=0.05) as api:
        key = (await api.key(Scope.FLEET_READ, name="reader"))["X-API-Key"]
        async with page_browser(api, key) as browser:
            following = asyncio.create_task(browser.get("/ui/overview/live"))
            await eventually(lambda: parts_of(api).readers == 1)
            async with api.context.database.transaction() as db:
                key_id = (await db.scalars(select(ApiKey.key_id).where(ApiKey.name == "reader"))).one()
                await api.context.keys.revoke(db, key_id, caller=COMMAND_LINE)
            answer = await following
    assert events(answer)[-1] == "end"


@pytest.mark.databases("sqlite")
async def test_overview_is_for_keys_of_the_fleet_without_restrictions(open_api: OpenApi):
    async with open_api(workers=False, event_stream_readers=1) as api:
        others = await api.key(*(set(Scope) - {Scope.FLEET_READ, Scope.ADMIN}), name="others")
        restricted = {"access": AccessScope.from_lists(["AIOTT1"], []), "name": "restricted"}
        for headers in (others, await api.key(Scope.FLEET_READ, **restricted)):
            async with page_browser(api, headers["X-API-Key"]) as browser:
                assert "numbers of the whole fleet are for keys without restrictions" in await browser.shows(
                    "/ui"
                )
                assert (await browser.get("/ui/overview/live")).status_code == 403
        async with page_browser(api) as browser:
            following = asyncio.create_task(browser.get("/ui/overview/live"))
            await eventually(lambda: parts_of(api).readers == 1)
            assert (await browser.get("/ui/overview/live")).status_code == 429
            api.context.begin_shutdown()
            assert (await following).status_code == 200


def events(answer: httpx.Response) -> list[str]:
    return re.findall(r"^event: (\w+)$", answer.text, re.MULTILINE)
