"""Live views over real sockets: who may watch, who may act, and viewers and browsers that misbehave."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import select
from websockets.exceptions import InvalidStatus

from app.clients.browsers import screencast
from app.clients.browsers.screencast import FRAME_TOO_LARGE, MAX_FRAME_BYTES, TAB_CLOSED
from app.context import Context
from app.models import AuthorizationSession as Session
from app.models import Event, Process, SessionStage, SessionStatus, utc_now
from app.services.keys.service import COMMAND_LINE, Scope
from app.services.shared.access import AccessScope
from tests.fixtures.api import API_KEY, NO_PLACE
from tests.fixtures.factories import new_profile, new_session
from tests.fixtures.live import (
    RELEASE,
    TAKE,
    MadeUpBrowser,
    Viewer,
    frame_message,
    made_up_browser,
    picture,
    viewer,
)
from tests.fixtures.logs import LogLines
from tests.fixtures.serving import served
from tests.fixtures.settings import MakeSettings
from tests.fixtures.waiting import eventually

SECRET = "typed/by-a+person"


@dataclass
class Stage:
    """A service with one running session in a browser that is made up."""

    url: str
    context: Context
    session_id: str
    browser: MadeUpBrowser

    async def headers(self, *scopes: Scope, name: str = "bootstrap", **options: Any) -> dict[str, str]:
        """The headers of a page of a sign-in, with the bootstrap key, or with a new key of these scopes."""
        key = API_KEY
        if scopes:
            values = {"name": name, "scopes": frozenset(scopes), "caller": COMMAND_LINE} | options
            async with self.context.database.transaction() as db:
                key = (await self.context.keys.create(db, **values)).key.get_secret_value()
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as http:
            own = {"Sec-Fetch-Site": "same-origin"}
            answer = await http.post("/ui/sign-in", data={"key": key}, headers=own)
            assert answer.status_code == 303
            return {"Cookie": f"gologin_ui={http.cookies['gologin_ui']}", "Origin": self.url}

    def viewer(self, headers: dict[str, str], **options: Any) -> Any:
        return viewer(self.url, self.session_id, headers, **options)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Viewer]:
        async with self.viewer(await self.headers()) as opened:
            yield opened

    async def set(self, **values: Any) -> None:
        async with self.context.database.transaction() as db:
            row = (await db.scalars(select(Session).where(Session.session_id == self.session_id))).one()
            for name, value in values.items():
                setattr(row, name, value)

    async def events(self) -> list[tuple[str, str]]:
        query = select(Event.event_type, Event.actor).where(Event.event_type.startswith("live."))
        async with self.context.database.reading() as db:
            return [tuple(each) for each in await db.execute(query.order_by(Event.id))]


@asynccontextmanager
async def opened(
    make_settings: MakeSettings,
    database_url: str,
    *,
    browser_options: dict[str, Any] | None = None,
    **changes: Any,
) -> AsyncIterator[Stage]:
    overrides = {
        "database_url": database_url,
        "api_key": API_KEY,
        "gologin_api_url": NO_PLACE,
        "gologin_local_url": NO_PLACE,
        "shutdown_grace": 5,
    }
    async with (
        served(make_settings(**overrides | changes)) as service,
        made_up_browser(**browser_options or {}) as browser,
    ):
        context: Context = service.app.state.context
        profile = new_profile(account_id="anna_1")
        row = new_session(
            profile,
            status=SessionStatus.IN_PROGRESS,
            stage=SessionStage.WAITING_FOR_PERSON,
            started_at=utc_now(),
            lease_owner=context.live.process,
            lease_token="token",
            lease_expires_at=utc_now() + timedelta(hours=1),
        )
        async with context.database.transaction() as db:
            db.add_all([profile, row])
        await eventually(lambda: is_listed(context))
        with context.live.tabs.show(row.session_id, browser.tab):
            yield Stage(service.url, context, row.session_id, browser)


async def is_listed(context: Context) -> bool:
    async with context.database.reading() as db:
        return await db.scalar(select(Process.owner)) == context.live.process


@pytest_asyncio.fixture
async def stage(make_settings: MakeSettings, database_url: str) -> AsyncIterator[Stage]:
    async with opened(make_settings, database_url) as stage:
        yield stage


@pytest_asyncio.fixture
async def stage_on_sqlite(make_settings: MakeSettings, sqlite_url: str) -> AsyncIterator[Stage]:
    async with opened(make_settings, sqlite_url) as stage:
        yield stage


async def refusal(stage: Stage, headers: dict[str, str], session_id: str | None = None) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as raised:
        async with viewer(stage.url, session_id or stage.session_id, headers):
            pass
    response = raised.value.response
    return response.status_code, json.loads(response.body)["error_code"]


async def test_view_is_refused_without_sign_in_origin_scope_or_access(stage_on_sqlite: Stage):
    stage = stage_on_sqlite
    good = await stage.headers()
    cookie = {"Cookie": good["Cookie"]}
    assert await refusal(stage, {"Origin": stage.url}) == (401, "SIGN_IN_REQUIRED")
    assert await refusal(stage, good | {"Cookie": "gologin_ui=wrong"}) == (401, "SIGN_IN_REQUIRED")
    for origin in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": f"{stage.url}0"}):
        assert await refusal(stage, cookie | origin) == (403, "FORM_REFUSED"), origin
    liar = cookie | {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}
    assert await refusal(stage, liar) == (403, "FORM_REFUSED")
    blind = await stage.headers(Scope.AUTHORIZE, Scope.CONTROL, name="blind")
    assert await refusal(stage, blind) == (403, "FORBIDDEN")
    elsewhere = await stage.headers(
        Scope.EVIDENCE, name="elsewhere", access=AccessScope.from_lists([], ["bob_*"])
    )
    assert await refusal(stage, elsewhere) == (404, "SESSION_NOT_FOUND")
    assert await refusal(stage, good, "no-such-session") == (404, "SESSION_NOT_FOUND")
    assert stage.browser.sent == 0
    async with stage.viewer(good) as watcher:
        await eventually(lambda: watcher.frames)


async def test_other_paths_offer_no_websocket(stage_on_sqlite: Stage):
    async with httpx.AsyncClient(base_url=stage_on_sqlite.url, trust_env=False) as http:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        answer = await http.get(
            "/health", headers=upgrade | {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        )
    assert answer.status_code == 200


async def test_frames_come_one_by_one(stage_on_sqlite: Stage):
    stage = stage_on_sqlite
    async with stage.viewer(await stage.headers(), acknowledges=False) as watcher:
        await eventually(lambda: watcher.frames)
        await eventually(lambda: watcher.state.get("waits") is False and watcher.state["is_live"])
        assert (watcher.frames, stage.browser.sent) == ([picture(1)], 1)
        watcher.acknowledges = True
        await watcher.socket.send('{"type":"ack"}')
        await eventually(lambda: len(watcher.frames) > 3)
        assert watcher.frames[:3] == [picture(number) for number in (1, 2, 3)]
    assert await stage.events() == [("live.view_opened", "bootstrap")]


async def test_screencast_that_sends_nothing_is_started_again(
    make_settings: MakeSettings, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Chromium sends no frame of one that starts while a navigation brings the page's next process."""
    monkeypatch.setattr(screencast, "_FIRST_FRAME", 0.05)
    options = {"starts_without_frames": 2}
    async with opened(make_settings, sqlite_url, browser_options=options) as stage, stage.watching() as one:
        await eventually(lambda: one.frames)
        assert stage.browser.starts_without_frames == 0


async def takes_control(one: Viewer) -> None:
    await eventually(lambda: one.state.get("waits"))
    await one.socket.send(TAKE)
    await eventually(lambda: one.state.get("is_mine"))


async def is_heard(one: Viewer) -> None:
    """Wait until the service has read what the viewer has sent: of the next two frames, the second comes of an
    acknowledgement that was sent after it.
    """
    frames = len(one.frames)
    await eventually(lambda: len(one.frames) >= frames + 2)


async def test_one_person_acts_and_the_others_watch(stage: Stage, log_lines: LogLines):
    ann = await stage.headers(Scope.EVIDENCE, Scope.CONTROL, name="ann")
    bob = await stage.headers(Scope.EVIDENCE, Scope.CONTROL, name="bob")
    eve = await stage.headers(Scope.EVIDENCE, name="eve")
    stage.browser.person.set()
    act = {"type": "mouse", "event": "down", "x": 0.5, "y": 0.25, "button": "left", "buttons": 1, "clicks": 1}
    async with stage.viewer(ann) as first, stage.viewer(bob) as second, stage.viewer(eve) as third:
        await takes_control(first)
        await eventually(lambda: second.state.get("controller") == third.state.get("controller") == "ann")
        for other in (second, third):
            await eventually(lambda other=other: other.state["waits"])
            await other.socket.send(TAKE)
            await other.does(type="text", text="from another")
            await is_heard(other)
        await first.does(**act)
        await first.does(type="text", text=SECRET)
        await eventually(lambda: len(stage.browser.acts) == 2)
        assert stage.browser.acts == [
            (
                "Input.dispatchMouseEvent",
                {
                    "type": "mousePressed",
                    "x": 400.0,
                    "y": 150.0,
                    "button": "left",
                    "buttons": 1,
                    "clickCount": 1,
                    "modifiers": 0,
                },
            ),
            ("Input.insertText", {"text": SECRET}),
        ]
        assert not second.state["is_mine"]
        assert third.state["may_control"] is False
        await first.socket.send(RELEASE)
        await eventually(lambda: second.state["controller"] is None)
        await takes_control(second)
        # What is no longer the first one's is not done.
        await first.does(type="text", text="too late")
        await second.does(type="text", text="mine")
        await eventually(lambda: len(stage.browser.acts) == 3)
        assert stage.browser.acts[-1] == ("Input.insertText", {"text": "mine"})
    await eventually(lambda: all_released(stage))
    events = await stage.events()
    assert [each for each in events if each[0] != "live.view_opened"] == [
        ("live.control_taken", "ann"),
        ("live.control_released", "ann"),
        ("live.control_taken", "bob"),
        ("live.control_released", "bob"),
    ]
    assert {each[1] for each in events if each[0] == "live.view_opened"} == {"ann", "bob", "eve"}
    assert SECRET not in json.dumps(log_lines())


async def all_released(stage: Stage) -> bool:
    return len([each for each in await stage.events() if each[0] == "live.control_released"]) == 2


async def test_nobody_acts_where_no_person_is_awaited(stage_on_sqlite: Stage):
    stage = stage_on_sqlite
    async with stage.viewer(await stage.headers()) as one:
        await eventually(lambda: one.state.get("is_live"))
        await one.socket.send(TAKE)
        await one.does(type="text", text="x")
        await is_heard(one)
        stage.browser.person.set()
        await takes_control(one)
        stage.browser.person.clear()
        await eventually(lambda: one.state["waits"] is False)
        await one.does(type="text", text="y")
        await is_heard(one)
        stage.browser.person.set()
        await eventually(lambda: one.state["waits"])
        await one.does(type="text", text="z")
        await eventually(lambda: stage.browser.acts)
        assert stage.browser.acts == [("Input.insertText", {"text": "z"})]


async def test_control_needs_its_scope(stage_on_sqlite: Stage):
    stage = stage_on_sqlite
    stage.browser.person.set()
    async with stage.viewer(await stage.headers(Scope.EVIDENCE, name="eve")) as eve:
        await eventually(lambda: eve.state.get("waits"))
        await eve.socket.send(TAKE)
        await eve.does(type="text", text="x")
        await is_heard(eve)
        assert (eve.state["is_mine"], eve.state["controller"], stage.browser.acts) == (False, None, [])


async def test_viewer_that_takes_no_frame_is_dropped_and_harms_nobody(
    stage_on_sqlite: Stage, monkeypatch: pytest.MonkeyPatch
):
    stage = stage_on_sqlite
    monkeypatch.setattr(stage.context.live.server, "_ack_timeout", 0.3)
    headers = await stage.headers()
    async with stage.viewer(headers) as quick, stage.viewer(headers, acknowledges=False) as slow:
        await eventually(lambda: slow.frames)
        await eventually(lambda: any("interrupted" in each["hint"] for each in slow.states))
        frames = len(quick.frames)
        await eventually(lambda: len(quick.frames) > frames)
        assert not any("interrupted" in each["hint"] for each in quick.states)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no JSON", 1008),
        ('{"type":"cdp","method":"Browser.close"}', 1008),
        ('{"type":"mouse","event":"down","x":1.5,"y":0}', 1008),
        ('{"type":"mouse","event":"down","x":NaN,"y":0}', 1008),
        ('{"type":"key","event":"down","key":"F12"}', 1008),
        ("x" * 70_000, 1009),
    ],
)
async def test_message_that_is_no_act_ends_the_view(stage_on_sqlite: Stage, message: str, code: int):
    stage = stage_on_sqlite
    async with stage.viewer(await stage.headers()) as one:
        await eventually(lambda: one.state.get("is_live"))
        await one.socket.send(message)
        await one.socket.wait_closed()
        assert one.socket.close_code == code
    assert stage.browser.acts == []


def huge(number: int) -> str:
    return frame_message(number, data="AAAA" * (MAX_FRAME_BYTES // 3 + 1))


def larger_than_a_message(number: int) -> str:
    return frame_message(number, data="A" * (4 * MAX_FRAME_BYTES))


@pytest.mark.parametrize("frame", [huge, larger_than_a_message])
async def test_frame_of_a_hostile_size_ends_the_view_with_a_reason(
    make_settings: MakeSettings, sqlite_url: str, frame: Any
):
    options = {"frame": frame}
    async with opened(make_settings, sqlite_url, browser_options=options) as stage, stage.watching() as one:
        await eventually(lambda: any(each["hint"] == FRAME_TOO_LARGE for each in one.states))
        assert one.frames == []


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "no base64!"},
        {"metadata": {"deviceWidth": 1e9, "deviceHeight": 1}},
        {"metadata": {}},
        {"sessionId": None},
    ],
)
async def test_frame_of_another_shape_is_passed_over(
    make_settings: MakeSettings, sqlite_url: str, changes: dict[str, Any]
):
    def odd_then_good(number: int) -> str:
        if number == 1:
            return frame_message(number, **changes)
        return frame_message(number)

    options = {"frame": odd_then_good}
    async with opened(make_settings, sqlite_url, browser_options=options) as stage, stage.watching() as one:
        await eventually(lambda: stage.browser.sent)
        (socket,) = stage.browser.connections
        await socket.send(frame_message(2))
        await eventually(lambda: one.frames)
        assert one.frames[0] == picture(2)


async def test_tab_that_closes_ends_the_view_with_a_reason(stage_on_sqlite: Stage):
    stage = stage_on_sqlite
    async with stage.viewer(await stage.headers()) as one:
        await eventually(lambda: one.frames)
        await stage.set(status=SessionStatus.PENDING, lease_owner=None)
        with stage.context.live.tabs.show(stage.session_id, stage.browser.tab):
            pass  # a later attempt's has come and gone
        await eventually(lambda: any(each["hint"] == TAB_CLOSED for each in one.states))
        await stage.set(status=SessionStatus.COMPLETED, completed_at=utc_now())
        await eventually(lambda: one.end)
        assert one.end == "The session is completed: the tokens are stored."


async def test_view_ends_with_its_key(stage_on_sqlite: Stage):
    stage = stage_on_sqlite
    headers = await stage.headers(Scope.EVIDENCE, name="ann")
    async with stage.viewer(headers) as one:
        await eventually(lambda: one.frames)
        async with httpx.AsyncClient(base_url=stage.url, trust_env=False) as http:
            own = {"X-API-Key": API_KEY}
            listed = (await http.get("/keys", headers=own)).json()["data"]
            key_id = next(each["key_id"] for each in listed if each["name"] == "ann")
            assert (await http.delete(f"/keys/{key_id}", headers=own)).is_success
        await eventually(lambda: one.end)
        assert one.end == "Your sign-in has ended."


async def test_views_have_a_limit(make_settings: MakeSettings, sqlite_url: str):
    async with (
        opened(make_settings, sqlite_url, dashboard_live_viewers=1) as stage,
        AsyncExitStack() as stack,
    ):
        headers = await stage.headers()
        one = await stack.enter_async_context(stage.viewer(headers))
        await eventually(lambda: one.frames)
        two = await stack.enter_async_context(stage.viewer(headers))
        await eventually(lambda: two.end)
        assert two.end == "Too many live views are open; try again later."
        assert two.frames == []


async def test_resume_and_help_needs_the_scopes_of_all_that_it_leads_to(stage_on_sqlite: Stage):
    stage = stage_on_sqlite
    await stage.set(status=SessionStatus.NEEDS_ATTENTION, lease_owner=None, lease_token=None)
    path = f"/ui/sessions/{stage.session_id}"
    for scopes, shown in (
        ((Scope.AUTHORIZE, Scope.EVIDENCE), False),
        ((Scope.AUTHORIZE, Scope.EVIDENCE, Scope.CONTROL), True),
    ):
        headers = await stage.headers(*scopes, name=f"key-{len(scopes)}")
        async with httpx.AsyncClient(base_url=stage.url, headers=headers, trust_env=False) as http:
            page = (await http.get(path)).text
            assert ("Resume and help" in page) is shown
            csrf = page.partition('name="csrf" value="')[2].partition('"')[0]
            answer = await http.post(
                f"{path}/help", data={"csrf": csrf}, headers={"Sec-Fetch-Site": "same-origin"}
            )
            assert answer.status_code == (303 if shown else 403)
    assert answer.headers["Location"] == f"{path}/live/view"
