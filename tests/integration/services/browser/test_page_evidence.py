"""What is had of a real browser's tab, and what not."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from app.clients.browsers.devtools import RedirectWatcher
from app.services.browser.page_evidence import capture
from app.services.interfaces import PageEvidence
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.factories import new_authorization

AUTHORIZATION = new_authorization()
PAGE = "<!doctype html><title>{title}</title><body>{body}"

Tab = Callable[[], AbstractContextManager[RedirectWatcher]]


@pytest.fixture
def tab(shared_browser: str) -> Tab:
    """Watches a fresh tab of a running browser."""
    return partial(RedirectWatcher, ws_url=shared_browser, redirect_uri="http://127.0.0.1:1/cb", timeout=10)


def show(watcher: RedirectWatcher, title: str, body: str) -> None:
    """Returns when the page has been built."""
    page = PAGE.format(title=title, body=f"{body}<p id=end>")
    watcher.ask("Page.navigate", seconds=10, url=f"data:text/html;charset=utf-8,{quote(page)}")
    built = "document.getElementById('end') && document.title"
    while not (value(watcher, built) or "").startswith(title):
        pass


def value(watcher: RedirectWatcher, expression: str) -> Any:
    answer = watcher.ask("Runtime.evaluate", seconds=10, expression=expression, returnByValue=True)
    return (answer or {}).get("result", {}).get("value")


async def evidence_of(
    tab: Tab, body: str, *, title: str = "A page", max_bytes: int = 500_000
) -> PageEvidence | None:
    def work() -> PageEvidence | None:
        with tab() as watcher:
            show(watcher, title, body)
            return capture(watcher, authorization=AUTHORIZATION, max_bytes=max_bytes)

    return await asyncio.to_thread(work)


async def test_evidence_holds_what_the_page_shows(tab: Tab):
    seen = await evidence_of(
        tab,
        "<p data-testid=Shown>x<p data-testid=Shown>x<p data-testid=Gone hidden>x"
        "<script>for (let i = 0; i < 30; i++) console.error('line', i); console.log('no error')</script>",
    )
    assert seen is not None
    assert (seen.url, seen.title, seen.test_ids) == ("data:", "A page", ("Shown",))
    assert seen.console == tuple(f"line {number}" for number in range(10, 30))
    assert seen.screenshot is not None
    assert seen.screenshot.startswith(b"\xff\xd8\xff")


async def test_texts_are_cut(tab: Tab):
    words = "word " * 300
    seen = await evidence_of(tab, f"<script>console.error({json.dumps(words)})</script>", title=words.strip())
    assert seen is not None
    assert (len(seen.title), len(seen.console[0])) == (300, 500)


async def test_a_screenshot_that_is_too_large_is_left_out(tab: Tab):
    seen = await evidence_of(tab, "<p>x", max_bytes=100)
    assert seen is not None
    assert seen.screenshot is None


@pytest.mark.parametrize("field", ["type=password", "type=text autocomplete=current-password"])
async def test_screenshot_hides_passwords(tab: Tab, field: str):
    """Not even how long it is: the picture is the same."""
    box = f"<input {field} style='width:600px;transition:color 60s' value='%s'>"
    pictures = [await evidence_of(tab, box % password) for password in ("x", "hunter2 and more")]
    assert all(seen is not None and seen.screenshot for seen in pictures)
    assert len({seen.screenshot for seen in pictures if seen is not None}) == 1


async def test_half_an_emoji_and_a_nul_can_be_stored(tab: Tab):
    seen = await evidence_of(tab, "<script>document.title += '\\ud83d'; console.error('a\\0b')</script>")
    assert seen is not None
    assert (seen.title, seen.console) == ("A page", ("ab",))


async def test_page_in_an_endless_script_leaves_what_the_browser_knows(tab: Tab):
    def work() -> PageEvidence | None:
        with tab() as watcher:
            show(watcher, "Endless", "<script>console.error('before')</script>")
            watcher.ask("Runtime.evaluate", seconds=0.1, expression="for (;;);")
            return capture(watcher, authorization=AUTHORIZATION, max_bytes=500_000)

    seen = await asyncio.to_thread(work)
    assert seen is not None
    assert (seen.title, seen.console, seen.screenshot) == ("Endless", ("before",), None)


async def test_dead_browser_has_no_evidence(
    http: httpx.AsyncClient, info: SandboxInfo, admin: SandboxAdmin, profile: ProfileInfo
):
    body = {"profileId": profile.id, "sync": True}
    answer = await http.post(f"{info.gologin_local_url}/browser/start-profile", json=body)
    address = answer.json()["wsUrl"]
    with RedirectWatcher(ws_url=address, redirect_uri="http://127.0.0.1:1/cb", timeout=10) as watcher:
        await admin.kill_browser(profile.id)
        assert (
            await asyncio.to_thread(capture, watcher, authorization=AUTHORIZATION, max_bytes=500_000) is None
        )
