"""Single sign-on at a provider of ours: what a person may do, which answers count, and what ends a sign-in."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError

from app.config import PersonRights
from app.models import (
    ActorKind,
    ApiKey,
    AuthenticationRequest,
    Base,
    DashboardSession,
    Event,
    EventType,
    utc_now,
)
from app.services.keys.people import People
from tests.fixtures.api import Api, OpenApi
from tests.fixtures.costs import statements_of
from tests.fixtures.dashboard import OWN, SESSION_COOKIE, PageBrowser, page_browser, shown_text
from tests.fixtures.factories import new_profile, new_session
from tests.fixtures.logs import LogLines
from tests.fixtures.openid import (
    BEGIN,
    CALLBACK,
    CLIENT_SECRET,
    RIGHTS,
    OpenIdServer,
    begin,
    come_back,
    led_to,
    sign_in,
)

COOKIE = "gologin_sign_in"
ONLY_SQLITE = pytest.mark.databases("sqlite")


@pytest_asyncio.fixture
async def api(open_api: OpenApi, server: OpenIdServer) -> AsyncIterator[Api]:
    async with open_api(workers=False, **server.settings()) as opened:
        yield opened


@pytest_asyncio.fixture
async def browser(api: Api) -> AsyncIterator[PageBrowser]:
    async with page_browser(api, None) as opened:
        yield opened


async def is_signed_in(browser: PageBrowser) -> bool:
    return (await browser.get("/ui/errors")).status_code == 200


async def events_of_the_page(api: Api) -> list[tuple[str, str, ActorKind, bool]]:
    query = select(Event).where(Event.event_type.startswith("dashboard.")).order_by(Event.id)
    async with api.context.database.reading() as db:
        rows = (await db.scalars(query)).all()
    return [(row.event_type, row.actor, row.actor_kind, row.actor_id is not None) for row in rows]


async def test_person_signs_in_with_the_rights_of_a_group_and_out(
    api: Api, server: OpenIdServer, browser: PageBrowser
):
    page = await browser.get("/ui/sign-in?next=%2Fui%2Fsessions")
    assert "Sign in with Example &lt;Login&gt;" in page.text
    await browser.client.post("/ui/theme", data={"theme": "dark"}, headers=OWN)
    address = await begin(browser, "/ui/sessions?status=failed")
    assert address.startswith(f"{server.url}/authorize?tenant=a%26b&")
    back = await come_back(browser, server.consent(address))
    cookies = back.headers.get_list("Set-Cookie")
    session = next(each for each in cookies if each.startswith(SESSION_COOKIE))
    assert {"HttpOnly", "SameSite=strict", "Path=/ui"} <= set(session.split("; "))
    assert (back.status_code, led_to(back)) == (200, "/ui/sessions?status=failed")
    assert COOKIE not in browser.client.cookies

    own, other = (new_profile(account_id=each) for each in ("shop_1", "office"))
    async with api.context.database.transaction() as db:
        db.add_all([own, other, new_session(own), new_session(other)])
    shown = shown_text(await browser.get("/ui/sessions"))
    assert ("@shop_1" in shown, "@office" in shown) == (True, False)
    assert "oidc:anna@example.com~" in shown
    refused = await browser.get("/ui/webhooks")
    assert (refused.status_code, "This sign-in lacks the scope 'webhooks'" in shown_text(refused)) == (
        403,
        True,
    )
    assert (await browser.post("/ui/sign-out")).status_code == 303
    assert not await is_signed_in(browser)

    name = (await events_of_the_page(api))[0][1]
    assert await events_of_the_page(api) == [
        (EventType.DASHBOARD_SIGNED_IN, name, ActorKind.OIDC, True),
        (EventType.DASHBOARD_SIGNED_OUT, name, ActorKind.OIDC, True),
    ]


async def test_administrator_acts_as_a_person(api: Api, server: OpenIdServer, browser: PageBrowser):
    """What a person makes names the person, and is no work of a key."""
    await sign_in(browser, server, groups="admins", email_verified=False, name="Anna\u202e  B\n~1")
    made = await browser.post("/ui/keys", **{"name": "of anna", "scope authorize": "on"})
    assert made.status_code == 201, shown_text(made)
    async with api.context.database.reading() as db:
        key = (await db.scalars(select(ApiKey))).one()
        event = (await db.scalars(select(Event).where(Event.event_type == EventType.API_KEY_CREATED))).one()
    assert key.created_by.startswith("oidc:Anna B 1~")
    assert (event.actor, event.actor_kind, len(event.actor_id or "")) == (key.created_by, ActorKind.OIDC, 36)


async def test_person_without_a_mapped_value_is_refused(api: Api, server: OpenIdServer, browser: PageBrowser):
    for groups in ([], ["all"], "helpers2", None, {"helpers": 1}, ["HELPERS"]):
        back = await sign_in(browser, server, groups=groups)
        assert back.status_code == 403, groups
        assert "no value of the claim 'groups'" in shown_text(back)
        assert "SSO_NO_RIGHTS" in back.text
        assert SESSION_COOKIE not in browser.client.cookies
    events = await events_of_the_page(api)
    assert {event[0] for event in events} == {EventType.DASHBOARD_SIGN_IN_REFUSED}
    assert {event[2] for event in events} == {ActorKind.OIDC}


async def test_answer_counts_once_and_in_its_own_browser(
    api: Api, server: OpenIdServer, browser: PageBrowser
):
    query = server.consent(await begin(browser))
    async with page_browser(api, None) as other:
        assert (await come_back(other, query)).status_code == 401  # has begun nothing
        await begin(other)
        refused = await come_back(other, query)
        assert "did not begin in this browser" in shown_text(refused)
        assert not await is_signed_in(other)
    cookie = browser.client.cookies[COOKIE]
    first, second = await asyncio.gather(come_back(browser, query), come_back(browser, query))
    assert sorted((first.status_code, second.status_code)) == [200, 401]
    browser.client.cookies.set(COOKIE, cookie, domain="service.local", path="/ui/sign-in")
    again = await come_back(browser, query)
    assert (again.status_code, "answered already" in shown_text(again)) == (401, True)
    assert query["code"] not in again.text  # also in no form of the page
    assert await is_signed_in(browser)
    assert server.heard.count("/token") == 1


async def test_late_answer_is_refused(api: Api, server: OpenIdServer, browser: PageBrowser):
    query = server.consent(await begin(browser))
    async with api.context.database.transaction() as db:
        await db.execute(update(AuthenticationRequest).values(expires_at=utc_now()))
    assert (await come_back(browser, query)).status_code == 401
    assert "/token" not in server.heard


async def test_sign_in_ends_the_one_that_the_browser_had(
    api: Api, server: OpenIdServer, browser: PageBrowser
):
    await browser.sign_in()
    before = browser.client.cookies[SESSION_COOKIE]
    await sign_in(browser, server)
    assert browser.client.cookies[SESSION_COOKIE] != before
    async with api.context.database.reading() as db:
        row = (await db.scalars(select(DashboardSession))).one()
    assert (row.key_id, row.subject, row.issuer) == (None, "person-1", server.url)
    assert row.claim_values == ["helpers"]  # "all" has no rights, and is not kept


async def test_secrets_are_stored_and_logged_nowhere(
    api: Api, server: OpenIdServer, browser: PageBrowser, log_lines: LogLines
):
    pages = [await sign_in(browser, server), await sign_in(browser, server, groups=[])]
    server.claims = {"nonce": "wrong"}
    pages.append(await sign_in(browser, server))
    await begin(browser)  # stays open
    async with api.context.database.reading() as db:
        tables = [(await db.execute(text(f"SELECT * FROM {table}"))).all() for table in Base.metadata.tables]
    cookie = browser.client.cookies[COOKIE]
    secrets = server.seen | {CLIENT_SECRET, cookie, browser.client.cookies[SESSION_COOKIE]}
    assert len(secrets) > 15
    written = {"tables": str(tables), "logs": json.dumps(log_lines()), "pages": str([p.text for p in pages])}
    leaks = {place for place, content in written.items() for secret in secrets if secret in content}
    assert leaks == set()
    assert "person-1" in written["tables"]


async def test_change_of_the_settings_counts_at_once(api: Api, server: OpenIdServer, browser: PageBrowser):
    def set_rights(*values: str, **changes: Any) -> None:
        rights = {value: PersonRights.model_validate(RIGHTS.get(value, RIGHTS["admins"])) for value in values}
        settings = api.context.settings.model_copy(update={"oidc_rights": rights, **changes})
        api.context.dashboard_sessions._people = People.from_settings(settings)

    await sign_in(browser, server, groups=["helpers", "admins"])
    assert (await browser.get("/ui/webhooks")).status_code == 200
    set_rights("helpers", "admins")  # the first one counts
    assert (await browser.get("/ui/webhooks")).status_code == 403
    set_rights("admins", oidc_issuer="https://another.example")
    assert not await is_signed_in(browser)
    await sign_in(browser, server)
    set_rights("others")
    assert not await is_signed_in(browser)
    set_rights("helpers")
    await sign_in(browser, server)
    set_rights(oidc_issuer=None)
    assert not await is_signed_in(browser)


async def test_operator_ends_all_sign_ins_of_a_person(api: Api, server: OpenIdServer):
    async with page_browser(api, None) as first, page_browser(api, None) as second, page_browser(api) as key:
        await sign_in(first, server)
        await sign_in(second, server, sub="person-2")
        name = (await events_of_the_page(api))[-2][1]
        async with api.context.database.transaction() as db:
            assert await api.context.dashboard_sessions.end_all(db, name) == 1
            assert await api.context.dashboard_sessions.end_all(db, "nobody") == 0
        assert [await is_signed_in(each) for each in (first, second, key)] == [False, True, True]
    assert (await events_of_the_page(api))[-1][:2] == (EventType.DASHBOARD_SIGN_INS_ENDED, "cli")


async def test_row_is_of_a_key_or_of_a_person(api: Api, server: OpenIdServer, browser: PageBrowser):
    await sign_in(browser, server)
    for values in ({"key_id": "a-key"}, {"subject": None}, {"issuer": None}):
        with pytest.raises(IntegrityError):
            async with api.context.database.transaction() as db:
                await db.execute(update(DashboardSession).values(**values))
    async with api.context.database.transaction() as db:  # as a defect would: never the bootstrap key
        empty = {"subject": None, "issuer": None, "person_name": None}
        await db.execute(update(DashboardSession).values(**empty))
    assert not await is_signed_in(browser)


async def test_sign_in_of_a_person_ages_as_one_of_a_key(api: Api, server: OpenIdServer, browser: PageBrowser):
    await sign_in(browser, server)
    async with api.context.database.reading() as db:
        row = (await db.scalars(select(DashboardSession))).one()
    assert row.expires_at - row.created_at == timedelta(seconds=api.context.settings.dashboard_idle_timeout)
    async with api.context.database.transaction() as db:
        await db.execute(update(DashboardSession).values(expires_at=utc_now()))
    assert not await is_signed_in(browser)


async def test_sign_in_has_fixed_cost(api: Api, server: OpenIdServer, browser: PageBrowser):
    query = server.consent(await begin(browser))
    with statements_of(api.context.database) as statements:
        assert (await come_back(browser, query)).status_code == 200
    verbs = [each.split()[0] for each, _ in statements if not each.startswith(("BEGIN", "SET "))]
    # The request is spent; the sign-in and its event are written.
    assert verbs == ["DELETE", "INSERT", "INSERT"], statements
    with statements_of(api.context.database) as statements:
        await browser.shows("/ui/errors")
    assert [each.split()[0] for each, _ in statements if each != "BEGIN"] == ["SELECT"]


@ONLY_SQLITE
async def test_begins_are_limited_as_failed_keys_are(open_api: OpenApi, server: OpenIdServer):
    settings = server.settings(auth_failures_per_minute=2)
    async with open_api(workers=False, **settings) as api, page_browser(api, None) as browser:
        statuses = [(await browser.client.post(BEGIN, headers=OWN)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        async with api.context.database.reading() as db:
            assert await db.scalar(select(func.count()).select_from(AuthenticationRequest)) == 2
        cross_site = await browser.client.post(BEGIN, headers={"Sec-Fetch-Site": "cross-site"})
        assert cross_site.status_code == 403


@ONLY_SQLITE
async def test_cookie_of_the_way_to_the_provider_is_lax_and_short(server: OpenIdServer, browser: PageBrowser):
    page = await browser.client.post(BEGIN, headers=OWN)
    cookie = page.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=lax", "Path=/ui/sign-in", "Max-Age=600"} <= set(cookie.split("; "))


@ONLY_SQLITE
async def test_nothing_is_there_without_a_provider(open_api: OpenApi):
    async with open_api(workers=False) as api, page_browser(api, None) as browser:
        assert api.context.single_sign_on is None
        assert "Sign in with" not in (await browser.get("/ui/sign-in")).text
        for answered in (
            await browser.client.post(BEGIN, headers=OWN),
            await browser.get(f"{CALLBACK}?code=a&state=b"),
        ):
            assert (answered.status_code, "There is no such page" in answered.text) == (404, True)
