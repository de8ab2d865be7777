"""Single sign-on in a real browser, at oidc-provider (npm): another site, with its own login page and sessions."""

import asyncio
import socket
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from sqlalchemy import select

from app.context import Context
from app.models import Event, EventType, SessionStatus
from tests.e2e.foreign.running import missing, running
from tests.e2e.operators import Operator
from tests.fixtures.api import NO_PLACE
from tests.fixtures.chrome import complaints
from tests.fixtures.factories import new_profile, new_session
from tests.fixtures.openid import CALLBACK
from tests.fixtures.serving import served
from tests.fixtures.settings import MakeSettings

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("dashboard")]


@pytest.mark.skipif(missing("oidc") is not None, reason=str(missing("oidc")))
async def test_person_signs_in_at_a_foreign_provider(
    make_settings: MakeSettings, sqlite_url: str, tmp_path: Path, driver: webdriver.Chrome
):
    """The provider is at `localhost` and the service at 127.0.0.1: for the browser two sites."""
    port = free_port()
    redirect_uri = f"http://127.0.0.1:{port}{CALLBACK}"
    groups = {"anna": ["staff", "helpers"], "olga": ["staff"]}
    async with running("oidc", redirect_uri, tmp_path, host="localhost", groups=groups) as provider:
        settings = make_settings(
            database_url=sqlite_url,
            port=port,
            gologin_api_url=NO_PLACE,
            gologin_local_url=NO_PLACE,
            oidc_issuer=provider.url,
            oidc_name="Example",
            oidc_client_id=provider.app["client_id"],
            oidc_client_secret=provider.app["client_secret"],
            oidc_redirect_uri=redirect_uri,
            oidc_rights={"helpers": {"scopes": ["sessions:read"], "account_patterns": ["shop_*"]}},
        )
        async with served(settings) as server:
            context: Context = server.app.state.context
            profiles = [new_profile(account_id=each) for each in ("shop_1", "office")]
            async with context.database.transaction() as db:
                db.add_all(
                    [*profiles, *(new_session(each, status=SessionStatus.CANCELLED) for each in profiles)]
                )
            person = Person(driver, server.url, provider.url)
            await asyncio.to_thread(person.sign_in_and_out)
            await asyncio.to_thread(person.sign_in_without_rights)
            await asyncio.to_thread(person.sign_in_again)
            await provider.call("hold")
            await asyncio.to_thread(person.answer_elsewhere_and_twice)
            query = select(Event.event_type).where(Event.event_type.startswith("dashboard."))
            async with context.database.reading() as db:
                events = (await db.scalars(query.order_by(Event.id))).all()
    signed_in, signed_out = EventType.DASHBOARD_SIGNED_IN, EventType.DASHBOARD_SIGNED_OUT
    refused = EventType.DASHBOARD_SIGN_IN_REFUSED
    assert events == [signed_in, signed_out, refused, signed_in, signed_in]


class Person(Operator):
    def __init__(self, driver: webdriver.Chrome, url: str, provider: str) -> None:
        super().__init__(driver, url)
        self.provider = provider

    def sign_in_and_out(self) -> None:
        self.open("/ui/sessions")
        self.press_sign_in()
        self.log_in("anna")
        self.sees("h1", "Sessions")  # the page that was asked for
        assert self.path == "/ui/sessions"
        self.sees(".who .key", "oidc:anna~")
        shown = self.driver.find_element(By.TAG_NAME, "main").text
        assert ("shop_1" in shown, "office" in shown) == (True, False)
        self.open("/ui/webhooks")
        self.sees("h1", "This view needs the scope webhooks")
        self.open("/ui")
        self.driver.find_element(By.XPATH, "//button[text()='Sign out']").click()
        self.sees("h1", "Sign in")
        assert [each for each in complaints(self.driver) if "403" not in each] == []

    def answer_elsewhere_and_twice(self) -> None:
        """The answer is held back by the provider, so that its address is known before it is used."""
        elsewhere = self.hold_answer().get_attribute("href")
        cookie = {"name": "gologin_sign_in", "domain": "127.0.0.1", "path": "/ui/sign-in"}
        self.driver.execute_cdp_cmd("Network.deleteCookies", cookie)  # as in another browser
        self.driver.get(elsewhere or "")
        self.sees(".problem", "This sign-in did not begin in this browser")
        answer = self.hold_answer()
        here = answer.get_attribute("href") or ""
        assert here.startswith(f"{self.url}{CALLBACK}?code=")
        answer.click()
        self.sees(".who .key", "oidc:anna~")
        self.driver.get(here)
        self.sees(".problem", "This sign-in did not begin in this browser")
        assert here.partition("?")[2] not in self.driver.page_source

    def sign_in_without_rights(self) -> None:
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.open("/ui")
        self.press_sign_in()
        self.log_in("olga")
        self.sees(".problem", "no value of the claim 'groups' in your ID token")
        self.open("/ui")
        assert self.path == "/ui/sign-in?next=%2Fui"

    def sign_in_again(self) -> None:
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.open("/ui")
        self.press_sign_in()
        self.log_in("anna")
        self.sees(".who .key", "oidc:anna~")

    def hold_answer(self) -> WebElement:
        """Go to the provider, where the person is still signed in, and return its answer, which is a link now."""
        self.open("/ui/sign-in")
        self.press_sign_in()
        self.sees("#answer")
        return self.driver.find_element(By.ID, "answer")

    def press_sign_in(self) -> None:
        self.button("Sign in with Example").click()

    def log_in(self, account: str) -> None:
        self.sees("form.login")
        assert self.driver.current_url.startswith(self.provider)
        self.driver.find_element(By.NAME, "account").send_keys(account)
        self.driver.find_element(By.CSS_SELECTOR, "form.login button").click()
        self.sees("#signed-in", account)
        self.driver.find_element(By.CSS_SELECTOR, "form.consent button").click()


def free_port() -> int:
    """Return a port for an address that must be known before the service starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
