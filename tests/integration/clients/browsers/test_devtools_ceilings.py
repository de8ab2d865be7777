"""DevTools messages above the ceiling: the connection ends, and nothing of the message is kept."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import structlog
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from app.clients.browsers import devtools, hung_tabs
from app.clients.browsers.devtools import DevToolsClient, RedirectWatcher
from app.clients.browsers.hung_tabs import closing_hung_tabs
from tests.fixtures.logs import LogLines

REDIRECT = "http://127.0.0.1:1/callback"
DEADLINE = 60
RESULTS: dict[str, Any] = {
    "Target.createTarget": {"targetId": "tab"},
    "Target.attachToTarget": {"sessionId": "session"},
    "Target.getTargets": {"targetInfos": [{"targetId": "tab", "type": "page", "url": "about:blank"}]},
}


def too_long(message: dict[str, Any], ceiling: int) -> str:
    return json.dumps(message) + " " * ceiling


def refusal(number: int) -> str:
    return json.dumps({"id": number, "error": {"code": -32602, "message": "No target with given id found"}})


@dataclass
class Browser:
    """Answers as one, but for `method`, which it answers with `answer` of its number."""

    method: str
    answer: Callable[[int], str]
    url: str = ""
    after: "asyncio.Future[str | int]" = field(default_factory=lambda: asyncio.Future())
    """The method that is asked next, or the code that the connection is closed with."""

    async def talk(self, socket: ServerConnection) -> None:
        is_told = False
        try:
            async for message in socket:
                asked = json.loads(message)
                if is_told:
                    self.after.set_result(asked["method"])
                    return
                if is_told := asked["method"] == self.method:
                    await socket.send(self.answer(asked["id"]))
                else:
                    result = RESULTS.get(asked["method"], {})
                    await socket.send(json.dumps({"id": asked["id"], "result": result}))
        except ConnectionClosed:
            pass
        if not self.after.done():
            self.after.set_result(socket.close_code or 0)


@asynccontextmanager
async def browser(method: str, answer: Callable[[int], str]) -> AsyncIterator[Browser]:
    """It listens until the first connection has ended."""
    scripted = Browser(method, answer)

    async def listen_until_after() -> None:
        await asyncio.wait([scripted.after])
        for each in server.sockets:
            asyncio.get_running_loop().remove_reader(each)
        # A connection that is accepted just before Python 3.11 closes its server gets a transport that nobody closes.
        await asyncio.sleep(0)
        server.close(close_connections=False)

    async with serve(scripted.talk, "127.0.0.1", 0) as server:
        host, port = next(iter(server.sockets)).getsockname()[:2]
        scripted.url = f"ws://{host}:{port}/devtools/browser/x"
        listening = asyncio.create_task(listen_until_after())
        yield scripted
        await listening


async def search_for_hung_tabs(scripted: Browser) -> str | int:
    """Return what the browser saw `after` its answer, while an attach would be under way."""
    loop = asyncio.get_running_loop()

    async def after() -> str | int:
        async with asyncio.timeout(DEADLINE):
            return await scripted.after

    def attach() -> str | int:
        with closing_hung_tabs(scripted.url, timeout=DEADLINE):
            return asyncio.run_coroutine_threadsafe(after(), loop).result(DEADLINE)

    return await asyncio.to_thread(attach)


async def test_a_redirect_in_a_message_above_the_ceiling_is_not_caught():
    paused = {
        "method": "Fetch.requestPaused",
        "sessionId": "session",
        "params": {"requestId": "1", "frameId": "tab", "request": {"url": f"{REDIRECT}?code=1"}},
    }

    def watch(url: str) -> RedirectWatcher:
        with RedirectWatcher(ws_url=url, redirect_uri=REDIRECT, timeout=DEADLINE) as watcher:
            with pytest.raises(ConnectionError):
                watcher.wait(DEADLINE)
            return watcher

    async with browser(
        "Target.setAutoAttach", lambda _: too_long(paused, devtools.MAX_MESSAGE_BYTES)
    ) as scripted:
        watcher = await asyncio.to_thread(watch, scripted.url)
        async with asyncio.timeout(DEADLINE):
            assert await scripted.after == CloseCode.MESSAGE_TOO_BIG
    assert watcher.redirect is None


async def test_a_tab_that_cannot_be_watched_is_closed():
    def watch(url: str) -> None:
        with RedirectWatcher(ws_url=url, redirect_uri=REDIRECT, timeout=DEADLINE):
            pytest.fail("it cannot be watched")

    async with browser("Fetch.enable", refusal) as scripted:
        with pytest.raises(ConnectionError, match="opens no tab"):
            await asyncio.to_thread(watch, scripted.url)
        async with asyncio.timeout(DEADLINE):
            assert await scripted.after == "Target.closeTarget"


async def test_a_tab_that_closes_before_it_is_asked_ends_no_search_for_hung_tabs():
    async with browser("Target.attachToTarget", refusal) as scripted:
        assert await search_for_hung_tabs(scripted) == "Target.getTargets"


async def test_a_list_of_tabs_above_the_ceiling_ends_the_search_with_a_log_line(log_lines: LogLines):
    def answer(number: int) -> str:
        return too_long({"id": number, "result": {"targetInfos": []}}, hung_tabs.MAX_MESSAGE_BYTES)

    structlog.contextvars.bind_contextvars(session_id="s-1")
    async with browser("Target.getTargets", answer) as scripted:
        assert await search_for_hung_tabs(scripted) == CloseCode.MESSAGE_TOO_BIG
    assert [(line["event"], line["error"], line["session_id"]) for line in log_lines()] == [
        ("browser.tabs_not_seen", "ConnectionClosedError", "s-1")
    ]


async def test_a_close_answered_above_the_ceiling_waits_for_the_browser_all_the_same(http: httpx.AsyncClient):
    def answer(number: int) -> str:
        return too_long({"id": number, "result": {"processInfo": []}}, devtools.MAX_MESSAGE_BYTES)

    async with browser("SystemInfo.getProcessInfo", answer) as scripted:
        assert await DevToolsClient(http=http).close_browser(scripted.url, timeout=DEADLINE)
        async with asyncio.timeout(DEADLINE):
            assert await scripted.after == CloseCode.MESSAGE_TOO_BIG
