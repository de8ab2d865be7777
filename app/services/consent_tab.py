"""The one tab in which a consent is asked for: wait, check who is signed in, press once, catch the redirect."""

import hmac
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

from app.clients.devtools import RedirectWatcher
from app.models import SessionStage
from app.services.consent_page import LOOK_NOW, WAIT_UNTIL_KNOWN, PageKind, PageState
from app.services.interfaces import AuthorizationRequest, ConsentRequest
from app.utils.exceptions import (
    AccountLockedException,
    AccountMismatchException,
    AuthorizationTimeoutException,
    ConsentButtonNotFoundException,
    ConsentDeclinedException,
    ConsentPageException,
    HumanCheckException,
    LoginRequiredException,
    ServiceStoppingException,
    StateMismatchException,
)

TURN_SECONDS: Final = 1.5
"""The longest a page is left to wait by itself before a stop or a redirect is looked for."""
_SETTLE_SECONDS: Final = 1.0
"""A page that has not changed for this long is taken as built."""
_DEATH_WORDS: Final = ("tab crashed", "disconnected", "not reachable", "target closed", "session deleted")
_POLL_SECONDS: Final = 0.25
"""Between two looks at a page that should redirect; the redirect itself ends the wait at once."""


class ConsentTab:
    """The one tab in which a consent is asked for."""

    def __init__(
        self,
        *,
        driver: webdriver.Remote,
        watcher: RedirectWatcher,
        request: ConsentRequest,
    ) -> None:
        self._driver = driver
        self._watcher = watcher
        self._request = request
        self._timeouts = request.timeouts
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
        milliseconds = (int(min(seconds, TURN_SECONDS) * 1000), int(_SETTLE_SECONDS * 1000))
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
