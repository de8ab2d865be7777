"""Views and actions of the operators' page: they show and do what the key may, and escape what others wrote."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from app.models import AuthorizationSession as Session
from app.models import (
    Credential,
    Event,
    EventType,
    Evidence,
    Profile,
    ProfileSync,
    SessionStatus,
    utc_now,
)
from app.services.events import recorder
from app.services.keys.service import Scope
from app.services.shared.access import AccessScope
from app.utils.exceptions import ErrorCode, LoginRequiredException
from tests.fixtures.api import NO_PLACE, Api, OpenApi, opener
from tests.fixtures.costs import explained
from tests.fixtures.dashboard import PageBrowser, page_browser, shown_text
from tests.fixtures.factories import AddRow, new_profile, new_session, new_tokens
from tests.fixtures.routes import granting
from tests.fixtures.settings import MakeSettings

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

APP = "AIOTT1"
JPEG = b"\xff\xd8\xff\xe0 a picture"
WITHIN = {"access": AccessScope.from_lists([APP], ["anna_*"])}
SCRIPT = "<script>alert('1')</script>\" onload=x"


@pytest_asyncio.fixture
async def browser(api: Api) -> AsyncIterator[PageBrowser]:
    async with page_browser(api) as opened:
        yield opened


async def session(api: Api, account: str = "anna_1", **values: Any) -> Session:
    """A session of an account that has a profile, tokens and evidence, in the state of `values`."""
    profile = new_profile(account_id=account, api_app=APP, is_linked=True)
    row = new_session(profile, **values)
    async with api.context.database.transaction() as db:
        db.add_all([profile, row])
        db.add(
            Evidence(
                session_id=row.session_id,
                attempt=1,
                url="http://h/login",
                title="Log in",
                test_ids=["Button"],
                console=["an error"],
                screenshot=JPEG,
            )
        )
        await api.context.tokens.credentials.store(
            db,
            account_id=account,
            api_app=APP,
            provider_user_id="17",
            tokens=new_tokens(),
            session_id=row.session_id,
        )
    return row


async def fail(api: Api, row: Session) -> None:
    """Let an attempt of the session run and fail."""
    job = await api.context.sessions.runs.claim(row.session_id)
    assert job is not None
    await api.context.sessions.runs.fail(job, LoginRequiredException(row.account_id))


async def row_of(api: Api, row: Session) -> Session:
    async with api.context.database.reading() as db:
        return (await db.scalars(select(Session).where(Session.id == row.id))).one()


VIEWS = {
    "/ui/sessions": Scope.SESSIONS_READ,
    "/ui/sessions/{session_id}": Scope.SESSIONS_READ,
    "/ui/sessions/{session_id}/cancel": Scope.AUTHORIZE,
    "/ui/sessions/{session_id}/screenshot?attempt=1": Scope.EVIDENCE,
    "/ui/accounts": Scope.SESSIONS_READ,
    "/ui/accounts/{account_id}": Scope.SESSIONS_READ,
    "/ui/accounts/{account_id}/revoke?api_app=AIOTT1": Scope.TOKENS_MANAGE,
    "/ui/profiles": Scope.PROFILES,
    "/ui/profiles/{profile_id}": Scope.PROFILES,
    "/ui/profiles/{profile_id}/unlink": Scope.PROFILES,
    "/ui/profiles/{profile_id}/release": Scope.PROFILES,
}
ACTIONS = {
    "/ui/sessions/{session_id}/cancel": Scope.AUTHORIZE,
    "/ui/sessions/{session_id}/retry": Scope.AUTHORIZE,
    "/ui/sessions/{session_id}/resume": Scope.AUTHORIZE,
    "/ui/sessions": Scope.AUTHORIZE,
    "/ui/accounts/{account_id}/authorize": Scope.AUTHORIZE,
    "/ui/accounts/{account_id}/refresh": Scope.TOKENS_MANAGE,
    "/ui/accounts/{account_id}/verify": Scope.TOKENS_MANAGE,
    "/ui/accounts/{account_id}/revoke": Scope.TOKENS_MANAGE,
    "/ui/profiles/sync": Scope.PROFILES,
    "/ui/profiles/{profile_id}/link": Scope.PROFILES,
    "/ui/profiles/{profile_id}/unlink": Scope.PROFILES,
    "/ui/profiles/{profile_id}/release": Scope.PROFILES,
}


def filled(path: str, row: Session) -> str:
    return path.format(session_id=row.session_id, account_id=row.account_id, profile_id=row.profile_id)


def form_for(row: Session) -> dict[str, str]:
    return {"api_app": APP, "account_id": row.account_id, "twitter_username": row.account_id}


@pytest.mark.databases("sqlite")
async def test_view_without_its_scope_names_the_scope(api: Api):
    row = await session(api, status=SessionStatus.FAILED)
    for scope in set(VIEWS.values()) | set(ACTIONS.values()):
        others = set(Scope) - granting(scope)
        key = (await api.key(*others, name=f"without {scope}", rate_limit_per_minute=10_000))["X-API-Key"]
        async with page_browser(api, key) as browser:
            for path in (each for each, needed in VIEWS.items() if needed is scope):
                response = await browser.get(filled(path, row))
                assert response.status_code == 403, path
                assert f"This view needs the scope {scope}" in shown_text(response), path
            for path in (each for each, needed in ACTIONS.items() if needed is scope):
                response = await browser.post(filled(path, row), **form_for(row))
                assert (response.status_code, "FORBIDDEN" in response.text) == (403, True), path


async def test_restricted_key_sees_its_accounts_only(open_api: OpenApi):
    async with open_api(workers=False, rate_limit_per_minute=10_000) as api:
        own, other = await session(api), await session(api, "bert", status=SessionStatus.FAILED)
        key = (await api.key(Scope.ADMIN, **WITHIN))["X-API-Key"]
        async with page_browser(api, key) as browser:
            for path in ("/ui/sessions", "/ui/accounts", "/ui/profiles"):
                text = await browser.shows(path)
                assert "anna_1" in text, path
                assert "bert" not in text, path
                assert "bert" not in await browser.shows(f"{path}?api_app={APP}")
            assert "numbers of the whole fleet are for keys without restrictions" in await browser.shows(
                "/ui"
            )
            for path in VIEWS:
                if "{" in path:
                    assert (await browser.get(filled(path, own))).status_code == 200, path
                    refused = await browser.get(filled(path, other))
                    assert refused.status_code in (403, 404), path
                    assert "bert_secret" not in refused.text
            for path in ACTIONS:
                refused = await browser.post(filled(path, other), **form_for(other))
                assert refused.status_code in (403, 404), path
        assert (await row_of(api, other)).status is SessionStatus.FAILED


async def test_sessions_are_filtered_and_paged(api: Api, browser: PageBrowser):
    now = utc_now()
    rows = [
        new_session(new_profile(account_id=f"a{number}"), created_at=now - timedelta(minutes=number))
        for number in range(60)
    ]
    rows[3].status, rows[3].error_code = SessionStatus.FAILED, ErrorCode.LOGIN_REQUIRED
    async with api.context.database.transaction() as db:
        db.add_all(rows)
    first = await browser.shows("/ui/sessions")
    assert "60 sessions, page 1" in first
    link = first.partition('rel="next" href="')[2].partition('"')[0]
    second = await browser.shows(link.replace("&amp;", "&"))
    assert "60 sessions, page 2" in second
    assert all((f">@a{number}<" in first) == (number < 50) for number in range(60))
    assert all((f">@a{number}<" in second) == (number >= 50) for number in range(60))
    for query in (
        "status=failed",
        "error_code=LOGIN_REQUIRED",
        "account_id=@A3",
        f"request_id={rows[3].request_id}",
    ):
        text = await browser.shows(f"/ui/sessions?{query}&batch_id=&since=")
        assert (">@a3<" in text, ">@a4<" in text) == (True, False), query
    since = (now - timedelta(minutes=1, seconds=30)).strftime("%Y-%m-%dT%H:%M:%S")
    text = await browser.shows(f"/ui/sessions?since={since}")
    assert (">@a1<" in text, ">@a2<" in text) == (True, False)
    assert f'value="{since}"' in text
    assert "No session matches these filters" in await browser.shows("/ui/sessions?status=completed")
    wrong = await browser.get("/ui/sessions?status=wrong")
    assert (wrong.status_code, "INVALID_REQUEST" in wrong.text) == (422, True)


@pytest.mark.databases("sqlite")
async def test_empty_lists_say_what_to_do(browser: PageBrowser):
    assert "There is no session yet. Request one" in await browser.shows("/ui/sessions")
    assert "No account has tokens yet. " in await browser.shows("/ui/accounts")
    assert "“Sync now” reads GoLogin's list" in await browser.shows("/ui/profiles")


async def test_session_shows_its_attempts_evidence_and_events_and_starts_again(
    open_api: OpenApi,
):
    async with open_api(workers=False, retry_wait=1e-9) as api, page_browser(api) as browser:
        row = await session(api)
        path = f"/ui/sessions/{row.session_id}"
        waiting = await browser.shows(path)
        assert "No attempt has begun" in waiting
        assert f'sse-connect="{path}/live"' in waiting
        await fail(api, row)
        failed = await browser.shows(path)
        text = shown_text(await browser.get(path))
        assert "needs attention" in text
        assert "Attempt 1" in text
        assert f'href="/ui/errors#{ErrorCode.LOGIN_REQUIRED}"' in failed
        assert "sse-connect" not in failed
        assert f'src="{path}/screenshot?attempt=1"' in failed
        assert "an error" in text
        assert EventType.AUTHORIZATION_STARTED in text
        picture = await browser.get(f"{path}/screenshot?attempt=1")
        assert (picture.content, picture.headers["Content-Type"]) == (JPEG, "image/jpeg")
        assert (await browser.get(f"{path}/screenshot?attempt=2")).status_code == 404
        assert "The profile opens at the page that needs a person" in await browser.does(f"{path}/resume")
        resumed = await row_of(api, row)
        assert (resumed.status, resumed.awaits_person) == (SessionStatus.PENDING, True)
        confirm = await browser.shows(f"{path}/cancel")
        assert "Cancel the session of @anna_1?" in confirm
        assert (await row_of(api, row)).status is SessionStatus.PENDING
        assert "The session is cancelled." in await browser.does(f"{path}/cancel")
        again = await browser.post(f"{path}/cancel")
        assert (again.status_code, "SESSION_ENDED" in again.text) == (409, True)
        stays = await browser.post(f"{path}/retry", next="/ui/sessions?status=cancelled")
        assert stays.headers["Location"] == "/ui/sessions?status=cancelled"
        assert (await row_of(api, row)).status is SessionStatus.PENDING
        assert "waits for its next attempt" in await browser.shows("/ui/sessions")
        assert "waits for its next attempt" not in await browser.shows("/ui/sessions")  # told once
    async with api.context.database.reading() as db:
        query = select(Event.actor).where(Event.event_type == EventType.AUTHORIZATION_RESUMED)
        assert (await db.scalars(query)).all() == ["bootstrap"]


async def test_running_session_is_followed_to_its_end(open_api: OpenApi):
    async with open_api(workers=False, event_stream_heartbeat=0.05) as api, page_browser(api) as browser:
        row = await session(api)
        path = f"/ui/sessions/{row.session_id}"
        async with api.context.database.transaction() as db:
            await api.context.sessions.authorizations.cancel(db, row.session_id, actor="tests")
        answer = await browser.get(f"{path}/live")
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        parts = answer.text.split("\n\n")
        assert [part.partition("\n")[0] for part in parts if part.startswith("event:")] == [
            "event: session",
            "event: end",
        ]
        assert 'data-status="cancelled"' in answer.text
        assert (await browser.get("/ui/sessions/none/live")).status_code == 404


async def test_account_is_authorized_again_and_revoked(open_api: OpenApi):
    async with open_api(workers=False, x_api_url=NO_PLACE) as api, page_browser(api) as browser:
        await session(api, status=SessionStatus.COMPLETED)
        page = await browser.shows("/ui/accounts/anna_1")
        assert "clear-access-token" not in page
        assert "tweet.read" in page
        listed = await browser.shows("/ui/accounts?text=anna&status=active")
        assert "@anna_1" in listed
        answer = await browser.post("/ui/accounts/anna_1/authorize", api_app=APP)
        assert "The session is requested." in await browser.shows(answer.headers["Location"])
        again = await browser.post("/ui/accounts/anna_1/authorize", api_app=APP)
        assert again.headers["Location"] == answer.headers["Location"]
        assert "is open already" in await browser.shows(answer.headers["Location"])
        confirm = await browser.shows(f"/ui/accounts/anna_1/revoke?api_app={APP}")
        assert f"Revoke the tokens of @anna_1 in {APP}?" in confirm
        async with api.context.database.reading() as db:
            assert (await db.scalars(select(Credential.account_id))).all() == ["anna_1"]
        # Nothing answers at the provider's address here: the service goes on asking.
        assert "goes on asking it to revoke" in await browser.does("/ui/accounts/anna_1/revoke", api_app=APP)
        refused = await browser.post("/ui/accounts/anna_1/refresh", api_app=APP)
        assert (refused.status_code, "TOKEN_REVOKED" in refused.text) == (409, True), shown_text(refused)
        unknown = await browser.get("/ui/accounts/nobody")
        assert (unknown.status_code, "TOKEN_NOT_FOUND" in unknown.text) == (404, True)


async def test_profile_is_linked_unlinked_and_released(api: Api, browser: PageBrowser, add_profile: AddRow):
    profile = await add_profile(quarantined_at=utc_now(), quarantine_reason="It hangs")
    path = f"/ui/profiles/{profile.profile_id}"
    assert "It hangs" in await browser.shows("/ui/profiles?is_quarantined=true")
    assert "The profile is linked to @carla." in await browser.does(
        f"{path}/link", twitter_username="@Carla", api_app=""
    )
    assert "from @carla?" in await browser.shows(f"{path}/unlink")
    assert "The profile is unlinked." in await browser.does(f"{path}/unlink")
    assert "Release the profile" in await browser.shows(f"{path}/release")
    assert "The profile is released." in await browser.does(f"{path}/release")
    wrong = await browser.post(f"{path}/link", twitter_username="no handle", api_app="")
    assert (wrong.status_code, "INVALID_REQUEST" in wrong.text) == (422, True)
    assert "The sync is requested" in await browser.does("/ui/profiles/sync")
    async with api.context.database.reading() as db:
        row = (await db.scalars(select(Profile))).one()
        assert (row.is_linked, row.quarantined_at) == (False, None)
        assert (await db.scalars(select(ProfileSync.requested_by))).all() == ["bootstrap"]


@pytest.mark.databases("sqlite")
async def test_text_of_others_runs_nowhere(api: Api, browser: PageBrowser):
    profile = new_profile(
        account_id=SCRIPT[:60], profile_name=SCRIPT, quarantined_at=utc_now(), quarantine_reason=SCRIPT
    )
    row = new_session(
        profile,
        status=SessionStatus.FAILED,
        error_code=SCRIPT[:60],
        error_message=SCRIPT,
        requested_by=SCRIPT,
        request_id=SCRIPT,
        batch_id="<script>",
    )
    async with api.context.database.transaction() as db:
        db.add_all([profile, row])
        db.add(
            Evidence(
                session_id=row.session_id,
                attempt=1,
                url=SCRIPT,
                title=SCRIPT,
                test_ids=[SCRIPT],
                console=[SCRIPT],
            )
        )
        recorder.record(
            db, EventType.AUTHORIZATION_FAILED, session_id=row.session_id, text=SCRIPT, **{"<b>": SCRIPT}
        )
        await api.context.tokens.credentials.store(
            db,
            account_id=SCRIPT[:60],
            api_app=APP,
            provider_user_id=SCRIPT,
            tokens=new_tokens(scopes=(SCRIPT,)),
            session_id=row.session_id,
        )
    for path in (
        "/ui/sessions",
        f"/ui/sessions/{row.session_id}",
        f"/ui/sessions/{row.session_id}/cancel",
        f"/ui/sessions/{row.session_id}/live",
        "/ui/accounts",
        "/ui/profiles",
        f"/ui/profiles/{profile.profile_id}",
        f"/ui/profiles/{profile.profile_id}/release",
        "/ui/sessions?account_id=<script>alert(1)</script>",
        "/ui/accounts?text=<script>alert('1')</script>",
        "/ui/accounts/<script>alert('1')<%2Fscript>",
        "/ui/accounts?cursor=<script>",
    ):
        text = (await browser.get(path)).text
        assert "<script>" not in text, path
        assert "<b>" not in text, path
        assert '" onload' not in text, path


async def test_statements_of_a_view_do_not_depend_on_its_rows(postgresql_api: Api):
    api = postgresql_api
    async with page_browser(api) as browser:

        async def statements(path: str) -> list[str]:
            with explained(api.context.database) as seen:
                await browser.shows(path)
            return [each.text for each in seen]

        row = await session(api)
        paths = ("/ui", "/ui/sessions", f"/ui/sessions/{row.session_id}", "/ui/accounts", "/ui/profiles")
        few = [await statements(path) for path in paths]
        for number in range(20):
            await session(api, f"more_{number}")
        many = [await statements(path) for path in paths]
        assert [len(each) for each in few] == [len(each) for each in many]
        assert [len(each) for each in many] == [12, 3, 7, 4, 4]


@pytest_asyncio.fixture
async def postgresql_api(
    make_settings: MakeSettings, postgresql_url: str, no_retries: None
) -> AsyncIterator[Api]:
    async with opener(make_settings, postgresql_url)(workers=False) as opened:
        yield opened
