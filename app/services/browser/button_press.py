"""Pressing one button of a page: moved to the middle of the window, seen to be still and uncovered, clicked once."""

from typing import Any, Final

from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    JavascriptException,
    MoveTargetOutOfBoundsException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver.remote.webelement import WebElement

from app.services.browser.page_scripts import PREPARE_PRESS

_STABLE_MS: Final = 100
"""A page that draws itself anew loses a click between the button's two pictures."""
_REPLACED: Final = "it is replaced again and again"
_GONE_ERRORS: Final = (StaleElementReferenceException, NoSuchElementException, JavascriptException)
_IN_THE_WAY: Final = {
    ElementClickInterceptedException: "it is covered",
    ElementNotInteractableException: "it cannot be clicked",
    MoveTargetOutOfBoundsException: "it is outside the window",
}


def why_not_now(driver: webdriver.Remote, button: WebElement, rules: dict[str, Any]) -> str:
    """Return why the button cannot be pressed now; empty when it can. Names elements, never a user's text."""
    try:
        reason = driver.execute_async_script(PREPARE_PRESS, rules, button, _STABLE_MS)
    except _GONE_ERRORS:
        return _REPLACED
    return reason if isinstance(reason, str) else _REPLACED


def click(button: WebElement) -> str:
    """Click once; why it was not clicked, or empty."""
    try:
        button.click()
    except _GONE_ERRORS:
        return _REPLACED
    except tuple(_IN_THE_WAY) as error:
        return _IN_THE_WAY[type(error)]
    return ""
