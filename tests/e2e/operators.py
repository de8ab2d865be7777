"""A person at the operators' page, with a real browser."""

from collections.abc import Callable
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.e2e.harness import WAIT


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
        for _ in range(100):
            self.press(Keys.TAB)
            if self.focused() == text:
                return
        raise AssertionError(f"Tab does not reach {text!r}")

    def tab_to_label(self, label: str) -> None:
        """Press Tab until the focus is on what a screen reader calls `label`."""
        for _ in range(100):
            self.press(Keys.TAB)
            if self.driver.execute_script("return document.activeElement.ariaLabel") == label:
                return
        raise AssertionError(f"Tab does not reach {label!r}")

    def focused(self) -> str:
        return str(self.driver.execute_script("return document.activeElement.textContent.trim()"))

    def sees(self, css: str, text: str = "") -> None:
        """Wait until an element is there that has this text."""
        # In one step: a live page replaces its elements at any time.
        there = "return [...document.querySelectorAll(arguments[0])].some(e => e.innerText.includes(arguments[1]))"
        self.until(lambda: self.driver.execute_script(there, css, text))

    def button(self, text: str) -> WebElement:
        return self.driver.find_element(By.XPATH, f"//main//button[normalize-space()='{text}']")

    def act(self, label: str, notice: str) -> None:
        """Press a button of the page, which says what has happened."""
        self.button(label).click()
        self.sees(".notice", notice)

    def until(self, condition: Callable[[], Any]) -> None:
        WebDriverWait(self.driver, WAIT).until(lambda _: condition())

    def sign_in(self, key: str) -> None:
        self.open("/ui")
        assert self.path == "/ui/sign-in?next=%2Fui"
        self.enter_key(key)
        self.sees("h1", "Overview")

    def enter_key(self, key: str) -> None:
        """Type into the field that has the focus by itself, which the browser gives it a moment after the load."""
        self.until(lambda: self.driver.execute_script("return document.activeElement.name === 'key'"))
        self.press(key, Keys.ENTER)
