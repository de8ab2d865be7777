"""Driving the consent page: `BrowserController` is the low-level Selenium, `ProfileAutomator` one authorization."""

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

from pydantic import SecretStr
from selenium import webdriver
from selenium.common.exceptions import (
    InsecureCertificateException,
    InvalidSessionIdException,
    NoSuchWindowException,
    TimeoutException,
    WebDriverException,
)
from selenium.webdriver.common.proxy import Proxy, ProxyType
from selenium.webdriver.remote.client_config import ClientConfig
from urllib3.exceptions import HTTPError
from urllib3.exceptions import ReadTimeoutError as CommandTimeout
from websockets.exceptions import WebSocketException

from app.clients.browsers.devtools import RedirectWatcher, network_error_in
from app.clients.browsers.hung_tabs import closing_hung_tabs
from app.models import ConsentMode, SessionStage
from app.services.browser.chromedriver import ChromeDrivers
from app.services.browser.consent_tab import TURN_SECONDS, ConsentTab, allow_commands, is_dead
from app.services.browser.live_tabs import LiveTab, LiveTabs
from app.services.browser.page_evidence import capture
from app.services.interfaces import (
    AttemptSink,
    AuthorizationJob,
    BrowserControllerProtocol,
    BrowserTimeouts,
    ConsentRequest,
    GoLoginServiceProtocol,
    OAuthServiceProtocol,
    RunningBrowser,
)
from app.utils.exceptions import (
    AccountMismatchException,
    AppException,
    AuthorizationTimeoutException,
    BrowserCrashedException,
    ConsentButtonNotFoundException,
    DatabaseUnavailableException,
    ProfileNetworkException,
    SeleniumConnectionException,
    UnknownPageException,
)
from app.utils.logger import get_logger
from app.utils.tasks import run_shielded

_SCRIPT_MARGIN: Final = 5.0
_MIN_ATTACH_TIMEOUT: Final = 6.0
_LEAVE_SECONDS: Final = 5.0
"""Seconds for the end of the driver's session, and for a thread whose browser has gone, each: a hung page must not
keep its profile running."""
_BACK_STOP: Final = 10.0
"""Seconds after the attempt's deadline, by which the thread ends itself, with evidence. A script in a page that hangs
takes 6.5 of them, the evidence 3."""

_NOTHING_SHOWN: Final = (
    AuthorizationTimeoutException,
    ConsentButtonNotFoundException,
    UnknownPageException,
)
"""Errors with which an attempt may also end when a page could not be loaded after a click."""

log = get_logger(__name__)


class BrowserController:
    """Blocking Selenium: every method runs in a thread of its own pool, never on the event loop.

    `max_screenshot_bytes`: a larger one is not kept as evidence. `live_tabs`: where the tabs may be watched.
    """

    def __init__(self, *, max_screenshot_bytes: int, live_tabs: LiveTabs) -> None:
        self._max_screenshot_bytes = max_screenshot_bytes
        self._live_tabs = live_tabs

    @contextmanager
    def connect_to_profile(self, request: ConsentRequest) -> Iterator[ConsentTab]:
        """A fresh tab of the profile's browser, closed again at the end; other tabs are left alone unless they hang.

        Raises `SeleniumConnectionException` when the driver cannot attach.
        """
        with closing_hung_tabs(request.browser.ws_url, timeout=request.timeouts.attach):
            driver = self._attach(request)
        try:
            with RedirectWatcher(
                ws_url=request.browser.ws_url,
                redirect_uri=request.authorization.redirect_uri,
                timeout=request.timeouts.attach,
            ) as watcher:
                try:
                    # As long as the attach may take: a busy machine is slow.
                    driver.switch_to.window(watcher.target_id)
                    allow_commands(driver, seconds=TURN_SECONDS + _SCRIPT_MARGIN)
                    request.sink.report_stage(SessionStage.BROWSER_ATTACHED)
                    shown = LiveTab(request.browser.ws_url, lambda: watcher.front, request.person)
                    with self._live_tabs.show(request.session_id, shown):
                        yield ConsentTab(driver=driver, watcher=watcher, request=request)
                except Exception as error:
                    self._keep_evidence(watcher, request)
                    code = watcher.find_network_error(watcher.front)
                    if isinstance(error, _NOTHING_SHOWN) and code is not None:
                        raise ProfileNetworkException(code) from error
                    raise
                finally:
                    # Not by the driver: it waits for a page that is still on its way, and so does all after it.
                    watcher.close_tab()
        finally:
            # Always quit: a session left open keeps a thread and sockets in the shared driver. It closes no browser.
            allow_commands(driver, seconds=_LEAVE_SECONDS)
            try:
                driver.quit()
            except (WebDriverException, HTTPError) as error:
                log.warning("browser.driver_not_left", error=type(error).__name__)

    def _keep_evidence(self, watcher: RedirectWatcher, request: ConsentRequest) -> None:
        """Take the evidence while the tab is open. A failure here must not hide the attempt's own."""
        if request.stop.is_set():
            return
        try:
            evidence = capture(
                watcher, authorization=request.authorization, max_bytes=self._max_screenshot_bytes
            )
        except Exception as error:
            log.error("evidence.not_taken", error=type(error).__name__)
            return
        if evidence is not None:
            request.sink.keep_evidence(evidence)

    def _attach(self, request: ConsentRequest) -> webdriver.Remote:
        options = webdriver.ChromeOptions()
        options.debugger_address = request.browser.address
        options.page_load_strategy = "eager"
        options.timeouts = {"script": int((TURN_SECONDS + _SCRIPT_MARGIN) * 1000)}
        config = ClientConfig(
            remote_server_addr=request.driver_url,
            proxy=Proxy({"proxyType": ProxyType.DIRECT}),  # the driver is on this machine
            # A session that nobody waited for would stay in the driver; 5.3 seconds were seen under load.
            timeout=int(max(request.timeouts.attach, _MIN_ATTACH_TIMEOUT)),
            # urllib3 would send a GET or DELETE four times, each with the whole timeout.
            init_args_for_pool_manager={"init_args_for_pool_manager": {"retries": False}},
        )
        try:
            driver = webdriver.Remote(
                command_executor=request.driver_url, options=options, client_config=config
            )
        except (WebDriverException, HTTPError) as error:
            raise SeleniumConnectionException(request.browser.address.rpartition(":")[2]) from error
        return driver


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
        timeouts: BrowserTimeouts,
    ) -> None:
        self._gologin = gologin
        self._browser = browser
        self._oauth = oauth
        self._drivers = drivers
        self._timeout = timeout
        self._timeouts = timeouts
        self._threads = ThreadPoolExecutor(max_concurrent, thread_name_prefix="selenium")

    async def authorize_account(self, job: AuthorizationJob, sink: AttemptSink) -> None:
        """Bring the job's account through the consent and hand its tokens to `sink`, at once.

        All that happens in the browser has one deadline, `AuthorizationTimeoutException` after it, and so has asking
        the provider for OAuth 1.0a's request token before; the profile's start has its own. Any exit stops the
        profile. `sink` has the evidence before a failure in the browser is raised. Raises what
        `GoLoginService.running_profile`, `ConsentTab` and the `OAuthService` raise.
        """
        timeout = min(self._timeout, job.timeout_seconds or self._timeout)
        if job.awaits_person:
            # The caller may shorten the service's own work, not the time that a person has on top of it.
            timeout += self._timeouts.person
        async with self._gologin.running_profile(
            job.profile_id, report=sink.report_stage, start_timeout=job.stage_timeouts.get("profile_start")
        ) as browser:
            try:
                async with asyncio.timeout(timeout + _BACK_STOP):
                    request = await self._request(job, browser, sink, timeout)
                    await self._authorize(job, request)
            except TimeoutError as error:
                raise AuthorizationTimeoutException(timeout) from error

    def close(self) -> None:
        """Every authorization has waited for its thread; one that is stuck in its driver must not hold the loop."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _request(
        self, job: AuthorizationJob, browser: RunningBrowser, sink: AttemptSink, timeout: float
    ) -> ConsentRequest:
        deadline = monotonic() + timeout
        return ConsentRequest(
            session_id=job.session_id,
            browser=browser,
            driver_url=await self._drivers.url_for(browser.major),
            account_id=job.account_id,
            authorization=await self._oauth.generate_auth_url(job.api_app),
            page=self._oauth.consent_page(job.api_app),
            sink=sink,
            timeouts=self._timeouts.cap(job.stage_timeouts),
            deadline=deadline,
            timeout=timeout,
            is_attended=job.consent is ConsentMode.ATTENDED,
            awaits_person=job.awaits_person,
        )

    async def _authorize(self, job: AuthorizationJob, request: ConsentRequest) -> None:
        loop = asyncio.get_running_loop()
        code_future: asyncio.Future[SecretStr] = loop.create_future()

        def set_result(code: SecretStr) -> None:
            if not code_future.done():
                code_future.set_result(code)

        def hand_over(code: SecretStr) -> None:
            loop.call_soon_threadsafe(set_result, code)

        # The blocking part. It hands the code over as soon as it has it, and closes its tab afterwards.
        context = contextvars.copy_context()
        thread = loop.run_in_executor(
            self._threads, context.run, obtain_code, self._browser, request, hand_over
        )
        code = await self._code(request, thread, code_future)
        try:
            # Not interrupted: the exchange spends the code, so what it brings must be stored or revoked.
            await run_shielded(self._exchange(job, request, code))
        finally:
            await run_shielded(self._leave(request, thread))

    async def _code(
        self,
        request: ConsentRequest,
        thread: "asyncio.Future[None]",
        code_future: "asyncio.Future[SecretStr]",
    ) -> SecretStr:
        """The code, while the thread still closes its tab. When nobody waits for it any more, the thread is ended."""
        try:
            waits: list[asyncio.Future[Any]] = [thread, code_future]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not code_future.done():
                thread.result()  # raises, unless the code is on its way
            return await code_future
        except asyncio.CancelledError:
            request.stop.set()
            await run_shielded(self._end(request, thread))
            raise
        except AuthorizationTimeoutException:  # perhaps it is the driver that hangs
            await run_shielded(self._drivers.replace_hung(request.browser.major))
            raise

    async def _leave(self, request: ConsentRequest, thread: "asyncio.Future[None]") -> None:
        """Wait until the thread has closed its tab; without its browser if that takes too long."""
        await asyncio.wait([thread], timeout=2 * _LEAVE_SECONDS)
        if not thread.done():
            await self._end(request, thread)
        elif (error := thread.exception()) is not None:  # the code was had all the same
            log.warning("browser.left_with_error", error=type(error).__name__)

    async def _end(self, request: ConsentRequest, future: "asyncio.Future[None]") -> None:
        """Close the browser so that blocked Selenium calls fail; if the thread stays blocked, end the hung driver.

        A thread that leaves may have done so because its own deadlines ended its waiting for a driver that hangs.
        """
        await self._gologin.close_browser(request.browser)
        await asyncio.wait([future], timeout=_LEAVE_SECONDS)
        await self._drivers.replace_hung(request.browser.major)
        await asyncio.gather(future, return_exceptions=True)

    async def _exchange(self, job: AuthorizationJob, request: ConsentRequest, code: SecretStr) -> None:
        tokens = await self._oauth.exchange_code_for_tokens(
            job.api_app, code=code, authorization=request.authorization
        )
        try:
            user = await self._oauth.verify_credentials(
                job.api_app, tokens.access_token, tokens.oauth_token_secret, is_new=True
            )
            if user.username != job.account_id:
                raise AccountMismatchException(job.account_id, user.username)
            await request.sink.store_tokens(user, tokens)
        except DatabaseUnavailableException:
            # Perhaps they were stored before it went away: then they must live. Else the next attempt's replace them.
            log.error("token.outcome_unknown", account_id=job.account_id)
            raise
        except BaseException:
            # Nothing was stored, so nothing may live on at the provider.
            token = tokens.refresh_token or tokens.access_token
            try:
                await self._oauth.revoke_token(job.api_app, token, tokens.oauth_token_secret)
            except AppException as error:
                log.error("token.revocation_failed", account_id=job.account_id, error=error.message)
            raise


def obtain_code(
    controller: BrowserControllerProtocol, request: ConsentRequest, hand_over: Callable[[SecretStr], None]
) -> None:
    """Blocking: the consent from a fresh tab to the code, which is handed over before the tab is closed.

    Codes live for seconds. Raises errors of our own only, and programming errors.
    """
    try:
        with controller.connect_to_profile(request) as tab:
            tab.click_authorize_button()
            hand_over(tab.extract_oauth_code())
    except (TimeoutException, CommandTimeout) as error:
        raise AuthorizationTimeoutException(request.timeouts.page_load) from error
    except (
        InvalidSessionIdException,
        NoSuchWindowException,
        HTTPError,
        WebSocketException,
        OSError,
    ) as error:
        raise BrowserCrashedException from error
    except WebDriverException as error:
        fallback_code = "ERR_CERT_INVALID" if isinstance(error, InsecureCertificateException) else None
        if (code := network_error_in(str(error.msg)) or fallback_code) is not None:
            raise ProfileNetworkException(code) from error
        # A page's frames go when it navigates, too, but then the tab looks again.
        if is_dead(error) or "frame detached" in str(error.msg):
            raise BrowserCrashedException from error
        raise
