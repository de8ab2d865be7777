"""Signing in to the operators' page, and all that ends a sign-in or refuses a request."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import select, update

from app.models import ApiKey, DashboardSession, DashboardTicket, Event, EventType, utc_now
from app.services.keys.service import COMMAND_LINE, Scope
from app.utils.exceptions import KeyEndedException, KeyNotFoundException
from tests.fixtures.api import API_KEY, Api, OpenApi
from tests.fixtures.dashboard import OWN, SESSION_COOKIE, PageBrowser, page_browser, shown_text
from tests.fixtures.logs import LogLines

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


@pytest_asyncio.fixture
async def browser(api: Api) -> AsyncIterator[PageBrowser]:
    async with page_browser(api) as opened:
        yield opened


async def key_of(api: Api, *scopes: Scope, **options: object) -> str:
    return (await api.key(*scopes, **options))["X-API-Key"]


async def key_id(api: Api, name: str = "own") -> str:
    async with api.context.database.reading() as db:
        return (await db.scalars(select(ApiKey.key_id).where(ApiKey.name == name))).one()


async def is_signed_in(browser: PageBrowser) -> bool:
    response = await browser.get("/ui/errors")
    assert response.status_code == 200 or response.headers["Location"].startswith("/ui/sign-in")
    return response.status_code == 200


async def test_key_signs_in_and_out(api: Api):
    async with page_browser(api, None) as browser:
        assert (await browser.get("/ui")).headers["Location"] == "/ui/sign-in?next=%2Fui"
        response = await browser.sign_in(await key_of(api, Scope.AUTHORIZE))
        assert (response.status_code, response.headers["Location"]) == (303, "/ui")
        assert "own" in shown_text(await browser.get("/ui"))
        taken = browser.client.cookies[SESSION_COOKIE]
        assert (await browser.post("/ui/sign-out")).headers["Location"] == "/ui/sign-in"
        assert not await is_signed_in(browser)
        browser.client.cookies.set(SESSION_COOKIE, taken, domain="service.local", path="/ui")
        assert not await is_signed_in(browser)
    async with api.context.database.reading() as db:
        types = (
            await db.execute(select(Event.event_type, Event.actor, Event.actor_id).order_by(Event.id))
        ).all()
    assert [tuple(each) for each in types if each[0].startswith("dashboard.")] == [
        (EventType.DASHBOARD_SIGNED_IN, "own", await key_id(api)),
        (EventType.DASHBOARD_SIGNED_OUT, "own", await key_id(api)),
    ]


async def test_sign_in_leads_on_to_the_page_that_was_asked_for(api: Api):
    async with page_browser(api, None) as browser:
        first = await browser.get("/ui/sessions?status=failed")
        page = await browser.get(first.headers["Location"])
        assert 'name="next" value="/ui/sessions?status=failed"' in page.text
        for asked, followed in {
            "/ui/sessions?status=failed": "/ui/sessions?status=failed",
            "//evil.example/ui": "/ui",
            "https://evil.example/ui": "/ui",
            "/ui\\@evil.example": "/ui",
            "/ui/../docs\r\nX: y": "/ui",
            "/docs": "/ui",
        }.items():
            form = {"key": API_KEY, "next": asked}
            response = await browser.client.post("/ui/sign-in", data=form, headers=OWN)
            assert response.headers["Location"] == followed, asked


@pytest.mark.parametrize("key", ["", "wrong", "gla_00000000_" + "x" * 43, "ключ"])
async def test_wrong_key_is_refused_with_a_sentence(api: Api, key: str):
    async with page_browser(api, None) as browser:
        response = await browser.sign_in(key)
        assert response.status_code == 401
        assert "Missing or unknown API key. Check the key" in shown_text(response)
        assert SESSION_COOKIE not in browser.client.cookies
        assert not key or key not in response.text


async def test_wrong_keys_count_as_failed_authentications_of_the_address(open_api: OpenApi):
    async with (
        open_api(workers=False, auth_failures_per_minute=2) as api,
        page_browser(api, None) as browser,
    ):
        statuses = [(await browser.sign_in("wrong")).status_code for _ in range(3)]
        refused = await api.client.get("/authorize", headers={"X-API-Key": "wrong"})
        assert (statuses, refused.status_code) == ([401, 401, 429], 429)
        assert (await browser.sign_in()).status_code == 303  # a valid key always passes


async def test_pages_count_against_the_rate_of_the_key(api: Api):
    key = await key_of(api, Scope.AUTHORIZE, rate_limit_per_minute=3)
    async with page_browser(api, key) as browser:
        statuses = [(await browser.get("/ui/errors")).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


async def test_cookie_is_for_the_page_alone(api: Api, open_sqlite_api: OpenApi):
    async with page_browser(api, None) as browser:
        flags = (await browser.sign_in()).headers["Set-Cookie"].partition(";")[2].lower().replace(" ", "")
        assert set(flags.split(";")) == {"httponly", "path=/ui", "samesite=strict"}
    production = {
        "environment": "production",
        "gologin_api_token": "a-token",
        "encryption_keys": "k1:" + "A" * 43 + "=",
        "oauth_apps": {"AIOTT1": {"client_id": "an-id", "client_secret": "a-secret"}},
    }
    async with open_sqlite_api(workers=False, **production) as real, page_browser(real, None) as browser:
        assert "secure" in (await browser.sign_in()).headers["Set-Cookie"].lower().replace(" ", "").split(";")


async def test_sign_in_takes_a_new_id_and_ends_the_one_that_was_sent(api: Api, browser: PageBrowser):
    first = browser.client.cookies[SESSION_COOKIE]
    await browser.sign_in()
    assert browser.client.cookies[SESSION_COOKIE] != first
    async with page_browser(api, None) as other:
        other.client.cookies.set(SESSION_COOKIE, first, domain="service.local", path="/ui")
        assert not await is_signed_in(other)
        other.client.cookies.set(SESSION_COOKIE, "chosen-by-an-attacker", domain="service.local", path="/ui")
        response = await other.sign_in()
        assert "chosen-by-an-attacker" not in response.headers["Set-Cookie"]


async def test_only_a_hash_of_the_id_is_stored(api: Api, browser: PageBrowser):
    key = await key_of(api, Scope.ADMIN)
    async with page_browser(api, key) as other, api.context.database.reading() as db:
        hashes = set(await db.scalars(select(DashboardSession.id_hash)))
        ids = {each.client.cookies[SESSION_COOKIE] for each in (browser, other)}
    assert len(hashes) == 2
    assert not hashes & ids


@pytest.mark.databases("sqlite", "postgresql")
async def test_sign_in_ends_with_its_key(api: Api):
    admin = COMMAND_LINE
    for name, end in {"revoked": None, "expired": {"expires_at": utc_now()}, "deleted": {}}.items():
        async with page_browser(api, await key_of(api, Scope.ADMIN, name=name)) as browser:
            assert await is_signed_in(browser)
            async with api.context.database.transaction() as db:
                if end is None:
                    await api.context.keys.revoke(db, await key_id(api, name), caller=admin)
                elif end:
                    await db.execute(update(ApiKey).where(ApiKey.name == name).values(**end))
                else:
                    await db.delete((await db.scalars(select(ApiKey).where(ApiKey.name == name))).one())
            response = await browser.get("/ui/errors")
            assert response.headers["Location"].startswith("/ui/sign-in"), name
            assert f'{SESSION_COOKIE}=""' in response.headers["Set-Cookie"]


async def test_rotation_keeps_the_sign_in(api: Api):
    async with page_browser(api, await key_of(api, Scope.ADMIN)) as browser:
        async with api.context.database.transaction() as db:
            await api.context.keys.rotate(db, await key_id(api), overlap=timedelta(0), caller=COMMAND_LINE)
        assert await is_signed_in(browser)


async def test_sign_in_with_the_bootstrap_key_ends_when_the_settings_replace_it(
    open_api: OpenApi, api: Api, browser: PageBrowser
):
    cookie = browser.client.cookies[SESSION_COOKIE]
    for key, is_kept in {API_KEY: True, "another-bootstrap-key": False}.items():
        async with open_api(workers=False, api_key=key) as restarted, page_browser(restarted, None) as again:
            again.client.cookies.set(SESSION_COOKIE, cookie, domain="service.local", path="/ui")
            assert await is_signed_in(again) == is_kept


async def test_sign_in_ends_when_idle_or_old(open_api: OpenApi):
    limits = {"dashboard_idle_timeout": 600, "dashboard_session_lifetime": 3600, "event_stream_lifetime": 0.1}
    async with open_api(workers=False, **limits) as api, page_browser(api) as browser:
        now = utc_now()

        async def end_after(path: str, **values: object) -> timedelta:
            """The time that the sign-in has left after a request of the page."""
            async with api.context.database.transaction() as db:
                await db.execute(update(DashboardSession).values(**values))
            assert (await browser.get(path)).status_code == 200
            async with api.context.database.reading() as db:
                return (await db.scalars(select(DashboardSession.expires_at))).one() - now

        minutes = timedelta(minutes=1)
        seen = {"last_seen_at": now - 5 * minutes, "expires_at": now + 5 * minutes}
        assert await end_after("/ui/overview/live", **seen) == 5 * minutes  # an open page is not a person
        assert 10 * minutes <= await end_after("/ui", **seen) < 11 * minutes
        assert await end_after("/ui", created_at=now - 58 * minutes, **seen) == 2 * minutes
        async with api.context.database.transaction() as db:
            await db.execute(update(DashboardSession).values(expires_at=now))
        assert not await is_signed_in(browser)


async def test_request_without_the_token_of_the_form_does_nothing(api: Api, browser: PageBrowser):
    async with page_browser(api) as other:
        foreign = await other.csrf()
    for token in ("", "x", foreign):
        response = await browser.post("/ui/profiles/sync", csrf=token)
        assert (response.status_code, "FORM_REFUSED" in response.text) == (403, True)
    assert (await browser.post("/ui/profiles/sync")).status_code == 303
    by_header = await browser.client.post(
        "/ui/profiles/sync", headers=OWN | {"X-CSRF-Token": await browser.csrf()}
    )
    assert by_header.status_code == 303


@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://proxied"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://service"}, False),
        ({"Origin": "http://service"}, True),
        ({"Origin": "http://service:81"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({}, False),
    ],
)
@pytest.mark.databases("sqlite")
async def test_form_of_another_origin_is_refused(
    api: Api, browser: PageBrowser, headers: dict[str, str], is_taken: bool
):
    token = await browser.csrf()
    action = await browser.client.post("/ui/profiles/sync", data={"csrf": token}, headers=headers)
    assert action.status_code == (303 if is_taken else 403)
    sign_in = await browser.client.post("/ui/sign-in", data={"key": API_KEY}, headers=headers)
    assert sign_in.status_code == (303 if is_taken else 403)


@pytest.mark.databases("sqlite")
async def test_link_from_elsewhere_finds_the_sign_in(browser: PageBrowser):
    """A browser holds the strict cookie back on a link from another site; a page of ours sends it again."""
    cookies, browser.client.cookies = browser.client.cookies, httpx.Cookies()
    page = await browser.get("/ui/sessions?status=failed", **{"Sec-Fetch-Site": "cross-site"})
    assert '<meta http-equiv="refresh" content="0; url=/ui/sessions?status=failed">' in page.text
    assert "Set-Cookie" not in page.headers
    browser.client.cookies = cookies
    assert await is_signed_in(browser)


@pytest.mark.databases("sqlite")
async def test_pages_forbid_frames_scripts_of_others_and_caches(browser: PageBrowser):
    for path in ("/ui", "/ui/sign-in", "/ui/sessions", "/ui/nowhere", "/ui/sessions?page=x"):
        headers = (await browser.get(path)).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert {policy[f"{name}-src"] for name in ("script", "style", "connect")} == {"'self'"}
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.databases("sqlite", "postgresql")
async def test_link_signs_in_once(api: Api, log_lines: LogLines):
    async with api.context.database.transaction() as db:
        ticket = (await api.context.dashboard_sessions.issue_ticket(db)).get_secret_value()
    async with page_browser(api, None) as first, page_browser(api, None) as second:
        page = await first.get("/ui/enter")
        assert page.status_code == 200
        answers = await asyncio.gather(
            *(each.client.post("/ui/enter", data={"ticket": ticket}, headers=OWN) for each in (first, second))
        )
        assert sorted(each.status_code for each in answers) == [303, 401]
        refused = next(each for each in answers if each.status_code == 401)
        assert "This link was used already, or has expired" in shown_text(refused)
        assert [await is_signed_in(each) for each in (first, second)].count(True) == 1
    async with api.context.database.reading() as db:
        assert (await db.scalars(select(DashboardTicket))).all() == []
    assert ticket not in str(log_lines())


async def test_link_is_of_a_key_and_ends_with_it(api: Api):
    await api.key(Scope.AUTHORIZE)
    sessions = api.context.dashboard_sessions
    async with api.context.database.transaction() as db:
        tickets = [(await sessions.issue_ticket(db, key_name="own")).get_secret_value() for _ in range(3)]
    async with page_browser(api, None) as browser:
        enter = {"data": {"ticket": tickets[0]}, "headers": OWN}
        assert (await browser.client.post("/ui/enter", **enter)).status_code == 303
        assert "scope fleet:read" in shown_text(await browser.get("/ui")).lower()
        async with api.context.database.transaction() as db:
            is_first = DashboardTicket.id == (
                select(DashboardTicket.id).order_by(DashboardTicket.id).limit(1).scalar_subquery()
            )
            await db.execute(update(DashboardTicket).where(is_first).values(expires_at=utc_now()))
        late = {"data": {"ticket": tickets[1]}, "headers": OWN}
        assert (await browser.client.post("/ui/enter", **late)).status_code == 401
        async with api.context.database.transaction() as db:
            await api.context.keys.revoke(db, await key_id(api), caller=COMMAND_LINE)
        revoked = {"data": {"ticket": tickets[2]}, "headers": OWN}
        assert (await browser.client.post("/ui/enter", **revoked)).status_code == 401
    async with api.context.database.transaction() as db:
        with pytest.raises(KeyEndedException):
            await sessions.issue_ticket(db, key_name="own")
        with pytest.raises(KeyNotFoundException):
            await sessions.issue_ticket(db, key_name="nobody's")


@pytest.mark.databases("sqlite")
async def test_page_can_be_turned_off(open_api: OpenApi):
    async with open_api(workers=False, dashboard_enabled=False) as api:
        assert {(await api.client.get(path)).status_code for path in ("/ui", "/ui/sign-in")} == {404}


@pytest.mark.databases("sqlite")
async def test_theme_is_kept_in_a_cookie(browser: PageBrowser):
    assert 'data-theme="auto"' in await browser.shows("/ui")
    form = {"theme": "dark", "next": "/ui/sessions"}
    response = await browser.client.post("/ui/theme", data=form, headers=OWN)
    assert (response.status_code, response.headers["Location"]) == (303, "/ui/sessions")
    assert 'data-theme="dark"' in await browser.shows("/ui")
    await browser.client.post("/ui/theme", data={"theme": '"><script>'}, headers=OWN)
    assert 'data-theme="dark"' in await browser.shows("/ui")


@pytest.mark.databases("sqlite")
async def test_files_are_kept_for_good_by_their_content(browser: PageBrowser):
    pages = browser.client._transport.app.state.pages
    url = pages.assets.url("page.css")
    current = await browser.get(url)
    assert current.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert current.headers["Content-Type"].startswith("text/css")
    other_version = await browser.get("/ui/static/0000000000000000/page.css")
    assert (other_version.text, other_version.headers["Cache-Control"]) == (current.text, "no-store")
    for path in ("page.py", "../pages.py", "vendor/none.js", ""):
        assert (await browser.get(f"/ui/static/0000000000000000/{path}")).status_code == 404


@pytest.mark.databases("sqlite")
async def test_form_that_cannot_be_read_is_refused(browser: PageBrowser):
    for content, content_type, status in (
        (b"key=%ff", None, 422),
        (b"\xff", None, 422),
        (b"key=a%00b", None, 422),
        (b"&".join(b"a=1" for _ in range(100)), None, 422),
        (b"{}", "application/json", 415),
        (b"key=" + b"x" * 70_000, None, 422),
    ):
        headers = OWN | {"Content-Type": content_type or "application/x-www-form-urlencoded"}
        response = await browser.client.post("/ui/sign-in", content=content, headers=headers)
        assert response.status_code == status, content[:20]
        assert "text/html" in response.headers["Content-Type"]
