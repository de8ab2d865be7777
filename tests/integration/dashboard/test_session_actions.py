"""Actions on all sessions that match the filters of the list: counted, confirmed, and done as over the API."""

from typing import Any

import pytest
from sqlalchemy import select

from app.models import AuthorizationSession as Session
from app.models import Event, EventType, SessionStatus
from app.services.authorizations import bulk
from app.services.keys.service import Scope
from app.services.shared.access import AccessScope
from app.utils.exceptions import ErrorCode
from tests.fixtures.api import Api, OpenApi
from tests.fixtures.costs import explained
from tests.fixtures.dashboard import PageBrowser, assert_needs, hidden_fields, page_browser, shown_text
from tests.fixtures.factories import new_profile, new_session

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

APP = "AIOTT1"
FAILED, PENDING, CANCELLED = SessionStatus.FAILED, SessionStatus.PENDING, SessionStatus.CANCELLED
RETRY, RESUME, CANCEL = (f"/ui/session-actions/{name}" for name in ("retry", "resume", "cancel"))


async def add(api: Api, *accounts: str, **values: Any) -> None:
    async with api.context.database.transaction() as db:
        for account in accounts:
            profile = new_profile(account_id=account, api_app=APP, is_linked=True)
            db.add_all([profile, new_session(profile, **values)])


async def statuses(api: Api) -> dict[str, SessionStatus]:
    async with api.context.database.reading() as db:
        rows = await db.execute(select(Session.account_id, Session.status).order_by(Session.id))
        return dict(rows.all())


async def confirm(browser: PageBrowser, path: str) -> dict[str, str]:
    """Open the confirmation; the fields that its button sends."""
    page = await browser.shows(path)
    assert 'class="danger"' in page
    return hidden_fields(page.partition("<main")[2])


async def test_failed_sessions_are_retried_and_cancelled_by_their_filter(api: Api, browser: PageBrowser):
    await add(api, "a1", "a2", status=FAILED, error_code=ErrorCode.LOGIN_REQUIRED)
    await add(api, "b1", status=FAILED, error_code=ErrorCode.CONSENT_DECLINED)
    await add(api, "c1", status=SessionStatus.COMPLETED)
    query = "?error_code=LOGIN_REQUIRED"
    listed = await browser.shows(f"/ui/sessions{query}")
    assert f'href="{RETRY}{query}"' in listed
    assert RETRY not in await browser.shows("/ui/sessions")
    assert RETRY not in await browser.shows("/ui/sessions?status=completed")
    page = await browser.shows(f"{RETRY}{query}")
    assert "Retry 2 sessions?" in page
    assert "@a2, @a1." in page
    fields = hidden_fields(page.partition("<main")[2])
    assert fields == {"error_code": "LOGIN_REQUIRED", "expected_count": "2"}
    assert "2 sessions wait for their next attempt." in await browser.does(RETRY, **fields)
    assert await statuses(api) == {
        "a1": PENDING, "a2": PENDING, "b1": FAILED, "c1": SessionStatus.COMPLETED,
    }  # fmt: skip
    assert "2 sessions are cancelled." in await browser.does(
        CANCEL, **await confirm(browser, f"{CANCEL}?api_app={APP}")
    )
    assert set((await statuses(api)).values()) == {CANCELLED, FAILED, SessionStatus.COMPLETED}
    async with api.context.database.reading() as db:
        for event_type in (EventType.AUTHORIZATION_RETRY_REQUESTED, EventType.AUTHORIZATION_CANCELLED):
            actors = await db.scalars(select(Event.actor).where(Event.event_type == event_type))
            assert actors.all() == ["bootstrap", "bootstrap"]
    answer = await browser.get(f"{CANCEL}?api_app={APP}")
    assert "None of these sessions can be changed by “cancel”." in await browser.shows(
        answer.headers["Location"]
    )


@pytest.mark.databases("sqlite")
async def test_sessions_that_need_a_person_are_resumed(api: Api, browser: PageBrowser):
    await add(api, "a1", status=SessionStatus.NEEDS_ATTENTION)
    fields = await confirm(browser, f"{RESUME}?api_app={APP}")
    assert "1 session waits for its person." in await browser.does(RESUME, **fields)
    async with api.context.database.reading() as db:
        row = (await db.scalars(select(Session))).one()
    assert (row.status, row.awaits_person) == (PENDING, True)


@pytest.mark.databases("sqlite")
async def test_account_gets_one_open_session_of_several_that_failed(api: Api, browser: PageBrowser):
    await add(api, "a1", status=FAILED)
    async with api.context.database.transaction() as db:
        db.add(new_session(new_profile(account_id="a1", api_app=APP), status=FAILED))
    fields = await confirm(browser, f"{RETRY}?status=failed")
    assert fields["expected_count"] == "2"
    told = shown_text(await follow(browser, RETRY, fields))
    assert "1 session waits for its next attempt. Left unchanged: 1, changed meanwhile" in told
    async with api.context.database.reading() as db:
        assert (await db.scalars(select(Session.status).order_by(Session.id))).all() == [FAILED, PENDING]


async def follow(browser: PageBrowser, path: str, fields: dict[str, str]) -> Any:
    return await browser.get((await browser.post(path, **fields)).headers["Location"])


@pytest.mark.databases("sqlite")
async def test_number_that_has_changed_is_confirmed_again(api: Api, browser: PageBrowser):
    await add(api, "a1", status=FAILED)
    fields = await confirm(browser, f"{RETRY}?status=failed")
    await add(api, "a2", status=FAILED)
    refused = await browser.post(RETRY, **fields)
    assert (refused.status_code, "2 sessions match the filter now, not 1" in refused.text) == (422, True)
    for wrong in ({}, {"expected_count": "0"}, {"expected_count": "2", "status": "wrong"}):
        assert (await browser.post(RETRY, **wrong)).status_code == 422
    assert set((await statuses(api)).values()) == {FAILED}
    assert (await browser.get("/ui/session-actions/delete")).status_code == 422


@pytest.mark.databases("sqlite")
async def test_more_than_one_action_takes_are_changed_in_turns(
    api: Api, browser: PageBrowser, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bulk, "MAX_SESSIONS", 2)
    await add(api, "a1", "a2", "a3", status=FAILED)
    page = shown_text(await browser.get(f"{RETRY}?status=failed"))
    assert "Retry 2 sessions?" in page
    assert "These are the newest ones of 3; do it again for the others." in page
    await browser.does(RETRY, status="failed", expected_count="2")
    assert list((await statuses(api)).values()) == [FAILED, PENDING, PENDING]


@pytest.mark.databases("sqlite")
async def test_views_and_actions_need_their_scope(api: Api):
    await add(api, "a1", status=FAILED)
    await assert_needs(api, Scope.AUTHORIZE, [f"{RETRY}?status=failed"], [RETRY, RESUME, CANCEL])
    reader = (await api.key(Scope.SESSIONS_READ, name="reader"))["X-API-Key"]
    async with page_browser(api, reader) as browser:
        page = await browser.shows("/ui/sessions?status=failed")
        assert RETRY not in page
        assert "<button" not in page.partition("<table")[2]


async def test_restricted_key_changes_sessions_of_its_accounts_only(open_api: OpenApi):
    async with open_api(workers=False, rate_limit_per_minute=10_000) as api:
        await add(api, "anna_1", "bert", status=FAILED)
        access = AccessScope.from_lists([APP], ["anna_*"])
        key = (await api.key(Scope.AUTHORIZE, Scope.SESSIONS_READ, access=access))["X-API-Key"]
        async with page_browser(api, key) as browser:
            page = await browser.shows(f"{RETRY}?status=failed")
            assert ("@anna_1" in page, "bert" in page, "Retry 1 session?" in page) == (True, False, True)
            await browser.does(RETRY, status="failed", expected_count="1")
        assert await statuses(api) == {"anna_1": PENDING, "bert": FAILED}


async def test_statements_do_not_depend_on_the_rows(postgresql_api: Api):
    api = postgresql_api
    async with page_browser(api) as browser:

        async def count() -> int:
            with explained(api.context.database) as seen:
                await browser.shows(f"{RETRY}?status=failed")
            return len(seen)

        await add(api, "a1", status=FAILED)
        few = await count()
        await add(api, *(f"b{number}" for number in range(20)), status=FAILED)
        assert await count() == few
