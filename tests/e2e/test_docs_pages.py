"""The pages of the API, and the site's, in a real browser that reaches nothing but loopback."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from scripts import site_assets
from scripts.generated import ROOT
from tests.fixtures.chrome import chrome, complaints
from tests.fixtures.serving import served
from tests.fixtures.settings import MakeSettings

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPERATION = "List Authorizations"
LOGO = "https://cdn.redoc.ly/redoc/logo-mini.svg"
"""ReDoc's own advertisement, the only thing from outside that a page asks for; the policy blocks it."""
SEARCH = "search.js"
"""The site's search, which works when the site is served, and not from the disk."""


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chrome() as driver:
        yield driver


@pytest.mark.parametrize("path", ["/docs", pytest.param("/redoc", marks=pytest.mark.long)])
async def test_page_shows_an_operation_without_the_internet(
    browser: webdriver.Chrome, make_settings: MakeSettings, sqlite_url: str, path: str
):
    async with served(
        make_settings(database_url=sqlite_url, gologin_api_url="http://127.0.0.1:9")
    ) as service:
        shown, complaints = await asyncio.to_thread(look, browser, service.url + path)
    assert OPERATION in shown
    assert [each for each in complaints if LOGO not in each] == []


@pytest.mark.long
async def test_page_of_the_site_shows_an_operation_from_the_disk(browser: webdriver.Chrome, tmp_path: Path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    site_assets.main(tmp_path / "docs" / "vendor")
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    shown, complaints = await asyncio.to_thread(look, browser, (tmp_path / "site" / "api.html").as_uri())
    assert OPERATION in shown
    assert [each for each in complaints if SEARCH not in each] == []


def look(browser: webdriver.Chrome, url: str) -> tuple[str, list[str]]:
    """Return the page's text once it shows the operation, and what the browser refused or could not load."""
    browser.get(url)
    # The text as it is shown costs seconds of layout, so it is read once.
    there = "return document.body.textContent.includes(arguments[0])"
    WebDriverWait(browser, 60).until(lambda _: browser.execute_script(there, OPERATION))
    WebDriverWait(browser, 60).until(lambda _: OPERATION in browser.find_element(By.TAG_NAME, "body").text)
    return browser.find_element(By.TAG_NAME, "body").text, complaints(browser)
