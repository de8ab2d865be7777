"""The operators' page in a real browser: sign-in with the keyboard, a live session, a failed one, one-time links."""

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from sqlalchemy import update

from app.models import AuthorizationSession, utc_now
from sandbox.process import SandboxProcess
from tests.e2e.harness import ServiceHarness, open_harness
from tests.e2e.operators import Operator
from tests.fixtures.chrome import complaints

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("dashboard")]


async def test_operator_follows_an_authorization_and_opens_a_failed_one(
    harness: ServiceHarness, driver: webdriver.Chrome, unused_accounts: Iterator[str]
):
    account, failing = next(unused_accounts), next(unused_accounts)
    await harness.admin.set_fault("provider.authorize", "signed_out_redirect", account=failing)
    failed = await harness.authorize(failing)
    operator = Operator(driver, harness.service.url)
    await asyncio.to_thread(operator.sign_in, harness.key)
    await asyncio.to_thread(request_and_follow, operator, account)
    await asyncio.to_thread(open_failed, operator, failed)
    await asyncio.to_thread(retry_from_the_list, operator, failed)
    assert (await harness.ended(failed["session_id"]))["attempts"] == 2
    await asyncio.to_thread(sign_out, operator)
    assert complaints(driver) == []


def request_and_follow(operator: Operator, account: str) -> None:
    """With the keyboard alone; the page is not loaded again while the session runs."""
    operator.tab_to("Sessions")
    operator.press(Keys.ENTER)
    operator.sees("h1", "Sessions")
    operator.tab_to("Authorize an account")
    operator.press(Keys.ENTER, Keys.TAB, account)
    operator.tab_to("Request a session")
    operator.press(Keys.ENTER)
    operator.sees("[data-focus]", "The session is requested.")
    operator.driver.execute_script("window.isSamePage = true")
    operator.sees("#session[data-status=completed] .lead", "completed")
    operator.sees(".stages", "tokens stored")
    operator.until(lambda: not operator.driver.find_elements(By.CSS_SELECTOR, ".htmx-request"))
    assert operator.driver.execute_script("return window.isSamePage")
    shown = operator.driver.find_element(By.TAG_NAME, "time")
    assert "UTC" not in shown.text  # the reader's own zone
    assert re.search(r"\n\d{4}-\d\d-\d\dT.*\+00:00$", shown.get_attribute("title") or "")


def open_failed(operator: Operator, failed: dict[str, Any]) -> None:
    operator.open("/ui/sessions?status=needs_attention")
    operator.driver.find_element(By.LINK_TEXT, f"@{failed['account_id']}").click()
    operator.sees(".problem", failed["error"])
    picture = operator.driver.find_element(By.CSS_SELECTOR, ".evidence img")
    operator.driver.execute_script("arguments[0].scrollIntoView()", picture)
    operator.until(lambda: operator.driver.execute_script("return arguments[0].naturalWidth > 0", picture))
    operator.driver.find_element(By.LINK_TEXT, failed["error_code"]).click()
    operator.sees("dl.codes :target", failed["error_code"])


def retry_from_the_list(operator: Operator, failed: dict[str, Any]) -> None:
    """The list stays, with its filters, and says what has happened."""
    listed = f"/ui/sessions?account_id={failed['account_id']}"
    operator.open(listed)
    operator.driver.execute_script("window.isSamePage = true")
    operator.driver.find_element(By.XPATH, "//button[text()='Retry']").click()
    operator.sees(".notice", "The session waits for its next attempt.")
    assert (operator.path, operator.driver.execute_script("return window.isSamePage")) == (listed, True)
    assert "waits for its next attempt" in operator.focused()
    assert not operator.driver.find_elements(By.XPATH, "//button[text()='Retry']")


def sign_out(operator: Operator) -> None:
    operator.open("/ui")
    operator.tab_to("Sign out")
    operator.press(Keys.ENTER)
    operator.sees("h1", "Sign in")
    operator.open("/ui/sessions")
    assert operator.path == "/ui/sign-in?next=%2Fui%2Fsessions"


async def test_action_that_fails_is_told_on_the_page(
    harness: ServiceHarness, driver: webdriver.Chrome, account: str
):
    session = await harness.authorize(account)
    operator = Operator(driver, harness.service.url)

    def refresh_twice_and_after_revocation() -> None:
        operator.sign_in(harness.key)
        operator.open(f"/ui/accounts/{account}")
        operator.driver.find_element(By.XPATH, "//button[text()='Verify']").click()
        operator.sees(".notice", f"belongs to @{account}, as it should")

    await asyncio.to_thread(refresh_twice_and_after_revocation)
    revoked = await harness.call(
        "DELETE", f"/accounts/{account}/token", params={"api_app": session["api_app"]}
    )
    assert revoked.is_success

    def verify_again() -> None:
        operator.driver.find_element(By.XPATH, "//button[text()='Verify']").click()
        operator.sees("#problem .problem", "TOKEN_NOT_FOUND")
        assert operator.path == f"/ui/accounts/{account}"
        operator.sees("h1", f"@{account}")

    await asyncio.to_thread(verify_again)


async def test_link_signs_in_once_and_its_ticket_is_in_no_log(
    harness: ServiceHarness, driver: webdriver.Chrome
):
    link = await harness.service.run("ui-link", "--address", harness.service.url)
    ticket = link.partition("#")[2]
    operator = Operator(driver, harness.service.url)

    def enter() -> list[str]:
        driver.get(link)
        operator.sees("h1", "Overview")
        history = driver.execute_script("return [location.href, document.referrer]")
        driver.delete_all_cookies()
        driver.get("about:blank")
        driver.get(link)
        operator.sees(".problem", "This link was used already, or has expired")
        operator.open("/ui/enter")
        operator.sees(".problem", "This link is not complete")
        return list(history)

    seen = await asyncio.to_thread(enter)
    assert len(ticket) > 40
    assert ticket not in str(seen) + driver.current_url
    assert ticket not in harness.service.log_path.read_text()


async def test_overview_draws_its_charts_from_real_sessions(
    sandbox: SandboxProcess, folder: Path, driver: webdriver.Chrome, unused_accounts: Iterator[str]
):
    async with open_harness(sandbox, folder, monitor_interval=1) as harness:
        account, failing = next(unused_accounts), next(unused_accounts)
        await harness.admin.set_fault("provider.authorize", "signed_out_redirect", account=failing)
        await asyncio.gather(harness.authorize(account), harness.authorize(failing))
        operator = Operator(driver, harness.service.url)
        await asyncio.to_thread(operator.sign_in, harness.key)
        await asyncio.to_thread(operator.sees, ".tile", "completed in the last hour")
        await let_a_minute_pass(harness)
        await asyncio.to_thread(see_charts, operator)
    assert [each for each in complaints(driver) if "ERR_CONNECTION_REFUSED" not in each] == []


async def let_a_minute_pass(harness: ServiceHarness) -> None:
    """Move the ends of all sessions into the minute before the last, which the monitor counts again."""
    async with harness.writing() as db:
        ended = utc_now() - timedelta(minutes=2)
        await db.execute(update(AuthorizationSession).values(completed_at=ended))


def see_charts(operator: Operator) -> None:
    """They come without a new load of the page, fit its width, have colours, and a table with the same values."""
    operator.driver.execute_script("window.isSamePage = true")
    operator.sees(".chart figcaption", "2 sessions ended")
    operator.sees("[aria-labelledby=expiry] figcaption", "1 access token ")
    assert operator.driver.execute_script("return window.isSamePage")
    drawn = operator.driver.execute_script("""
        return [...document.querySelectorAll(".chart canvas")].map((canvas) => {
          const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          const colours = new Set();
          for (let at = 0; at < pixels.length; at += 4) {
            if (pixels[at + 3] === 255) colours.add(`${pixels[at]} ${pixels[at + 1]} ${pixels[at + 2]}`);
          }
          return [...colours];
        });
    """)
    blue, red, green = "36 86 199", "163 22 33", "18 99 58"
    sessions, rate, *_, tokens = drawn
    assert (len(drawn), blue in sessions, red in sessions, green in rate, blue in tokens) == (5, *[True] * 4)
    for width in (360, 1440):
        operator.driver.set_window_size(width, 900)
        operator.until(
            lambda: operator.driver.execute_script("""
                return [...document.querySelectorAll(".chart canvas")].every(
                    (canvas) => Math.abs(canvas.clientWidth - canvas.closest("[data-chart]").clientWidth) < 2)
                    && document.documentElement.scrollWidth <= innerWidth
            """)
        )
    operator.driver.find_element(By.ID, "table-hour").send_keys(Keys.ENTER)
    cells = "return [...document.querySelectorAll('#values-hour td:nth-of-type(1)')].map(e => e.innerText)"
    assert sum(int(cell) for cell in operator.driver.execute_script(cells)) == 1
    operator.driver.find_element(By.CSS_SELECTOR, "a[id^=hour-]").click()
    operator.sees("h1", "Sessions")
    operator.sees("table.list", "LOGIN_REQUIRED")
