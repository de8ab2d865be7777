"""The operators' page in a real browser: sign-in with the keyboard, a live session, a failed one, one-time links."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.e2e.harness import WAIT, ServiceHarness
from tests.fixtures.chrome import chrome, complaints

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("dashboard")]


@pytest.fixture
def driver() -> Iterator[webdriver.Chrome]:
    with chrome() as opened:
        yield opened


class Operator:
    """A person at the page. Its methods block, so that a test calls them in a thread."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    @property
    def path(self) -> str:
        return self.driver.current_url.removeprefix(self.url)

    def open(self, path: str) -> None:
        self.driver.get(self.url + path)

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, text: str) -> None:
        """Press Tab until the focus is on what says `text`."""
        for _ in range(40):
            self.press(Keys.TAB)
            if self.focused() == text:
                return
        raise AssertionError(f"Tab does not reach {text!r}")

    def focused(self) -> str:
        return str(self.driver.execute_script("return document.activeElement.textContent.trim()"))

    def sees(self, css: str, text: str = "") -> None:
        """Wait until an element is there that has this text."""
        # In one step: a live page replaces its elements at any time.
        there = "return [...document.querySelectorAll(arguments[0])].some(e => e.innerText.includes(arguments[1]))"
        self.until(lambda: self.driver.execute_script(there, css, text))

    def until(self, condition: Callable[[], Any]) -> None:
        WebDriverWait(self.driver, WAIT).until(lambda _: condition())

    def sign_in(self, key: str) -> None:
        self.open("/ui")
        assert self.path == "/ui/sign-in?next=%2Fui"
        self.press(key, Keys.ENTER)  # the field has the focus
        self.sees("h1", "Overview")


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
        return list(history)

    seen = await asyncio.to_thread(enter)
    assert len(ticket) > 40
    assert ticket not in str(seen) + driver.current_url
    assert ticket not in harness.service.log_path.read_text()
