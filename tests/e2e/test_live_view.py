"""An operator signs an account in through the live view: a real browser in which a person acts in another one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from sqlalchemy import MetaData, select

from app.database import Database
from app.models import Profile
from sandbox.devtools import command
from sandbox.process import SandboxProcess
from tests.e2e.canary import Canaries, LeakLog, password
from tests.e2e.harness import WAIT, ServiceHarness, open_harness
from tests.e2e.worker_fleet import open_worker_fleet
from tests.fixtures.chrome import chrome, complaints
from tests.fixtures.live import viewer
from tests.fixtures.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("live")]


@pytest.fixture
def other_driver() -> Iterator[webdriver.Chrome]:
    with chrome() as opened:
        yield opened


class Operator:
    """A person at the page. Its methods block, so that a test calls them in a thread."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def sign_in(self, key: str) -> None:
        self.driver.get(f"{self.url}/ui/sign-in")
        self.driver.find_element(By.NAME, "key").send_keys(key, Keys.ENTER)
        self.sees("h1", "Overview")

    def sees(self, css: str, text: str = "") -> None:
        there = "return [...document.querySelectorAll(arguments[0])].some(e => e.innerText.includes(arguments[1]))"
        WebDriverWait(self.driver, WAIT).until(lambda _: self.driver.execute_script(there, css, text))

    def opens_the_view(self, session_id: str) -> None:
        """Resume the session, which needs attention, and wait until its browser asks for the person."""
        self.driver.get(f"{self.url}/ui/sessions/{session_id}")
        self.driver.find_element(By.XPATH, "//button[text()='Resume and help']").click()
        self.sees("#live-state", "waits for a person")
        self.sees("#screen[data-frames]")

    def watches(self, session_id: str, who: str) -> None:
        self.driver.get(f"{self.url}/ui/sessions/{session_id}/live/view")
        self.sees("#live-who", who)
        self.sees("#screen[data-frames]")

    @property
    def headers(self) -> dict[str, str]:
        """The headers with which the page opens its WebSocket."""
        cookies = "; ".join(f"{each['name']}={each['value']}" for each in self.driver.get_cookies())
        return {"Cookie": cookies, "Origin": self.url}

    def takes_control(self) -> None:
        self.driver.find_element(By.ID, "take").click()
        self.sees("#live-who", "You have the control.")

    def clicks(self, place: tuple[float, float]) -> None:
        """Click the picture at a place, as shares of its size."""
        canvas = self.driver.find_element(By.ID, "screen")
        size = self.driver.execute_script(
            "const c = arguments[0], scale = Math.min(c.clientWidth / c.width, c.clientHeight / c.height);"
            "return [c.width * scale, c.height * scale, c.offsetWidth, c.offsetHeight, c.clientLeft]",
            canvas,
        )
        x = size[4] + place[0] * size[0] - size[2] / 2
        y = size[4] + place[1] * size[1] - size[3] / 2
        ActionChains(self.driver).move_to_element_with_offset(canvas, x, y).click().perform()

    def types(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()


class ProfilePage:
    """The page in the profile's browser, looked at from the side."""

    def __init__(self, page_url: str) -> None:
        self._page_url = page_url

    async def evaluate(self, script: str) -> Any:
        answer = await command(
            self._page_url, "Runtime.evaluate", {"expression": script, "returnByValue": True}
        )
        return answer["result"].get("value")

    async def place(self, css: str) -> tuple[float, float]:
        """The middle of an element, as shares of the view's size."""
        x, y = await self.evaluate(
            f"(() => {{const box = document.querySelector('{css}').getBoundingClientRect();"
            "return [(box.x + box.width / 2) / innerWidth, (box.y + box.height / 2) / innerHeight]})()"
        )
        return x, y


async def profile_page(harness: ServiceHarness, account: str) -> ProfilePage:
    profile_id = await harness.profile_id(account)
    async with harness.reading() as db:
        ws_url = await db.scalar(select(Profile.ws_url).where(Profile.profile_id == profile_id))
    async with httpx.AsyncClient(trust_env=False) as http:
        targets = (await http.get(f"http://{urlsplit(ws_url).netloc}/json/list")).json()
    (page,) = (each for each in targets if "/i/oauth2/authorize" in each["url"])
    return ProfilePage(page["webSocketDebuggerUrl"])


async def ask_for_a_person(harness: ServiceHarness, account: str, secret: str) -> str:
    """A session that needs attention at the sandbox's login page; its second visit shows the page once more."""
    await harness.admin.set_fault("provider.authorize", "login_form", account=account, body=secret, times=2)
    session = await harness.authorize(account)
    assert (session["status"], session["error_code"]) == ("needs_attention", "LOGIN_REQUIRED")
    return str(session["session_id"])


async def help_through(
    operator: Operator, harness: ServiceHarness, account: str, session_id: str, secret: str
) -> None:
    await asyncio.to_thread(operator.opens_the_view, session_id)
    page = await profile_page(harness, account)
    await asyncio.to_thread(operator.takes_control)
    await log_in(operator, page, account, secret)
    ended = await harness.ended(session_id)
    assert ended["status"] == "completed", ended
    await asyncio.to_thread(operator.sees, "#live-who", "The session is completed")


async def log_in(operator: Operator, page: ProfilePage, account: str, secret: str) -> None:
    await asyncio.to_thread(operator.clicks, await page.place("[name=user]"))
    await asyncio.to_thread(operator.types, f"{account}x", Keys.BACKSPACE, Keys.TAB, secret)
    await eventually(lambda: is_typed(page, account, secret))
    await asyncio.to_thread(operator.clicks, await page.place("button"))


async def is_typed(page: ProfilePage, account: str, secret: str) -> bool:
    values = await page.evaluate(
        "[...document.querySelectorAll('input:not([type=hidden])')].map(e => e.value)"
    )
    return bool(values == [account, secret])


async def leaks(harness: ServiceHarness, secret: str) -> list[str]:
    """Places of the service in which what was typed shows: tables, logs and other files."""
    canaries = Canaries()
    canaries.plant("what was typed", secret)
    log = LeakLog(canaries)
    database = Database(harness.environment["DATABASE_URL"], pool_size=1)
    metadata = MetaData()
    try:
        async with database.engine.connect() as connection:
            await connection.run_sync(metadata.reflect)
            for table in metadata.sorted_tables:
                for row in (await connection.execute(select(table))).mappings():
                    log.write(table.name, dict(row))
    finally:
        await database.close()
    assert "live_controls" in metadata.tables
    files = [path for path in harness.folder.rglob("*") if path.is_file()]
    assert "service.log" in {path.name for path in files}
    for path in files:
        log.write(path.name, path.read_bytes())
    return log.read()


EVENTS = ["live.view_opened", "live.control_taken", "live.control_released"]


async def live_events(harness: ServiceHarness, session_id: str) -> list[tuple[str, str]]:
    return [
        (each.event_type, each.actor)
        for each in await harness.events(session_id)
        if each.event_type.startswith("live.")
    ]


@asynccontextmanager
async def debug_harness(sandbox: SandboxProcess, folder: Path) -> AsyncIterator[ServiceHarness]:
    async with open_harness(sandbox, folder, log_level="DEBUG", attended_timeout=300) as opened:
        yield opened


async def test_operator_signs_an_account_in_through_the_live_view(
    sandbox: SandboxProcess, folder: Path, driver: webdriver.Chrome, unused_accounts: Iterator[str]
):
    account, secret = next(unused_accounts), password()
    async with debug_harness(sandbox, folder) as harness:
        session_id = await ask_for_a_person(harness, account, secret)
        operator = Operator(driver, harness.service.url)
        await asyncio.to_thread(operator.sign_in, harness.key)
        await help_through(operator, harness, account, session_id, secret)
        await eventually(lambda: has_events(harness, session_id))
        assert await live_events(harness, session_id) == [(each, "bootstrap") for each in EVENTS]
        assert await leaks(harness, secret) == []
        assert complaints(driver) == []


async def has_events(harness: ServiceHarness, session_id: str) -> bool:
    return len(await live_events(harness, session_id)) == len(EVENTS)


async def test_second_operator_and_viewer_that_stops_reading_change_nothing(
    sandbox: SandboxProcess,
    folder: Path,
    driver: webdriver.Chrome,
    other_driver: webdriver.Chrome,
    unused_accounts: Iterator[str],
):
    account, secret = next(unused_accounts), password()
    async with debug_harness(sandbox, folder) as harness, AsyncExitStack() as stack:
        url = harness.service.url
        session_id = await ask_for_a_person(harness, account, secret)
        asked = {"name": "second", "scopes": ["sessions:read", "fleet:read", "evidence", "control"]}
        made = await harness.call("POST", "/keys", json=asked)
        first, second = Operator(driver, url), Operator(other_driver, url)
        await asyncio.to_thread(first.sign_in, harness.key)
        await asyncio.to_thread(second.sign_in, made.json()["data"]["key"])
        await asyncio.to_thread(first.opens_the_view, session_id)
        page = await profile_page(harness, account)
        await asyncio.to_thread(first.takes_control)
        stalled = await stack.enter_async_context(viewer(url, session_id, second.headers, acknowledges=False))
        await eventually(lambda: stalled.frames)
        stalled.socket.transport.pause_reading()
        stack.callback(stalled.socket.transport.resume_reading)
        await asyncio.to_thread(second.watches, session_id, "bootstrap has the control; you watch.")
        assert not other_driver.find_element(By.ID, "take").is_displayed()
        await asyncio.to_thread(second.clicks, await page.place("[name=user]"))
        await asyncio.to_thread(second.types, "from another")
        await log_in(first, page, account, secret)
        assert (await harness.ended(session_id))["status"] == "completed"
        events = await live_events(harness, session_id)
        assert {actor for each, actor in events if each == "live.control_taken"} == {"bootstrap"}
        assert ("live.view_opened", "second") in events


async def test_live_view_reaches_the_browser_of_another_process(
    sandbox: SandboxProcess,
    folder: Path,
    driver: webdriver.Chrome,
    unused_accounts: Iterator[str],
    postgresql_url: str,
):
    account, secret = next(unused_accounts), password()
    async with open_worker_fleet(
        sandbox,
        folder,
        postgresql_url,
        workers=2,
        log_level="DEBUG",
        max_attempts=1,
        internal_secret="s" * 32,
    ) as fleet:
        harness = fleet.harness
        session_id = await ask_for_a_person(harness, account, secret)
        operator = Operator(driver, harness.service.url)
        await asyncio.to_thread(operator.sign_in, harness.key)
        await help_through(operator, harness, account, session_id, secret)
        await eventually(lambda: has_events(harness, session_id))
        assert await leaks(harness, secret) == []
