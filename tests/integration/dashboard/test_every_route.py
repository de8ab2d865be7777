"""Every route of the operators' page, whatever it shows or does: sign-in, origin, form token and headers come first."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import select

from app.dashboard.page_route import PAGE_HEADERS
from app.dashboard.routes import ROUTES
from app.models import ApiKey
from app.services.keys.service import COMMAND_LINE, Scope
from tests.fixtures.api import Api, OpenApi
from tests.fixtures.dashboard import OWN, SESSION_COOKIE, PageBrowser, page_browser, shown_text
from tests.fixtures.factories import new_profile, new_session
from tests.fixtures.waiting import eventually

Call = tuple[str, str]
CALLS: list[Call] = sorted(
    (method, re.sub(r"\{[\w:]+\}", "none", route.path))
    for route in ROUTES
    if isinstance(route, APIRoute)
    for method in route.methods
)
"""Methods and addresses; ids in them are nobody's."""
OPEN = {"/ui/sign-in", "/ui/sign-in/single-sign-on", "/ui/sign-in/callback", "/ui/enter", "/ui/theme"}
UPLOADS = {"/ui/batches/check"}
"""Routes whose form has a file."""
FAST = {"rate_limit_per_minute": 10_000, "auth_failures_per_minute": 1_000, "event_stream_lifetime": 0.1}


async def send(browser: PageBrowser, call: Call, **headers: str) -> httpx.Response:
    method, path = call
    form: dict[str, Any] = {"files": {"file": ("a.csv", b"x")}} if path in UPLOADS else {"data": {"a": "b"}}
    return await browser.client.request(method, path, headers=headers, **({} if method == "GET" else form))


def is_refused(answer: httpx.Response) -> bool:
    return answer.status_code == 403 and "FORM_REFUSED" in answer.text


def leads_to_sign_in(answer: httpx.Response) -> bool:
    return answer.status_code == 303 and answer.headers["Location"].startswith("/ui/sign-in")


@pytest.mark.databases("sqlite")
async def test_nobody_sees_or_does_anything_without_a_sign_in(open_api: OpenApi):
    async with open_api(workers=False, **FAST) as api, page_browser(api, None) as browser:
        for call in CALLS:
            answer = await send(browser, call, **OWN)
            assert leads_to_sign_in(answer) or call[1] in OPEN, call
            parts = await send(browser, call, **OWN | {"HX-Request": "true"})
            assert parts.headers.get("HX-Redirect") == "/ui/sign-in" or call[1] in OPEN, call


@pytest.mark.databases("sqlite")
async def test_nothing_happens_without_the_token_of_the_form_or_from_another_origin(open_api: OpenApi):
    async with open_api(workers=False, **FAST) as api, page_browser(api) as browser:
        token = {"X-CSRF-Token": await browser.csrf()}
        for call in (each for each in CALLS if each[0] != "GET"):
            for site in ("cross-site", "same-site", "none"):
                assert is_refused(await send(browser, call, **token | {"Sec-Fetch-Site": site})), call
            assert is_refused(await send(browser, call, **token | {"Origin": "http://evil.example"})), call
            if call[1] not in OPEN:
                assert is_refused(await send(browser, call, **OWN)), call
                assert is_refused(await send(browser, call, **OWN | {"X-CSRF-Token": "0" * 64})), call
                if call[1] != "/ui/sign-out":
                    assert not is_refused(await send(browser, call, **OWN | token)), call


@pytest.mark.databases("sqlite")
async def test_no_answer_may_be_framed_cached_or_run_scripts_of_others(open_api: OpenApi):
    async with (
        open_api(workers=False, **FAST) as api,
        page_browser(api) as signed_in,
        page_browser(api, None) as stranger,
    ):
        for browser, call in ((each, call) for each in (signed_in, stranger) for call in CALLS):
            if call[1] == "/ui/sign-out":
                continue
            answer = await send(browser, call, **OWN)
            headers = {name: answer.headers.get(name) for name in PAGE_HEADERS}
            assert headers == PAGE_HEADERS, (call, answer.status_code)


async def test_cookie_is_worth_nothing_once_its_key_is_revoked(open_api: OpenApi):
    async with open_api(workers=False, **FAST) as api:
        key = (await api.key(Scope.ADMIN, rate_limit_per_minute=10_000))["X-API-Key"]
        async with page_browser(api, key) as browser:
            token = {"X-CSRF-Token": await browser.csrf()}
            cookie = browser.client.cookies[SESSION_COOKIE]
            assert len(token["X-CSRF-Token"]) == 64
            await revoke(api)
            for call in (each for each in CALLS if each[1] not in OPEN):
                browser.client.cookies.set(SESSION_COOKIE, cookie, domain="service.local", path="/ui")
                answer = await send(browser, call, **OWN | token)
                assert leads_to_sign_in(answer), (call, shown_text(answer))
                assert f'{SESSION_COOKIE}=""' in answer.headers["Set-Cookie"]


async def revoke(api: Api) -> None:
    async with api.context.database.transaction() as db:
        key_id = (await db.scalars(select(ApiKey.key_id).where(ApiKey.name == "own"))).one()
        await api.context.keys.revoke(db, key_id, caller=COMMAND_LINE)


async def sign_out(browser: PageBrowser) -> None:
    assert (await browser.post("/ui/sign-out")).status_code == 303


@pytest.mark.parametrize("end", [lambda api, _: revoke(api), lambda _, browser: sign_out(browser)])
async def test_open_page_is_told_nothing_more_once_its_sign_in_has_ended(
    open_api: OpenApi, end: Callable[[Api, PageBrowser], Awaitable[None]]
):
    async with open_api(workers=False, event_stream_heartbeat=0.05) as api:
        profile = new_profile()
        row = new_session(profile)
        async with api.context.database.transaction() as db:
            db.add_all([profile, row])
        async with page_browser(api, (await api.key(Scope.ADMIN))["X-API-Key"]) as browser:
            live = asyncio.create_task(browser.get(f"/ui/sessions/{row.session_id}/live"))
            await eventually(lambda: api.context.events.streams.readers or live.done())
            await end(api, browser)
            async with asyncio.timeout(30):
                answer = await live
            assert "event: end" in answer.text
            assert (await browser.get("/ui/sessions")).status_code == 303
