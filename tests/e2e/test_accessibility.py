"""Every view of the operators' page is for everybody: axe-core finds nothing serious, a phone is wide enough."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from selenium import webdriver
from selenium.webdriver.common.by import By

from sandbox.process import SandboxProcess
from tests.e2e.harness import APP, ServiceHarness, open_harness
from tests.e2e.operators import Operator
from tests.e2e.page_content import SETTINGS, make_content, view_addresses

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("dashboard"),
    pytest.mark.timeout(600),
]

AXE: Final = (Path(__file__).parents[1] / "fixtures" / "vendor" / "axe.min.js").read_text(encoding="utf-8")
LOOKS: Final = (
    ("light", 1440, None),
    ("dark", 360, ["color-contrast", "target-size", "scrollable-region-focusable"]),
)
"""Themes, the width of the window, and axe's rules; None: all. The others do not depend on theme or width."""

FIND_PROBLEMS: Final = """
const done = arguments[arguments.length - 1];
const root = arguments[0] === "main" ? document : arguments[0];
const shown = {resultTypes: ["violations"], rules: {"target-size": {enabled: true}}};
if (arguments[1]) shown.runOnly = {type: "rule", values: arguments[1]};
axe.run(root, shown).then((found) => done(JSON.stringify(found.violations.map((each) => ({
  id: each.id, impact: each.impact, help: each.help,
  nodes: each.nodes.map((node) => node.target.join(" ") + ": " + node.failureSummary),
})))), (error) => done(JSON.stringify([{id: "axe", impact: "serious", help: String(error)}])));
"""
FIND_TOO_WIDE: Final = """
const room = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= room) return [];
const found = [...document.querySelectorAll("body *")]
  .filter((each) => each.getBoundingClientRect().right > room + 1).map((each) => each.outerHTML.slice(0, 120));
return found.length ? found : ["the page"];
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def full(sandbox: SandboxProcess, folder: Path) -> AsyncIterator[ServiceHarness]:
    async with open_harness(sandbox, folder, **SETTINGS) as harness:
        yield harness


@pytest.fixture
def driver(driver: webdriver.Chrome) -> webdriver.Chrome:
    """The browser, with axe in each page."""
    driver.set_script_timeout(120)  # seconds for one look of axe, on a machine that is busy
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": AXE})
    return driver


async def test_axe_finds_nothing_serious_on_any_view(
    full: ServiceHarness, driver: webdriver.Chrome, unused_accounts: Iterator[str], tmp_path: Path
):
    content = await make_content(full, unused_accounts)
    reader = {"name": "a reader", "scopes": ["sessions:read"], "account_patterns": [content["account"]]}
    key = (await full.call("POST", "/keys", json=reader)).json()["data"]["key"]
    file = tmp_path / "accounts.csv"
    file.write_text(f"account_id,api_app\n{content['account']},{APP}\nnobody,{APP}\n")
    operator = Operator(driver, full.service.url)

    def look_at_every_view() -> list[str]:
        look = Look(operator)
        operator.open("/ui/sign-in")
        operator.enter_key("no-such-key")
        look.at("sign-in with a wrong key")
        operator.sign_in(full.key)
        for address in view_addresses():
            operator.open(address.format(**content))
            look.at(address)
        operator.open("/ui")
        look.at("menus of the header", opened="header")
        operator.open("/ui/batches/new")
        driver.find_element(By.NAME, "file").send_keys(str(file))
        operator.button("Check the rows").click()
        operator.sees("h1", file.name)
        look.at("check of a batch")
        operator.open(f"/ui/accounts/{content['broken']}")
        operator.button("Authorize again").click()
        operator.sees("[role=alert], .notice")
        look.at("answer of an action")
        driver.delete_all_cookies()
        operator.sign_in(key)
        look.at("overview of a restricted key")
        operator.open("/ui/profiles")
        look.at("view that needs another scope")
        return look.problems

    problems = await asyncio.to_thread(look_at_every_view)
    assert problems == [], "\n".join(problems)


class Look:
    """Looks at the page that a browser shows, in each of the `LOOKS`; collects what is wrong."""

    def __init__(self, operator: Operator) -> None:
        self.driver = operator.driver
        self.problems: list[str] = []

    def at(self, name: str, *, opened: str = "main") -> None:
        """`opened`: where details are opened. A menu of the header hides what is below it, so it has its own look."""
        # In one step: a live page replaces its elements at any time.
        open_all = "document.querySelectorAll(arguments[0]).forEach((each) => each.open = true)"
        self.driver.execute_script(open_all, f"{opened} details")
        for theme, width, rules in LOOKS:
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            self.driver.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
            found: list[dict[str, Any]] = json.loads(
                self.driver.execute_async_script(FIND_PROBLEMS, opened, rules)
            )
            self.problems += [
                f"{name}, {theme}, {width} px: {json.dumps(each, indent=1)}"
                for each in found
                if each["impact"] in ("serious", "critical")
            ]
            wide = self.driver.execute_script(FIND_TOO_WIDE)
            self.problems += [f"{name}, {width} px: too wide: {each}" for each in wide]
