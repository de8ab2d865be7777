"""The operators' page with the keyboard alone: every control is reached by Tab, shows the focus, and works."""

import asyncio
from typing import Final

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from tests.e2e.harness import ServiceHarness
from tests.e2e.operators import Operator
from tests.fixtures.chrome import complaints

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("dashboard")]

NAME: Final = """
// Without the content of what a live page changes.
const name = (each) => (each.id || each.hasAttribute("tabindex") ? each.cloneNode(false) : each).outerHTML;
"""
CONTROLS: Final = f"""{NAME}
const all = "a[href], button:enabled, input:not([type=hidden]), select, summary, [tabindex='0']";
return [...document.querySelectorAll(all)]
  .filter((each) => each.checkVisibility({{visibilityProperty: true}})).map(name);
"""
FOCUSED: Final = f"""{NAME}
const focused = document.activeElement;
const {{width, height, top, bottom}} = focused.getBoundingClientRect();
const isSeen = width > 1 && height > 1 && bottom > 0 && top < innerHeight;
const outline = getComputedStyle(focused);
const hasOutline = outline.outlineStyle !== "none" && parseFloat(outline.outlineWidth) >= 2;
return {{html: name(focused), isSeen, hasOutline, isBody: focused === document.body}};
"""


async def test_operator_filters_and_cancels_with_the_keyboard_alone(
    harness: ServiceHarness, driver: webdriver.Chrome, account: str
):
    await harness.admin.set_fault("provider.consent", "hang", account=account)
    session_id = await harness.ask(account)
    # A profile whose start was cancelled is kept until its lease ends.
    await harness.reached(session_id, "consent_given")
    operator = Operator(driver, harness.service.url)

    def walk() -> None:
        operator.sign_in(harness.key)
        skip_the_navigation(operator)
        operator.tab_to("Sessions")
        operator.press(Keys.ENTER)
        operator.sees("h1", "Sessions")
        filter_by_account(operator, account)
        cancel_from_the_list(operator, account)

    await asyncio.to_thread(walk)
    assert (await harness.ended(session_id))["status"] == "cancelled"
    await harness.admin.clear_faults(account)
    await harness.nothing_left(account)
    assert complaints(driver) == []


def skip_the_navigation(operator: Operator) -> None:
    operator.press(Keys.TAB)
    assert operator.focused() == "Skip to the content"
    operator.press(Keys.ENTER)
    assert operator.driver.execute_script("return document.activeElement.id") == "main"
    operator.press(Keys.TAB)
    assert operator.driver.execute_script("return document.activeElement.closest('main') !== null")


def filter_by_account(operator: Operator, account: str) -> None:
    operator.tab_to("Filters")
    operator.press(Keys.ENTER, Keys.TAB, account)
    operator.tab_to("Apply")
    operator.press(Keys.ENTER)
    operator.sees(".count", "1")
    assert f"account_id={account}&" in operator.path


def cancel_from_the_list(operator: Operator, account: str) -> None:
    """The first press only asks, with the name; neither a second one nor Back does anything."""
    label = f"Cancel the session of @{account}"
    operator.tab_to_label(label)
    operator.press(Keys.ENTER)
    operator.sees("h1", f"{label}?")
    assert operator.focused() == f"{label}?"
    operator.press(Keys.ENTER)
    operator.tab_to("Back")
    operator.press(Keys.ENTER)
    operator.sees("h1", f"@{account} in ")
    operator.tab_to("Cancel")
    operator.press(Keys.ENTER)
    operator.sees("h1", f"{label}?")
    operator.tab_to("Cancel the session")
    operator.press(Keys.ENTER)
    operator.sees(".notice", "The session is cancelled.")
    assert operator.focused() == "The session is cancelled."


async def test_tab_reaches_every_control_in_order_and_shows_it(
    harness: ServiceHarness, driver: webdriver.Chrome, account: str
):
    session = await harness.authorize(account)
    operator = Operator(driver, harness.service.url)

    def walk() -> None:
        operator.sign_in(harness.key)
        for path in (
            "/ui",
            "/ui/sessions?status=completed",
            f"/ui/sessions/{session['session_id']}",
            f"/ui/accounts/{account}",
            "/ui/batches/new",
        ):
            operator.open(path)
            driver.execute_script("document.querySelectorAll('details').forEach((each) => each.open = true)")
            controls = driver.execute_script(CONTROLS)
            reached: list[str] = []
            while True:
                operator.press(Keys.TAB)
                focus = driver.execute_script(FOCUSED)
                if focus["isBody"] or len(reached) > len(controls):
                    break
                if focus["html"] in reached[-1:]:
                    continue  # a field for times has a stop for each of its parts; the browser marks the part
                assert focus["isSeen"], (path, focus["html"])
                assert focus["hasOutline"], (path, focus["html"])
                reached.append(focus["html"])
            assert reached == controls, path

    await asyncio.to_thread(walk)
