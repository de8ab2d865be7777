"""Driving the consent page: `BrowserController` is the low-level Selenium, `ProfileAutomator` one authorization."""

import asyncio
import contextvars
import hmac
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    InvalidSessionIdException,
    NoSuchWindowException,
    StaleElementReferenceException,
    TimeoutException,
    WebDriverException,
)
from selenium.webdriver.remote.client_config import ClientConfig
from urllib3.exceptions import HTTPError
from websockets.exceptions import WebSocketException

from app.clients.devtools import RedirectWatcher
from app.clients.oauth_provider import ProviderUser
from app.models import SessionStage
from app.services.chromedriver import ChromeDrivers
from app.services.consent_page import LOOK_NOW, WAIT_UNTIL_KNOWN, PageKind, PageState
from app.services.interfaces import (
    AuthorizationJob,
    AuthorizationRequest,
    BrowserControllerProtocol,
    ConsentRequest,
    GoLoginServiceProtocol,
    OAuthServiceProtocol,
    RunningBrowser,
    StageReporter,
    TokenSet,
)
from app.utils.exceptions import (
    AccountLockedException,
    AccountMismatchException,
    AppException,
    AuthorizationTimeoutException,
    BrowserCrashedException,
    ConsentButtonNotFoundException,
    ConsentDeclinedException,
    ConsentPageException,
    HumanCheckException,
    LoginRequiredException,
    SeleniumConnectionException,
    ServiceStoppingException,
    StateMismatchException,
)
from app.utils.logger import get_logger
from app.utils.tasks import uninterrupted

_SETTLE_SECONDS: Final = 1.0
"""A page that has not changed for this long is taken as built."""
_TURN_SECONDS: Final = 1.5
"""The longest a page is left to wait by itself before a stop or a redirect is looked for."""
_SCRIPT_MARGIN: Final = 5.0
_DEATH_WORDS: Final = ("tab crashed", "disconnected", "not reachable", "target closed", "session deleted")
_POLL_SECONDS: Final = 0.25
"""Between two looks at a page that should redirect; the redirect itself ends the wait at once."""
_HTTP_MARGIN: Final = 10.0
"""Selenium's HTTP deadline lies this far beyond the page's own ones: the other way round hangs the session."""

log = get_logger(__name__)


@dataclass(frozen=True)
class BrowserTimeouts:
    """Seconds."""

    attach: float
    page_load: float
    consent_button: float
    callback: float


class BrowserController:
    """Blocking Selenium: every method runs in a thread of its own pool, never on the event loop."""

    def __init__(self, *, timeouts: BrowserTimeouts) -> None:
        self._timeouts = timeouts

    @contextmanager
    def connect_to_profile(self, request: ConsentRequest) -> "Iterator[ConsentTab]":
        """A fresh tab of the profile's browser; the other tabs are left alone, and it is closed again.

        Raises `SeleniumConnectionException` when the driver cannot attach.
        """
        driver = self._attach(request)
        try:
            driver.set_page_load_timeout(self._timeouts.page_load)
            driver.switch_to.new_window("tab")
            request.report(SessionStage.BROWSER_ATTACHED)
            with RedirectWatcher(
                address=request.browser.address,
                target_id=driver.current_window_handle,
                redirect_uri=request.authorization.redirect_uri,
                timeout=self._timeouts.attach,
            ) as watcher:
                yield ConsentTab(driver=driver, watcher=watcher, request=request, timeouts=self._timeouts)
        finally:
            # Always quit: a session left open keeps a thread and sockets in the shared driver. It closes no browser.
            with suppress(WebDriverException, HTTPError):
                driver.close()
            with suppress(WebDriverException, HTTPError):
                driver.quit()

    def _attach(self, request: ConsentRequest) -> webdriver.Remote:
        options = webdriver.ChromeOptions()
        options.debugger_address = request.browser.address
        options.page_load_strategy = "eager"
        options.timeouts = {"script": int((_TURN_SECONDS + _SCRIPT_MARGIN) * 1000)}
        http_timeout = max(self._timeouts.attach, self._timeouts.page_load)
        config = ClientConfig(
            remote_server_addr=request.driver_url,
            timeout=int(http_timeout + _HTTP_MARGIN),
            # urllib3 would send a GET or DELETE four times, each with the whole timeout.
            init_args_for_pool_manager={"init_args_for_pool_manager": {"retries": False}},
        )
        try:
            return webdriver.Remote(
                command_executor=request.driver_url, options=options, client_config=config
            )
        except (WebDriverException, HTTPError) as error:
            raise SeleniumConnectionException(request.browser.address.rpartition(":")[2]) from error


class ConsentTab:
    """The one tab in which a consent is asked for."""

    def __init__(
        self,
        *,
        driver: webdriver.Remote,
        watcher: RedirectWatcher,
        request: ConsentRequest,
        timeouts: BrowserTimeouts,
    ) -> None:
        self._driver = driver
        self._watcher = watcher
        self._request = request
        self._timeouts = timeouts
        self._callback: str | None = None

    def click_authorize_button(self) -> None:
        """Open the consent page, check who is signed in, and press Authorize once.

        Raises `LoginRequiredException`, `AccountLockedException`, `HumanCheckException`, `ConsentPageException`,
        `AccountMismatchException`, `ConsentButtonNotFoundException`, `AuthorizationTimeoutException`.
        """
        self._open_consent_page()
        state = self._wait_for_consent()
        if state is None:
            return  # an app that was granted before redirects without asking
        self._request.report(SessionStage.CONSENT_SHOWN)
        if state.handle is not None and state.handle != self._request.account_id:
            raise AccountMismatchException(self._request.account_id, state.handle)
        self._check_stop()
        self._click(state)
        self._request.report(SessionStage.CONSENT_GIVEN)

    def extract_oauth_code(self) -> SecretStr:
        """Wait for the redirect and take the code from its URL; its `state` must be ours.

        Raises `StateMismatchException`, `ConsentDeclinedException`, `ConsentPageException`,
        `AuthorizationTimeoutException`, and what the page may turn into.
        """
        deadline = monotonic() + self._timeouts.callback
        while not self._redirected(_POLL_SECONDS):
            self._check_stop()
            if monotonic() >= deadline:
                raise AuthorizationTimeoutException(self._timeouts.callback)
            self._raise_for(self._look())
        assert self._callback is not None
        code = parse_callback(self._callback, self._request.authorization, self._request.account_id)
        self._request.report(SessionStage.CODE_RECEIVED)
        return code

    def _open_consent_page(self) -> None:
        try:
            self._driver.get(self._request.authorization.url)
        except TimeoutException as error:
            raise AuthorizationTimeoutException(self._timeouts.page_load) from error

    def _click(self, state: PageState) -> None:
        """Once, never again on a timer: the button turns into a spinner."""
        assert state.button is not None
        try:
            state.button.click()
        except (
            ElementNotInteractableException,
            ElementClickInterceptedException,
            StaleElementReferenceException,
        ) as error:
            raise ConsentButtonNotFoundException(self._timeouts.consent_button) from error

    def _wait_for_consent(self) -> PageState | None:
        """The page with its button ready; None when the browser was redirected to the callback already."""
        deadline = monotonic() + self._timeouts.consent_button
        while (left := deadline - monotonic()) > 0:
            self._check_stop()
            if self._redirected(0):
                return None
            state = self._wait_in_page(left)
            self._raise_for(state)
            if state.kind is PageKind.READY:
                return state
        state = self._look()
        self._raise_for(state)
        if state.kind is PageKind.READY:
            return state
        raise ConsentButtonNotFoundException(self._timeouts.consent_button)

    def _wait_in_page(self, seconds: float) -> PageState:
        """Short turns, so that a stop and a redirect are noticed; a page that navigates away ends a turn early."""
        milliseconds = (int(min(seconds, _TURN_SECONDS) * 1000), int(_SETTLE_SECONDS * 1000))
        try:
            result = self._driver.execute_async_script(
                WAIT_UNTIL_KNOWN, self._request.page.as_json(), *milliseconds
            )
        except WebDriverException as error:
            return self._unless_dead(error)
        return PageState.from_script(result)

    def _look(self) -> PageState:
        try:
            return PageState.from_script(self._driver.execute_script(LOOK_NOW, self._request.page.as_json()))
        except WebDriverException as error:
            return self._unless_dead(error)

    def _unless_dead(self, error: WebDriverException) -> PageState:
        """A script dies when its page navigates: look again. A dead tab or browser is the end."""
        if is_dead(error):
            raise error
        return PageState(PageKind.UNKNOWN)

    def _redirected(self, seconds: float) -> bool:
        if self._callback is None:
            self._callback = self._watcher.wait(seconds)
        return self._callback is not None

    def _raise_for(self, state: PageState) -> None:
        account_id = self._request.account_id
        match state.kind:
            case PageKind.LOGIN:
                raise LoginRequiredException(account_id)
            case PageKind.LOCKED:
                raise AccountLockedException(account_id)
            case PageKind.HUMAN_CHECK:
                raise HumanCheckException(account_id)
            case PageKind.ERROR:
                raise ConsentPageException(state.detail or "no detail")

    def _check_stop(self) -> None:
        if self._request.stop.is_set():
            raise ServiceStoppingException


StoreTokens = Callable[[ProviderUser, TokenSet], Awaitable[None]]


class ProfileAutomator:
    """One authorization from the profile's start to the tokens; whoever calls stores them."""

    def __init__(
        self,
        *,
        gologin: GoLoginServiceProtocol,
        browser: BrowserControllerProtocol,
        oauth: OAuthServiceProtocol,
        drivers: ChromeDrivers,
        max_concurrent: int,
        timeout: float,
    ) -> None:
        self._gologin = gologin
        self._browser = browser
        self._oauth = oauth
        self._drivers = drivers
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(max_concurrent, thread_name_prefix="selenium")

    async def authorize_account(
        self, job: AuthorizationJob, *, report: StageReporter, store: StoreTokens
    ) -> None:
        """Bring the job's account through the consent and hand its tokens to `store`, at once.

        All that happens in the browser has one deadline, `AuthorizationTimeoutException` after it; the profile's
        start has its own. Any exit stops the profile. Raises what `GoLoginService.running_profile`, `ConsentTab`
        and the `OAuthService` raise.
        """
        timeout = min(self._timeout, job.timeout_seconds or self._timeout)
        async with self._gologin.running_profile(job.profile_id, report=report) as browser:
            try:
                async with asyncio.timeout(timeout):
                    await self._authorize(job, browser, report, store)
            except TimeoutError as error:
                raise AuthorizationTimeoutException(timeout) from error

    def close(self) -> None:
        """Every authorization has waited for its thread; one that is stuck in its driver must not hold the loop."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _authorize(
        self, job: AuthorizationJob, browser: RunningBrowser, report: StageReporter, store: StoreTokens
    ) -> None:
        request = ConsentRequest(
            browser=browser,
            driver_url=await self._drivers.url_for(browser.major),
            account_id=job.account_id,
            authorization=self._oauth.generate_auth_url(job.api_app),
            page=self._oauth.consent_page(job.api_app),
            report=report,
        )
        code = await self._in_thread(request)
        # Not interrupted: the exchange spends the code, so what it brings must be stored or revoked.
        await uninterrupted(self._exchange(job, request.authorization, code, store))

    async def _in_thread(self, request: ConsentRequest) -> SecretStr:
        """The blocking part. When nobody waits for it any more it is made to leave, and waited for."""
        context = contextvars.copy_context()
        future = asyncio.get_running_loop().run_in_executor(
            self._threads, context.run, obtain_code, self._browser, request
        )
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            request.stop.set()
            await uninterrupted(self._end(request, future))
            raise

    async def _end(self, request: ConsentRequest, future: "asyncio.Future[SecretStr]") -> None:
        """Without its browser, whatever the thread waits for fails at once."""
        await self._gologin.close_browser(request.browser)
        await asyncio.gather(future, return_exceptions=True)

    async def _exchange(
        self, job: AuthorizationJob, authorization: AuthorizationRequest, code: SecretStr, store: StoreTokens
    ) -> None:
        tokens = await self._oauth.exchange_code_for_tokens(
            job.api_app, code=code, authorization=authorization
        )
        try:
            user = await self._oauth.verify_credentials(job.api_app, tokens.access_token)
            if user.username.lower() != job.account_id:
                raise AccountMismatchException(job.account_id, user.username)
            await store(user, tokens)
        except BaseException:
            await self._revoke(job, tokens)
            raise

    async def _revoke(self, job: AuthorizationJob, tokens: TokenSet) -> None:
        """Nothing was stored, so nothing may live on at the provider."""
        try:
            await self._oauth.revoke_token(job.api_app, tokens.refresh_token or tokens.access_token)
        except AppException as error:
            log.error("token.revocation_failed", account_id=job.account_id, error=error.message)


def obtain_code(controller: BrowserControllerProtocol, request: ConsentRequest) -> SecretStr:
    """Blocking: the consent from a fresh tab to the code. Raises errors of our own only, and programming errors."""
    try:
        with controller.connect_to_profile(request) as tab:
            tab.click_authorize_button()
            return tab.extract_oauth_code()
    except TimeoutException as error:
        raise ConsentPageException("the page does not answer") from error
    except (
        InvalidSessionIdException,
        NoSuchWindowException,
        HTTPError,
        WebSocketException,
        OSError,
    ) as error:
        raise BrowserCrashedException from error
    except WebDriverException as error:
        if is_dead(error):
            raise BrowserCrashedException from error
        raise


def is_dead(error: WebDriverException) -> bool:
    """Whether the tab, the browser or the session has gone, as against a script that failed."""
    gone = isinstance(error, (InvalidSessionIdException, NoSuchWindowException))
    return gone or any(words in str(error.msg).lower() for words in _DEATH_WORDS)


def parse_callback(url: str, authorization: AuthorizationRequest, account_id: str) -> SecretStr:
    """The code of a callback URL (RFC 6749, 4.1.2), once its `state` is seen to be ours."""
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    if not hmac.compare_digest(
        query.get("state", "").encode(), authorization.state.get_secret_value().encode()
    ):
        raise StateMismatchException
    if query.get("error") == "access_denied":
        raise ConsentDeclinedException(account_id)
    if "code" not in query:
        raise ConsentPageException(query.get("error", "the callback carries no code")[:100])
    return SecretStr(query["code"])
