"""The service on pages of other shapes than X's, and with a person at the window. A real browser."""

import asyncio
import functools
import html
import os
import secrets
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import httpx
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from app.clients.browsers.devtools import DevToolsClient
from app.clients.oauth.oauth2 import ProviderUser
from app.models import SessionStage
from app.services.automation import BrowserController, obtain_code
from app.services.browser import consent_tab
from app.services.browser.chromedriver import ChromeDrivers
from app.services.browser.consent_tab import ConsentTab
from app.services.browser.live_tabs import LiveTabs
from app.services.interfaces import (
    AuthorizationRequest,
    BrowserTimeouts,
    ConsentRequest,
    PageEvidence,
    RunningBrowser,
    TokenSet,
)
from app.services.oauth.provider import ConsentPageRules, x_provider
from app.utils.exceptions import (
    AccountLockedException,
    AccountMismatchException,
    AuthorizationTimeoutException,
    BrowserCrashedException,
    ConsentButtonNotFoundException,
    ConsentPageException,
    FragmentResponseException,
    HumanCheckException,
    LoginRequiredException,
    NotConsentPageException,
    PageDialogException,
    PersonNotSeenException,
    ProfileNetworkException,
    ProviderRulesException,
    ServiceStoppingException,
    UnknownPageException,
)
from sandbox.admin_client import NO_TLS
from sandbox.devtools import command
from sandbox.process import SandboxProcess
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.xdist_group("consent_tab")

RULES = ConsentPageRules(
    consent_buttons=("#agree", "//button[text()='Grant']"),
    fallback_buttons=("form button[type=submit]",),
    consent_paths=("/plain", "/consent", "/granted", "/many/*"),
    account_choices="li.account, input[name=account]",
    banner_buttons=("#cookies button",),
    signed_in_handle="#who",
    login_paths=("/login",),
    home_paths=("/home",),
    error_texts=("no such app",),
    error_details=(".alert",),
)
START_TIMEOUT = 60  # seconds; many browsers start at once on a busy machine
TIMEOUTS = BrowserTimeouts(attach=60, page_load=60, consent_button=30, callback=30, person=60)
"""Long, so that a busy machine fails no test."""
SOON = replace(TIMEOUTS, consent_button=3, callback=5)
"""For what does not come."""
SOONER = replace(SOON, consent_button=2)
"""For what does not come on a page that has settled soon."""
AT_A_DEADLINE = (AuthorizationTimeoutException, ConsentButtonNotFoundException, UnknownPageException)
"""Errors that come when the time for a button has passed."""
MAX_SCREENSHOT_BYTES = 500_000

GRANT = "<button id=agree onclick=\"location='/granted'\">Agree</button>"
BANNER = """<div id=cookies style="position:fixed;inset:0;background:#fff">
<button onclick="this.parentNode.remove()">Only what is needed</button></div>"""
CALLBACK = "/callback?state=the-state&code=the-code"
PAGES = {
    "/plain": "<form action=/granted method=post><p id=who>You are @alice</p><button type=submit>Yes</button></form>",
    "/xpath": "<button>Refuse</button><button onclick=\"location='/granted'\">Grant</button>",
    "/banner": BANNER + GRANT,
    "/banner-that-stays": BANNER.replace("this.parentNode.remove()", "1") + GRANT,
    "/chooser": "<ul><li class=account onclick=\"location='/wrong'\">Bob (@alice_2)</li>"
    "<li class=account onclick=\"location='/plain'\">Alice (@alice)</li></ul>"
    "<form><button type=submit>x</button></form>",
    "/namesakes": "<ul><li class=account onclick=\"location='/wrong'\">Alice Smith (@bob)</li>"
    "<li class=account onclick=\"location='/plain'\">Alice Smith (@alice)</li></ul>",
    "/look-alikes": "<ul><li class=account>alice smith</li><li class=account>alice jones</li></ul>",
    "/radios": "<form action=/plain><label><input type=radio name=account value=17>Bob</label>"
    "<label><input type=radio name=account value=18>alice</label><button id=next>Next</button></form>",
    "/others": "<ul><li class=account>bob</li><li class=account>carol</li></ul>",
    "/wrong": "<p id=who>You are @alice_2</p>" + GRANT,
    "/wrong-box": "<p id=who>@bob</p><input type=checkbox onclick=\"location='/granted'\">" + GRANT,
    "/nothing": "<h1>We are making things better</h1><button>Continue</button>",
    "/consent": "<p id=who>@alice</p>" + GRANT,
    "/named-as-an-error": "<p id=who>No such app (@alice)</p>" + GRANT,
    "/disabled": "<button id=agree disabled>Agree</button>",
    "/not-yours": "<h1>No such app</h1>" + GRANT,
    "/alert": "<p class=alert>The redirect URI is not registered</p>",
    "/login": "<h1>Log in</h1><form action=/consent><button>Log in</button></form>",
    "/login-elsewhere": "<script>location='/login?then=home'</script>",
    "/home": "<h1>What is happening?</h1>",
    "/two-factor": "<p class=alert></p><form action=/granted method=post><button type=submit>Verify</button></form>",
    # A request that nobody answers holds the page's only thread, as an endless loop does, without its CPU.
    "/hung": "<script>setTimeout(() => { const request = new XMLHttpRequest(); request.open('GET', '/never', false);"
    "request.send() }, 50)</script>",
    "/by-form": "<form action=/callback><input name=state value=the-state><input name=code value=the-code>"
    "<button id=agree>Agree</button></form>",
    "/by-form-post": "<form action=/callback method=post><input name=state value=the-state>"
    "<input name=code value=the-code><button id=agree>Agree</button></form>",
    "/by-fragment": "<button id=agree "
    "onclick=\"location='/callback#state=the-state&code=the-code'\">Agree</button>",
    "/by-button": f"<button id=agree onclick=\"location='{CALLBACK}'\">Agree</button>",
    "/by-refresh": "<button id=agree onclick=\"location='/refreshes'\">Agree</button>",
    "/refreshes": f"<meta http-equiv=refresh content='0;url={CALLBACK}'>",
    "/by-script": "<button id=agree onclick=\"location='/scripted'\">Agree</button>",
    "/scripted": f"<script>setTimeout(() => location.replace('{CALLBACK}'), 50)</script>",
    "/unlocks": "<p id=who>@alice</p><button id=agree onclick=\"location='/login'\">Agree</button>",
}


@dataclass
class Site:
    """`visited`: paths in their order."""

    url: str
    visited: list[str]
    pages: dict[str, str]


@pytest.fixture
def site() -> Iterator[Site]:
    with _serving(dict(PAGES)) as site:
        yield site


@pytest.fixture(scope="module")
async def running_browser(sandbox: SandboxProcess) -> AsyncIterator[RunningBrowser]:
    """One browser for the whole module: a consent takes a tab of its own and a site of its own."""
    profile = await sandbox.admin.add_profile(f"consent_tab_{secrets.token_hex(4)}")
    async with httpx.AsyncClient(trust_env=False, timeout=START_TIMEOUT, verify=NO_TLS) as http:
        answer = await http.post(
            f"{sandbox.info.gologin_local_url}/browser/start-profile",
            json={"profileId": profile.id, "sync": True},
        )
        ws_url = answer.json()["wsUrl"]
        address = urlsplit(ws_url).netloc
        version = await DevToolsClient(http=http).version(address)
    yield RunningBrowser(profile_id=profile.id, address=address, ws_url=ws_url, major=version.major)
    await sandbox.admin.kill_browser(profile.id)
    await sandbox.admin.remove_profile(profile.account)


@pytest.fixture
async def browser(running_browser: RunningBrowser) -> RunningBrowser:
    """The module's browser with one blank tab, whatever the test before has left."""
    blank, *others = sorted(await _pages(running_browser), key=lambda page: page["url"] != "about:blank")
    assert blank["url"] == "about:blank"
    for page in others:
        await command(running_browser.ws_url, "Target.closeTarget", {"targetId": page["targetId"]})
    await eventually(lambda: _is_alone(running_browser))
    return running_browser


@pytest.fixture(scope="module")
async def drivers() -> AsyncIterator[ChromeDrivers]:
    configured = os.environ.get("CHROMEDRIVER_PATH")
    drivers = ChromeDrivers(path=Path(configured) if configured else None)
    yield drivers
    await drivers.close()


class OneTabController(BrowserController):
    """All consents of a test in one tab, one after the other: each has its own `ConsentTab`, as any other.

    Most of a consent's CPU goes to the tab and to the driver's session, which other tests open anew each time.
    """

    def __init__(self) -> None:
        super().__init__(max_screenshot_bytes=MAX_SCREENSHOT_BYTES, live_tabs=LiveTabs())
        self._exits = ExitStack()
        self._tab: ConsentTab | None = None

    @contextmanager
    def connect_to_profile(self, request: ConsentRequest) -> Iterator[ConsentTab]:
        if self._tab is None:
            self._tab = self._exits.enter_context(super().connect_to_profile(request))
        yield ConsentTab(driver=self._tab._driver, watcher=self._tab._watcher, request=request)

    def close(self) -> None:
        self._exits.close()


class Visit:
    """One consent in a thread of its own, as the service does it."""

    def __init__(self, controller: BrowserController, request: ConsentRequest) -> None:
        self._controller = controller
        self.stages: list[SessionStage] = []
        self.evidence: list[PageEvidence] = []
        self.on_code: Callable[[], None] = lambda: None
        self.report_stage: Callable[[SessionStage], None] = self.stages.append
        self.keep_evidence: Callable[[PageEvidence], None] = self.evidence.append
        self.request = replace(request, sink=self)

    async def store_tokens(self, user: ProviderUser, tokens: TokenSet) -> None:
        raise AssertionError("a code is exchanged by nobody")

    async def code(self) -> str:
        def hand_over(code: SecretStr) -> None:
            codes.append(code.get_secret_value())
            self.on_code()

        codes: list[str] = []
        await asyncio.to_thread(obtain_code, self._controller, self.request, hand_over)
        (code,) = codes
        return code


@pytest.fixture
async def visit(site: Site, browser: RunningBrowser, drivers: ChromeDrivers) -> Callable[..., Visit]:
    driver_url = await drivers.url_for(browser.major)
    own_tab = BrowserController(max_screenshot_bytes=MAX_SCREENSHOT_BYTES, live_tabs=LiveTabs())
    nobody: Any = None

    def make(path: str, *, controller: BrowserController = own_tab, **changes: Any) -> Visit:
        request = ConsentRequest(
            browser=browser,
            driver_url=driver_url,
            account_id="alice",
            authorization=AuthorizationRequest(
                url=f"{site.url}{path}",
                redirect_uri=f"{site.url}/callback",
                state=SecretStr("the-state"),
                code_verifier=SecretStr("v"),
            ),
            page=RULES,
            sink=nobody,
            timeouts=TIMEOUTS,
        )
        return Visit(controller, replace(request, **changes))

    return make


@pytest.fixture
async def visit_again(visit: Callable[..., Visit]) -> AsyncIterator[Callable[..., Visit]]:
    """Visits in one tab, for tests of many pages."""
    controller = OneTabController()
    yield functools.partial(visit, controller=controller)
    await asyncio.to_thread(controller.close)


@pytest.fixture
def x_rules(site: Site) -> ConsentPageRules:
    """Rules of X's consent page, as if the site were X."""
    return x_provider(web_url=site.url, api_url=site.url).consent_page


@contextmanager
def deadlines_for(error: type[Exception]) -> Iterator[BrowserTimeouts]:
    """Shorten the time for a button, and that after which a page is taken as built, if their end is the error.

    Other errors come at once. Short deadlines would decide on a busy machine which error comes first.
    """
    if issubclass(error, AT_A_DEADLINE):
        with patch.object(consent_tab, "_SETTLE_SECONDS", 0.3):
            yield SOONER
    else:
        yield TIMEOUTS


async def test_pages_of_other_shapes_lead_to_the_code(
    visit_again: Callable[..., Visit], site: Site, subtests: pytest.Subtests
):
    for path in ("/plain", "/xpath", "/banner", "/chooser", "/namesakes", "/named-as-an-error"):
        site.visited.clear()
        with subtests.test(path):
            assert await visit_again(path).code() == "the-code"
            assert site.visited.count("/granted") == 1
            assert "/wrong" not in site.visited


async def test_an_account_is_chosen_by_its_label_and_confirmed(visit: Callable[..., Visit], site: Site):
    rules = replace(RULES, account_continue="#next")
    assert await visit("/radios", page=rules).code() == "the-code"
    assert "/plain?account=18" in site.visited


@pytest.mark.parametrize(
    "path",
    [
        "/by-form",
        pytest.param("/by-refresh", marks=pytest.mark.long),
        "/by-script",
        pytest.param("/by-button", marks=pytest.mark.long),
    ],
)
async def test_a_code_is_handed_over_before_its_tab_is_closed(
    visit: Callable[..., Visit], browser: RunningBrowser, site: Site, path: str
):
    """However the callback is reached, it never leaves the browser, and the tab closes without a deadline passing."""

    def tabs() -> set[str]:
        targets = httpx.get(f"http://{browser.address}/json/list", trust_env=False, timeout=10).json()
        return {target["id"] for target in targets if target["type"] == "page"}

    before, during = tabs(), set[str]()
    visiting = visit(path)
    visiting.on_code = lambda: during.update(tabs())
    with structlog.testing.capture_logs() as lines:
        assert await visiting.code() == "the-code"
    assert len(during - before) == 1
    await eventually(lambda: tabs() == before)
    assert not [line for line in lines if line["event"] == "browser.driver_not_left"]
    assert not [visited for visited in site.visited if visited.startswith("/callback")]


async def test_a_tab_that_was_not_handed_over_is_closed(visit: Callable[..., Visit], browser: RunningBrowser):
    def fail(_stage: SessionStage) -> None:
        raise RuntimeError("nobody hears the report")

    visiting = visit("/by-button")
    visiting.report_stage = fail
    with pytest.raises(RuntimeError, match="nobody hears"):
        await visiting.code()
    await eventually(lambda: _is_alone(browser))


async def test_a_callback_by_form_post_gives_its_code(visit: Callable[..., Visit], site: Site):
    """OAuth 2.0 Form Post Response Mode: the code is in the body."""
    assert await visit("/by-form-post").code() == "the-code"
    assert "/callback" not in site.visited


async def test_a_redirect_uri_is_caught_as_the_browser_writes_it(visit: Callable[..., Visit], site: Site):
    path = "/a/../rück ruf"
    site.pages["/by-another-path"] = GRANT.replace("/granted", CALLBACK.replace("/callback", path))
    one = visit("/by-another-path")
    one.request.authorization = replace(one.request.authorization, redirect_uri=f"{site.url}{path}")
    assert await one.code() == "the-code"
    assert site.visited == ["/by-another-path"]


async def test_an_answer_in_the_fragment_is_named(visit: Callable[..., Visit]):
    with pytest.raises(FragmentResponseException, match="in the fragment"):
        await visit("/by-fragment").code()


@pytest.mark.parametrize(
    ("kind", "code", "retryable"),
    [
        pytest.param("closed", "ERR_CONNECTION_REFUSED", True, marks=pytest.mark.long),
        pytest.param("hangs-up", "ERR_EMPTY_RESPONSE", True, marks=pytest.mark.long),
        ("unknown", "ERR_NAME_NOT_RESOLVED", True),
        ("self-signed", "ERR_CERT_AUTHORITY_INVALID", False),
    ],
)
async def test_a_network_error_of_the_profiles_browser_has_its_own_code(
    visit: Callable[..., Visit], tmp_path: Path, kind: str, code: str, retryable: bool
):
    async with _broken_server(kind, tmp_path) as url:
        broken = visit("/plain", timeouts=SOON)
        broken.request.authorization = replace(broken.request.authorization, url=url)
        with pytest.raises(ProfileNetworkException, match=code) as caught:
            await broken.code()
    assert (caught.value.error_code, caught.value.retryable) == ("PROFILE_NETWORK_ERROR", retryable)


async def test_network_error_after_the_click_is_reported_as_one(visit: Callable[..., Visit], site: Site):
    async with _broken_server("closed", Path()) as url:
        site.pages["/leads-nowhere"] = f"<button id=agree onclick=\"location='{url}'\">Agree</button>"
        soon = replace(TIMEOUTS, callback=2)
        with pytest.raises(ProfileNetworkException, match="ERR_CONNECTION_REFUSED"):
            await visit("/leads-nowhere", timeouts=soon).code()


OTHER_PAGES = {
    "/others": AccountMismatchException,
    "/look-alikes": AccountMismatchException,
    "/wrong": AccountMismatchException,
    "/nothing": UnknownPageException,
    "/disabled": ConsentButtonNotFoundException,
    "/banner-that-stays": ConsentButtonNotFoundException,
    "/not-yours": ConsentPageException,
    "/alert": ConsentPageException,
    "/login": LoginRequiredException,
    "/home": UnknownPageException,
    "/hung": AuthorizationTimeoutException,
}


async def test_other_pages_end_with_their_own_error_and_nothing_pressed(
    visit: Callable[..., Visit], site: Site, subtests: pytest.Subtests
):
    for path, error in OTHER_PAGES.items():
        site.visited.clear()
        with subtests.test(path), deadlines_for(error) as timeouts:
            one = visit(path, timeouts=timeouts)
            with pytest.raises(error):
                await one.code()
            assert site.visited == [path]
            assert [evidence.url for evidence in one.evidence] == [site.url + path]


async def test_a_mismatch_names_the_accounts_that_are_offered(visit: Callable[..., Visit]):
    with pytest.raises(AccountMismatchException, match="bob, carol"):
        await visit("/others").code()


async def test_selector_that_the_browser_refuses_is_reported(visit: Callable[..., Visit]):
    rules = replace(RULES, error_details=("p:contains('x')",))
    with pytest.raises(ProviderRulesException, match="p:contains"):
        await visit("/plain", page=rules).code()
    later = replace(RULES, fallback_buttons=("button:has-text('Yes')",))
    with pytest.raises(ProviderRulesException, match="button:has-text"):
        await visit("/plain", page=later).code()


async def test_a_tab_that_is_gone_ends_the_wait_for_a_person(
    visit: Callable[..., Visit], browser: RunningBrowser, site: Site
):
    attended = visit("/consent", is_attended=True, awaits_person=True)
    running = asyncio.create_task(attended.code())
    await eventually(lambda: SessionStage.WAITING_FOR_PERSON in attended.stages)
    target = await eventually(lambda: _tab(browser, f"{site.url}/consent"))
    await command(browser.ws_url, "Target.closeTarget", {"targetId": target})
    with pytest.raises(BrowserCrashedException):
        await running


async def test_other_tabs_that_hang_do_not_decide(
    visit: Callable[..., Visit], browser: RunningBrowser, site: Site
):
    """As tabs may do that the browser restores. One that answers stays."""
    other = site.url.replace("127.0.0.1", "localhost")  # of one site, tabs may share a process
    site.pages |= {
        "/asks": "<script>alert('Wait!')</script>",
        "/hangs": PAGES["/hung"],
        "/kept": "<h1>Kept</h1>",
    }
    for url in (f"{other}/asks", f"{other}/hangs", f"{site.url}/kept"):
        await command(browser.ws_url, "Target.createTarget", {"url": url})
        await eventually(lambda url=url: urlsplit(url).path in site.visited)
    assert await visit("/plain").code() == "the-code"
    assert await _tab(browser, f"{site.url}/kept") is not None


async def test_the_whole_attempts_deadline_ends_the_wait_in_the_thread(visit: Callable[..., Visit]):
    slow = replace(TIMEOUTS, consent_button=60)
    with pytest.raises(AuthorizationTimeoutException, match="7 seconds"):
        await visit("/nothing", timeouts=slow, deadline=monotonic() + 1, timeout=7.0).code()


async def test_a_stop_ends_a_wait_for_a_person(visit: Callable[..., Visit]):
    attended = visit("/consent", is_attended=True, awaits_person=True)
    running = asyncio.create_task(attended.code())
    await eventually(lambda: SessionStage.WAITING_FOR_PERSON in attended.stages)
    attended.request.stop.set()
    with pytest.raises(ServiceStoppingException):
        await running


async def test_an_attended_consent_is_pressed_by_the_person_alone(
    visit: Callable[..., Visit], browser: RunningBrowser, site: Site
):
    attended = visit("/consent", is_attended=True, awaits_person=True)
    running = asyncio.create_task(attended.code())
    await eventually(lambda: SessionStage.WAITING_FOR_PERSON in attended.stages)
    assert "/granted" not in site.visited

    await _person(browser, "document.querySelector('button').click()", at=f"{site.url}/consent")
    assert await running == "the-code"
    assert attended.stages[-3:] == [
        SessionStage.WAITING_FOR_PERSON,
        SessionStage.CONSENT_GIVEN,
        SessionStage.CODE_RECEIVED,
    ]


async def test_an_attended_consent_leaves_the_banner_and_the_chooser_to_the_person(
    visit: Callable[..., Visit], browser: RunningBrowser, site: Site
):
    attended = visit("/chooser", is_attended=True, awaits_person=True, timeouts=SOON)
    running = asyncio.create_task(attended.code())
    await eventually(lambda: "/chooser" in site.visited)
    await _person(browser, "document.querySelectorAll('li')[1].click()", at=f"{site.url}/chooser")
    await eventually(lambda: SessionStage.WAITING_FOR_PERSON in attended.stages)
    await _person(browser, "document.querySelector('button').click()", at=f"{site.url}/plain")
    assert await running == "the-code"


WITH_BOX = replace(RULES, checkboxes=("input[type=checkbox]",))


@pytest.mark.parametrize("is_attended", [False, True])
async def test_wait_ends_when_no_person_comes(
    visit_again: Callable[..., Visit], site: Site, subtests: pytest.Subtests, is_attended: bool
):
    soon = replace(TIMEOUTS, person=1.5)
    errors: dict[str, type[Exception]] = {
        "/login": PersonNotSeenException,
        "/others": AccountMismatchException,
        "/wrong": AccountMismatchException,
    }
    errors |= (
        {"/consent": PersonNotSeenException} if is_attended else {"/wrong-box": AccountMismatchException}
    )
    for path, error in errors.items():
        one = visit_again(path, is_attended=is_attended, awaits_person=True, page=WITH_BOX, timeouts=soon)
        with subtests.test(path):
            with pytest.raises(error):
                await one.code()
            assert SessionStage.WAITING_FOR_PERSON in one.stages
    assert "/granted" not in site.visited


async def test_service_continues_by_itself_after_a_person_has_signed_in(
    visit_again: Callable[..., Visit], browser: RunningBrowser, site: Site, subtests: pytest.Subtests
):
    """Nobody was signed in, or another account."""
    for path in ("/login", "/others", "/wrong", "/wrong-box"):
        site.visited.clear()
        resumed = visit_again(path, awaits_person=True, page=WITH_BOX)
        with subtests.test(path):
            running = asyncio.create_task(resumed.code())
            await _awaited(running, resumed)
            if not running.done():
                await _person(browser, "location = '/consent'", at=f"{site.url}{path}")
            assert await running == "the-code"
            assert site.visited.count("/granted") == 1


async def test_a_person_who_is_led_home_is_brought_back_to_the_consent(
    visit: Callable[..., Visit], browser: RunningBrowser, site: Site
):
    resumed = visit("/login-elsewhere", awaits_person=True)
    running = asyncio.create_task(resumed.code())
    await eventually(lambda: SessionStage.WAITING_FOR_PERSON in resumed.stages)
    site.pages["/login-elsewhere"] = site.pages["/consent"]  # signed in from now on
    await _person(browser, "location = '/home'", at=f"{site.url}/login?then=home")
    assert await running == "the-code"


async def test_service_does_not_send_what_a_person_types_and_survives_their_mistake(
    visit: Callable[..., Visit], browser: RunningBrowser, site: Site
):
    """A page of the login that the rules do not know, with a button of the fallback's kind."""
    resumed = visit("/login", awaits_person=True)
    running = asyncio.create_task(resumed.code())
    await eventually(lambda: SessionStage.WAITING_FOR_PERSON in resumed.stages)
    await _person(browser, "location = '/two-factor'", at=f"{site.url}/login")
    wrong_code = "document.querySelector('.alert').textContent = 'That code is wrong'"
    await _person(browser, wrong_code, at=f"{site.url}/two-factor")
    ended, _ = await asyncio.wait([running], timeout=3)
    assert not ended
    assert "/granted" not in site.visited
    await _person(browser, "location = '/consent'", at=f"{site.url}/two-factor")
    assert await running == "the-code"


async def test_a_provider_that_always_leads_home_is_not_asked_for_ever(
    visit: Callable[..., Visit], site: Site
):
    site.pages["/login-elsewhere"] = "<script>location='/home'</script>"
    resumed = visit("/login-elsewhere", awaits_person=True)
    running = asyncio.create_task(resumed.code())
    await eventually(lambda: site.visited.count("/home") == 1 + 3)
    await asyncio.wait([running], timeout=3)
    resumed.request.stop.set()
    with pytest.raises(ServiceStoppingException):
        await running
    assert site.visited.count("/login-elsewhere") == 1 + 3


async def test_an_attended_choice_has_the_persons_time(
    visit: Callable[..., Visit], browser: RunningBrowser, site: Site
):
    soon = replace(TIMEOUTS, consent_button=0.5)
    attended = visit("/chooser", is_attended=True, awaits_person=True, timeouts=soon)
    running = asyncio.create_task(attended.code())
    await eventually(lambda: SessionStage.WAITING_FOR_PERSON in attended.stages)
    ended, _ = await asyncio.wait([running], timeout=2)
    assert not ended
    await _person(browser, "document.querySelectorAll('li')[1].click()", at=f"{site.url}/chooser")
    await _person(browser, "document.querySelector('button').click()", at=f"{site.url}/plain")
    assert await running == "the-code"


async def test_a_login_after_the_click_is_waited_out_and_the_consent_pressed_again(
    visit: Callable[..., Visit], browser: RunningBrowser, site: Site
):
    resumed = visit("/unlocks", awaits_person=True)
    running = asyncio.create_task(resumed.code())
    await eventually(lambda: SessionStage.WAITING_FOR_PERSON in resumed.stages)
    await _person(browser, "document.querySelector('button').click()", at=f"{site.url}/login")
    assert await running == "the-code"


@asynccontextmanager
async def _broken_server(kind: str, folder: Path) -> AsyncIterator[str]:
    """The address of a provider that cannot be reached."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    if kind == "unknown":
        yield "http://provider.invalid/authorize"
        return
    context = _self_signed(folder) if kind == "self-signed" else None
    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    if kind == "closed":
        server.close()
        await server.wait_closed()
    yield f"{'https' if context else 'http'}://127.0.0.1:{port}/authorize"
    server.close()
    await server.wait_closed()


def _self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


X_PATH = "/i/oauth2/authorize"
GIVE = "onclick=\"location='/granted'\""
BUTTON = f"<button data-testid=OAuth_Consent_Button {GIVE}>Authorize app</button>"
FORM = "<input type=submit value='Authorize app'></form>"
PAY = f"<form method=post action=/pay>{FORM}"


def cell(name: str, handle: str) -> str:
    return f"<div data-testid=UserCell><div><b>{name}</b></div><div>@{handle}</div></div>"


def led_to(path: str) -> str:
    return f"<script>location='{path}'</script>"


def led_away_by_a_look(path: str) -> str:
    """The page's address changes once its button is judged, before it is pressed."""
    return f"<script>document.querySelector('button').matches = () => history.pushState(0, '', '{path}')</script>"


NOT_PRESSED = {
    "challenge": (led_to("/account/login_challenge"), HumanCheckException, "human check"),
    "suspended": (led_to("/account/suspended"), AccountLockedException, "locked"),
    "terms": (led_to("/terms"), NotConsentPageException, r"another page of the provider, [\w.:]+/terms,"),
    "proxy seller": (led_to("{other}/plan"), NotConsentPageException, r"not the provider's, {other_host}/plan,"),
    "login of another host": (led_to("{other}/login"), NotConsentPageException, "the provider's, {other_host}/login,"),
    "another page from the look on": (
        cell("Alice", "alice") + BUTTON + led_away_by_a_look("/terms"),
        NotConsentPageException,
        r"another page of the provider, [\w.:]+/terms,",
    ),
    "button in no form": (
        "<button class=submit onclick=\"location='/pay'\">Renew now</button>",
        UnknownPageException,
        "in no form that leads to the consent page",
    ),
    "proxy seller in the provider's place": (f"Renew now {PAY}", UnknownPageException, "leads to .*/pay"),
    "form with a field called action": (
        PAY.replace("<input", "<input name=action type=hidden><input", 1),
        UnknownPageException,
        "leads to .*/pay",
    ),
    "form with a field to fill in": (
        f"<form method=post><input name=answer>{FORM}", UnknownPageException, "something to be typed",
    ),
    "button that sends its form elsewhere": (
        "<form method=post><button data-testid=OAuth_Consent_Button formaction='{other}/pay'>Authorize</button></form>",
        ConsentButtonNotFoundException,
        r"leads to {other_host}/pay",
    ),
    "consent button on another page": (led_to("/settings"), NotConsentPageException, "add its path to `consent_paths`"),
    "banner of another host": (led_to("{other}/bar"), NotConsentPageException, "/bar"),
    "undescribed iframe": (
        "<iframe id=box src=/inner width=300 height=300></iframe>", UnknownPageException, "iframe#box",
    ),
    "undescribed shadow root": (
        ("<x-host id=host></x-host><script>document.querySelector('#host').attachShadow({mode: 'open'}).innerHTML = "
        "'<button data-testid=OAuth_Consent_Button>Authorize</button>'</script>"),
        UnknownPageException,
        "shadow root of x-host#host",
    ),
    "undescribed checkbox": (
        ("<form action=/i/oauth2/authorize method=post><input type=checkbox id=terms required>"
        "<button data-testid=OAuth_Consent_Button>Authorize</button></form>"),
        ConsentButtonNotFoundException,
        r"requires input#terms \(checkbox\)",
    ),
    "disabled fieldset": (f"<fieldset disabled>{BUTTON}</fieldset>", ConsentButtonNotFoundException, "is disabled"),
    "layer": (
        f"{BUTTON}<div id=wall class='ad @alice' style='position:fixed;inset:0'></div>",
        ConsentButtonNotFoundException,
        r"covered by div#wall\.ad",
    ),
    "transparent": (f"<p style='opacity:0'>{BUTTON}</p>", ConsentButtonNotFoundException, "is hidden"),
    "another account": (cell("Support of @Acme", "bob") + BUTTON, AccountMismatchException, "as @bob,"),
    "another account above a display name": (
        "<div data-testid=UserCell><div>@bob</div><div>Support of @Acme</div></div>" + BUTTON,
        AccountMismatchException,
        "as @bob,",
    ),
    "another account in one line": (
        f"<p data-testid=UserCell>Support of @Acme @bob</p>{BUTTON}", AccountMismatchException, "as @bob,",
    ),
}  # fmt: skip

ELSEWHERE = {
    "/account/login_challenge": f"<form method=post action=/challenge><input name=answer>{FORM}",
    "/account/suspended": f"<form method=post action=/logout>{FORM}",
    "/terms": f"<form method=post action=/terms>{FORM}",
    "/settings": cell("Alice", "alice") + BUTTON,
    "/inner": BUTTON,
}
OF_ANOTHER_HOST = {
    "/login": BUTTON,
    "/plan": PAY,
    "/bar": f"<div data-testid=BottomBar><button {GIVE}>No</button></div>{BUTTON}",
}


@pytest.mark.timeout(300)
async def test_service_presses_nothing_outside_the_consent_page(
    visit_again: Callable[..., Visit],
    x_rules: ConsentPageRules,
    site: Site,
    subtests: pytest.Subtests,
):
    site.pages |= ELSEWHERE
    with _serving(dict(OF_ANOTHER_HOST)) as other:
        for name, (page, error, sentence) in NOT_PRESSED.items():
            host = urlsplit(other.url).netloc
            site.pages[X_PATH] = page.replace("{other}", other.url)
            site.visited.clear()
            with subtests.test(name), deadlines_for(error) as timeouts:
                visit = visit_again(X_PATH, page=x_rules, timeouts=timeouts)
                with pytest.raises(error, match=sentence.replace("{other_host}", host)) as caught:
                    await visit.code()
                assert caught.type is error, name
                assert not {"/granted", "/pay", "/challenge", "/logout"} & {*site.visited, *other.visited}, (
                    name
                )
                assert SessionStage.CONSENT_GIVEN not in visit.stages, name


def later(change: str) -> str:
    """`change` is done with `b`, the button's container, after 2 seconds, which is longer than one wait in the page."""
    return f"<script>setTimeout(() => {{ const b = document.querySelector('#b'); {change} }}, 2000)</script>"


PRESSED = {
    "display name with an address": cell("Ann @annl@social.example", "alice") + BUTTON,
    "display name with another account": cell("Support of @Acme", "Alice") + BUTTON,
    "display name after the account": f"<p data-testid=UserCell>@alice Support of @Acme</p>{BUTTON}",
    "app named as a human check": f"<h1>Verify you are human</h1>{cell('Alice', 'alice')}{BUTTON}",
    "hidden at first": f"<p id=b style='visibility:hidden'>{BUTTON}</p>{later('b.style = null')}",
    "inert at first": f"<p id=b inert>{BUTTON}</p>{later('b.inert = false')}",
    "disabled at first": f"<fieldset id=b disabled>{BUTTON}</fieldset>{later('b.disabled = false')}",
    "no pointer events at first": f"<p id=b style='pointer-events:none'>{BUTTON}</p>{later('b.style = null')}",
    "covered at first": f"{BUTTON}<div id=b style='position:fixed;inset:0'></div>{later('b.remove()')}",
    "drawn anew every 33 ms": "<p id=b></p><script>const draw = () => { document.querySelector('#b').innerHTML = "
    f"`{BUTTON}`; }}; draw(); const i = setInterval(draw, 33); setTimeout(() => clearInterval(i), 1500)</script>",
    "under a fixed footer": f"<div style='height:95vh'></div>{BUTTON}<div style='height:300vh'></div>"
    "<footer style='position:fixed;bottom:0;left:0;right:0;height:40vh;background:#fff'></footer>",
    "cookie bar": f"{BUTTON}<div data-testid=BottomBar style='position:fixed;inset:0;background:#fff'>"
    "<button onclick=\"location='/wrong'\">Accept all</button>"
    "<button onclick='this.parentNode.remove()'>Refuse</button></div>",
    "link": "<a href=/granted data-testid=OAuth_Consent_Button>Authorize</a>",
    "plain form": f"<form method=post>{FORM}",
    "plain form with an address": f"<form method=post action={X_PATH}><input name=action type=hidden>{FORM}",
}


@pytest.mark.timeout(300)
async def test_a_button_is_pressed_once_it_can_be(
    visit_again: Callable[..., Visit], x_rules: ConsentPageRules, site: Site, subtests: pytest.Subtests
):
    for name, page in PRESSED.items():
        site.pages[X_PATH] = page
        site.visited.clear()
        visit = visit_again(X_PATH, page=x_rules)
        with subtests.test(name):
            assert await visit.code() == "the-code"
            granted = [path for path in site.visited if path in ("/granted", f"POST {X_PATH}")]
            assert len(granted) == 1
            assert visit.stages.count(SessionStage.CONSENT_GIVEN) == 1
            assert "/wrong" not in site.visited


NEXT = "<button id=agree onclick=\"location='{}'\">Next</button>"
BOX = '<label><input type=checkbox id={0} onclick="tick()">I agree</label>'
DESCRIBED = {
    "/many/1": {},
    "/steps": {"consent_buttons": ("#scopes", "#agree")},
    "/slow": {},
    "/boxes": {"checkboxes": ("input[type=checkbox]",)},
    "/framed": {"frame": "iframe"},
    "/shadow": {"shadow_host": "x-host"},
}

DESCRIBED_PAGES = {
    "/many/1": "<p id=who>@alice</p>" + NEXT.format("/many/2"),
    "/many/2": "<p id=who>@alice</p>" + NEXT.format("/many/3"),
    "/many/3": PAGES["/consent"],
    "/steps": "<p id=who>@alice</p><button id=scopes>Go on</button><script>const [b] = "
    "document.getElementsByTagName('button'); b.onclick = () => { b.outerHTML = "
    "`<button id=agree onclick=\"location='/granted'\">Agree</button>` }</script>",
    "/slow": "<p id=who>@alice</p><button id=agree "
    "onclick=\"fetch('/pressed'); setTimeout(() => location = '/granted', 2000)\">Agree</button>",
    "/boxes": f"<p id=who>@alice</p>{BOX.format('a')}{BOX.format('c')}<fieldset disabled>{GRANT}</fieldset>"
    "<script>const tick = () => { document.querySelector('fieldset').disabled = !!document.querySelector("
    "'input:not(:checked)') }</script>",
    "/framed": "<h1>Frame</h1><iframe src=/inner width=500 height=300></iframe>",
    "/inner": "<p id=who>@alice</p><form action=/granted target=_top method=post>"
    "<button id=agree>Yes</button></form>",
    "/shadow": "<x-host></x-host><script>document.querySelector('x-host').attachShadow({mode: 'open'}).innerHTML = "
    "`<p id=who>@alice</p><button id=agree onclick=\"location='/granted'\">Agree</button>`</script>",
}


async def test_pages_described_by_the_rules_lead_to_the_code(
    visit_again: Callable[..., Visit], site: Site, subtests: pytest.Subtests
):
    site.pages |= DESCRIBED_PAGES
    for path, rules in DESCRIBED.items():
        site.visited.clear()
        one = visit_again(path, page=replace(RULES, **rules))
        with subtests.test(path):
            assert await one.code() == "the-code"
            assert sum(visited.endswith("/granted") for visited in site.visited) == 1
            assert len(site.visited) == len(set(site.visited))


# In a handler, `open` with one argument is the document's.
OPENER = '<p id=who>@alice</p><button id=agree onclick="{}">Go on</button>'
IN_OPENER = f"<button id=agree onclick=\"opener.location = '{CALLBACK}'; close()\">Agree</button>"
LINK = "<p id=who>@alice</p><a id=agree target=_blank {} href=/popup>Go on</a>"
WINDOWS = {
    "tab": (LINK.format(""), PAGES["/consent"]),
    "tab without an opener": (LINK.format("rel=noopener"), PAGES["/consent"]),
    "window": (OPENER.format("window.open('/popup', 'consent', 'width=500,height=400')"), PAGES["/consent"]),
    "window that closes itself": (
        OPENER.format("window.open('/popup', 'consent', 'width=500,height=400')"),
        IN_OPENER,
    ),
    "window of others": (
        OPENER.format("window.open('{elsewhere}/popup'); location = '/consent'"),
        "<h1>An offer</h1>",
    ),
    "window of help": (OPENER.format("window.open('/help')"), ""),
    "frame in a window that closes itself": (
        OPENER.format("window.open('/framing', 'consent', 'width=500,height=400')"),
        "<button id=agree onclick=\"top.opener.location = '/consent'; top.close()\">Agree</button>",
    ),
}


async def test_a_consent_in_a_new_window_of_the_provider_is_followed(
    visit: Callable[..., Visit], browser: RunningBrowser, site: Site, subtests: pytest.Subtests
):
    """One browser for all of them; the windows are closed with the tab."""
    paths = (*RULES.consent_paths, "/opens", "/popup", "/framing")
    rules = replace(RULES, consent_paths=paths, frame="iframe")
    site.pages |= {
        "/help": "<script>opener.location = '/consent'</script>Help",
        "/framing": "<iframe src=/popup></iframe>",
    }
    elsewhere = site.url.replace("127.0.0.1", "localhost")
    for name, (page, popup) in WINDOWS.items():
        site.pages |= {"/opens": page.replace("{elsewhere}", elsewhere), "/popup": popup}
        site.visited.clear()
        with subtests.test(name):
            assert await visit("/opens", page=rules).code() == "the-code"
            assert site.visited.count("/popup") <= 1
            assert not any(path.startswith("/callback") for path in site.visited)
            await eventually(lambda: _is_alone(browser))


async def test_pages_without_an_end_are_pressed_five_times_and_no_page_twice(
    visit: Callable[..., Visit], site: Site
):
    site.pages |= {f"/many/{n}": "<p id=who>@alice</p>" + NEXT.format(f"/many/{n + 1}") for n in range(1, 9)}
    with pytest.raises(AuthorizationTimeoutException):
        await visit("/many/1", timeouts=SOON).code()
    assert site.visited == [f"/many/{n}" for n in range(1, 7)]


async def test_a_frame_of_another_host_is_not_pressed(visit: Callable[..., Visit], site: Site):
    with _serving({"/inner": DESCRIBED_PAGES["/inner"]}) as other:
        site.pages["/framed"] = f"<iframe src={other.url}/inner width=500 height=300></iframe>"
        with pytest.raises(NotConsentPageException, match="/framed"):
            await visit("/framed", page=replace(RULES, frame="iframe"), timeouts=SOON).code()
        assert "/inner" in other.visited
        assert "/granted" not in other.visited


async def test_a_link_in_the_label_of_a_checkbox_is_not_pressed(visit: Callable[..., Visit], site: Site):
    site.pages["/consent"] = (
        "<p id=who>@alice</p><label style='display:inline-block'>"
        "<input type=checkbox style='opacity:0;position:absolute'>"
        f"<a href=/terms>The terms of use</a></label><fieldset disabled>{GRANT}</fieldset>"
    )
    with pytest.raises(ConsentButtonNotFoundException):
        await visit("/consent", page=WITH_BOX, timeouts=SOON).code()
    assert site.visited == ["/consent"]


@pytest.mark.parametrize(
    "page",
    [
        "<script>alert('Really?')</script>" + BUTTON,
        BUTTON.replace(GIVE, "onclick=\"confirm('Really?')\""),
    ],
    ids=["at once", "when the button is pressed"],
)
async def test_a_question_of_the_pages_ends_with_its_words(
    visit: Callable[..., Visit], x_rules: ConsentPageRules, site: Site, page: str
):
    site.pages[X_PATH] = page
    one = visit(X_PATH, page=x_rules)
    with pytest.raises(PageDialogException, match=r'"Really\?"'):
        await one.code()
    assert "/granted" not in site.visited
    assert len(one.evidence) == 1


async def _awaited(running: asyncio.Task[str], visit: Visit) -> None:
    await eventually(lambda: running.done() or SessionStage.WAITING_FOR_PERSON in visit.stages)


async def _person(browser: RunningBrowser, script: str, *, at: str) -> None:
    """Does `script` in the tab that shows the page `at`, as a person at the window would, once it can be done."""
    act = {"expression": script, "userGesture": True}

    async def is_done() -> bool:
        if (target := await _tab(browser, at)) is None:
            return False
        done = await command(f"ws://{browser.address}/devtools/page/{target}", "Runtime.evaluate", act)
        return "exceptionDetails" not in done  # else the page is not built yet

    await eventually(is_done)


async def _is_alone(browser: RunningBrowser) -> bool:
    return len(await _pages(browser)) <= 1


async def _tab(browser: RunningBrowser, url: str) -> str | None:
    return next((page["targetId"] for page in await _pages(browser) if page["url"].rstrip("?") == url), None)


async def _pages(browser: RunningBrowser) -> list[dict[str, Any]]:
    targets = (await command(browser.ws_url, "Target.getTargets"))["targetInfos"]
    return [target for target in targets if target["type"] == "page"]


@contextmanager
def _serving(pages: dict[str, str]) -> Iterator[Site]:
    visited: list[str] = []
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/favicon.ico":
                return self.send_error(404)
            if self.path == "/never":
                return is_over.wait() and None
            visited.append(self.path)
            page = pages.get(self.path) or pages.get(urlsplit(self.path).path)
            if page is None:
                return self.send_error(404, html.escape(self.path))
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            return self.wfile.write(f"<!doctype html><title>A page</title>{page}".encode()) and None

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self._grant()

        def _grant(self) -> None:
            visited.append(self.path if self.path != X_PATH else f"POST {X_PATH}")
            self.send_response(303)
            self.send_header("location", "/callback?state=the-state&code=the-code")
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    pages.setdefault("/granted", "<script>location='/callback?state=the-state&code=the-code'</script>")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Site(f"http://127.0.0.1:{server.server_address[1]}", visited, pages)
    finally:
        is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()
