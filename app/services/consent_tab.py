"""The one tab in which a consent is asked for: wait, check who is signed in, press once, catch the redirect."""

import hmac
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
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
from selenium.webdriver.remote.remote_connection import RemoteConnection
from selenium.webdriver.remote.webelement import WebElement
from urllib3.exceptions import ReadTimeoutError as CommandTimeout

from app.clients.devtools import RedirectWatcher
from app.clients.texts import storable
from app.models import SessionStage
from app.services.consent_page import (
    FIND_CONTINUE,
    LOOK_NOW,
    WAIT_UNTIL_KNOWN,
    PageKind,
    PageState,
    script_rules,
)
from app.services.interfaces import AuthorizationRequest, ConsentRequest
from app.utils.exceptions import (
    AccountLockedException,
    AccountMismatchException,
    AppException,
    AuthorizationTimeoutException,
    ConsentButtonNotFoundException,
    ConsentDeclinedException,
    ConsentPageException,
    FragmentResponseException,
    HumanCheckException,
    LoginRequiredException,
    PersonNotSeenException,
    ProfileNetworkException,
    ProviderRulesException,
    ServiceStoppingException,
    StateMismatchException,
    UnknownPageException,
)
from app.utils.masking import mask_text

TURN_SECONDS: Final = 1.5
"""The longest a page is left to wait by itself before a stop or a redirect is looked for."""
_SETTLE_SECONDS: Final = 1.0
"""A page that has not changed for this long is taken as built."""
_POLL_SECONDS: Final = 0.25
"""Between two looks at a page that should redirect; the redirect itself ends the wait at once."""
_PERSON_POLL: Final = 1.0
"""Between two looks at a page on which a person is at work."""
_MOST_BANNERS: Final = 3
_MOST_REOPENED: Final = 3
"""How often a person who is led home is brought back; a provider that leads there each time would never end."""
_LONGEST_DETAIL: Final = 300
"""Characters of what a page says, secrets masked."""
_REFUSED_SELECTOR: Final = re.compile(r"'Document': (.+ is not a valid (?:selector|XPath expression))")
_COMMAND_MARGIN: Final = 10.0
"""The driver's deadline lies this far beyond the page's own: the other way round its session hangs."""
_DEATH_WORDS: Final = ("tab crashed", "disconnected", "not reachable", "target closed", "session deleted")


class ConsentTab:
    """Presses Authorize once, never again on a timer, and nothing at all that the provider's rules do not name.

    When a person is awaited, pages that ask for one are waited out; when the consent is attended, nothing is pressed.
    """

    def __init__(
        self, *, driver: webdriver.Remote, watcher: RedirectWatcher, request: ConsentRequest
    ) -> None:
        self._driver = driver
        self._watcher = watcher
        self._request = request
        self._timeouts = request.timeouts
        self._callback: str | None = None
        self._ignored: set[PageKind] = set() if request.awaits_person else {PageKind.HOME}
        if request.is_attended:
            self._ignored.add(PageKind.BANNER)
        # A person's page may have a button of any kind: only the consent's own marks count there.
        self._page = replace(request.page, fallback_buttons=()) if request.awaits_person else request.page
        self._banners = self._reopened = 0
        self._pressed = False
        self._person_ends: float | None = None  # by `monotonic`, while a person has something to do

    def click_authorize_button(self) -> None:
        """Open the consent page, check who is signed in, and press Authorize once; an attended one is not pressed.

        Raises `LoginRequiredException`, `AccountLockedException`, `HumanCheckException`, `ConsentPageException`,
        `AccountMismatchException`, `ConsentButtonNotFoundException`, `UnknownPageException`,
        `PersonNotSeenException`, `AuthorizationTimeoutException`.
        """
        self._open_consent_page()
        state = self._wait_for_consent()
        if state is None:
            return  # an app that was granted before redirects without asking
        self._request.report(SessionStage.CONSENT_SHOWN)
        self._check_account(state)
        if self._request.is_attended:
            self._await_person()
        else:
            self._press_authorize(state)

    def extract_oauth_code(self) -> SecretStr:
        """Wait for the redirect and take the code from its URL; its `state` must be ours.

        Raises `StateMismatchException`, `ConsentDeclinedException`, `ConsentPageException`,
        `AuthorizationTimeoutException`, `PersonNotSeenException`, and what the page may turn into.
        """
        self._wait_for_redirect()
        assert self._callback is not None
        code = parse_callback(self._callback, self._request.authorization, self._request.account_id)
        if self._request.is_attended:
            self._request.report(SessionStage.CONSENT_GIVEN)
        self._request.report(SessionStage.CODE_RECEIVED)
        return code

    def _wait_for_consent(self) -> PageState | None:
        """The page with its button ready; None when the browser was redirected to the callback already."""
        ends = monotonic() + self._timeouts.consent_button
        while True:
            self._check_stop()
            if self._redirected(0):
                return None
            left = ends - monotonic()
            state = self._wait_in_page(left) if left > 0 else self._look()
            if state.kind is PageKind.READY:
                return state
            if self._advance(state):
                ends = monotonic() + self._timeouts.consent_button
            elif self._is_for_person(state):
                ends = self._work_of_person(state)
            else:
                self._raise_for(state)
                if left <= 0 and not self._request.awaits_person:
                    raise self._not_shown(state)
                if left <= 0:  # whatever it is: somebody is there to see it
                    ends = self._work_of_person(state)

    def _wait_for_redirect(self) -> None:
        ends = self._person_ends or monotonic() + self._timeouts.callback
        while not self._redirected(_POLL_SECONDS):
            self._check_stop()
            state = self._look()
            if self._is_for_person(state):
                ends = self._work_of_person(state)
            elif self._person_is_back(state):
                self._check_account(state)
                self._press_authorize(state)
                ends = monotonic() + self._timeouts.callback
            else:
                self._raise_for(state)
            if monotonic() >= ends:
                raise self._not_redirected()

    def _advance(self, state: PageState) -> bool:
        """Press what stands before the consent, once: a banner, the account to use."""
        if state.kind is PageKind.BANNER:
            assert state.button is not None
            with suppress(ConsentButtonNotFoundException):  # it may go by itself
                self._press(state.button)
            self._redirected(_POLL_SECONDS)  # until it has faded
            self._banners += 1
            if self._banners >= _MOST_BANNERS:
                self._ignored.add(PageKind.BANNER)
            return True
        if state.kind is PageKind.CHOOSER and not self._request.is_attended:
            if state.button is None:
                raise AccountMismatchException(self._request.account_id, self._masked(state.detail))
            self._ignored.add(PageKind.CHOOSER)
            self._press(state.button)
            self._confirm_choice()
            return True
        return False

    def _confirm_choice(self) -> None:
        """Unless choosing was enough, and the page has gone."""
        if not self._request.page.account_continue:
            return
        ends = monotonic() + self._timeouts.consent_button
        while not self._redirected(0):
            self._check_stop()
            state = self._state_of(FIND_CONTINUE)
            if state.kind is not PageKind.CHOOSER:
                return
            if state.button is not None:
                self._press(state.button)
                return
            if monotonic() >= ends:
                raise ConsentButtonNotFoundException(self._timeouts.consent_button)
            self._redirected(_POLL_SECONDS)

    def _is_for_person(self, state: PageState) -> bool:
        """Whether a person is awaited who has something to do here; else only known pages are waited for."""
        if not self._request.awaits_person:
            return False
        if state.kind.asks_for_person or state.kind is PageKind.CHOOSER:
            return True
        if self._person_ends is None:
            return state.kind is PageKind.HOME and not self._pressed
        return state.kind in (PageKind.HOME, PageKind.UNKNOWN, PageKind.ERROR)

    def _person_is_back(self, state: PageState) -> bool:
        """Whether what a person had to do after the click is done, and the page asks for the consent again."""
        is_at_consent = state.kind is PageKind.READY and not self._request.is_attended
        return is_at_consent and self._person_ends is not None

    def _work_of_person(self, state: PageState) -> float:
        """Leave the page to the person for a while; until when (`monotonic`) they have time."""
        ends = self._person_ends or self._await_person()
        if monotonic() >= ends:
            raise PersonNotSeenException(self._request.account_id, self._timeouts.person)
        if state.kind is PageKind.HOME and self._reopened < _MOST_REOPENED:
            self._reopened += 1
            with suppress(AuthorizationTimeoutException):  # the person's own time goes on
                self._open_consent_page()  # signed in, but led away from the consent
        self._redirected(_PERSON_POLL)
        return ends

    def _await_person(self) -> float:
        self._person_ends = monotonic() + self._timeouts.person
        self._request.report(SessionStage.WAITING_FOR_PERSON)
        return self._person_ends

    def _check_account(self, state: PageState) -> None:
        """The only guard before the click; after it the who-am-I must agree."""
        if state.handle is not None and state.handle != self._request.account_id:
            raise AccountMismatchException(self._request.account_id, state.handle)

    def _press_authorize(self, state: PageState) -> None:
        self._check_stop()
        assert state.button is not None
        self._person_ends, self._pressed = None, True
        self._press(state.button)
        self._request.report(SessionStage.CONSENT_GIVEN)

    def _press(self, button: WebElement) -> None:
        """Once, never again on a timer: the button turns into a spinner."""
        try:
            with self._longer(self._timeouts.page_load):
                button.click()
        except (
            ElementNotInteractableException,
            ElementClickInterceptedException,
            StaleElementReferenceException,
        ) as error:
            raise ConsentButtonNotFoundException(self._timeouts.consent_button) from error

    def _open_consent_page(self) -> None:
        self._ignored.discard(PageKind.CHOOSER)
        seconds = min(self._timeouts.page_load, max(self._request.deadline - monotonic(), 0.1))
        self._driver.set_page_load_timeout(seconds)
        try:
            with self._longer(seconds):
                self._driver.get(self._request.authorization.url)
        except TimeoutException as error:
            self._check_stop()  # it may have been the whole attempt's deadline
            raise AuthorizationTimeoutException(self._timeouts.page_load) from error
        if (code := self._watcher.network_error) is not None:  # the driver does not tell of all of them
            raise ProfileNetworkException(code)

    @contextmanager
    def _longer(self, seconds: float) -> Iterator[None]:
        """For a command that waits for a page: it has its own deadline, and the driver's lies beyond it."""
        usual = allow_commands(self._driver, seconds=seconds + _COMMAND_MARGIN)
        try:
            yield
        finally:
            allow_commands(self._driver, seconds=usual)

    def _wait_in_page(self, seconds: float) -> PageState:
        """Short turns, so that a stop and a redirect are noticed; a page that navigates away ends a turn early."""
        milliseconds = (int(min(seconds, TURN_SECONDS) * 1000), int(_SETTLE_SECONDS * 1000))
        try:
            result = self._driver.execute_async_script(WAIT_UNTIL_KNOWN, self._rules(), *milliseconds)
        except (WebDriverException, CommandTimeout) as error:
            return self._unless_dead(error)
        return PageState.from_script(result)

    def _look(self) -> PageState:
        return self._state_of(LOOK_NOW)

    def _state_of(self, script: str) -> PageState:
        try:
            return PageState.from_script(self._driver.execute_script(script, self._rules()))
        except (WebDriverException, CommandTimeout) as error:
            return self._unless_dead(error)

    def _rules(self) -> dict[str, object]:
        return script_rules(self._page, self._request.account_id, ignore=self._ignored)

    def _unless_dead(self, error: WebDriverException | CommandTimeout) -> PageState:
        """A script dies when its page navigates: look again. A dead tab or browser is the end."""
        if isinstance(error, WebDriverException) and is_dead(error):
            raise error
        if (refused := _REFUSED_SELECTOR.search(str(error))) is not None:
            raise ProviderRulesException(refused[1])
        return PageState(PageKind.UNKNOWN, is_hung=isinstance(error, (TimeoutException, CommandTimeout)))

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
                raise ConsentPageException(self._masked(state.detail) or "no detail")

    def _masked(self, text: str) -> str:
        """What the page says, fit for an error's sentence: a page may quote the request."""
        known = [self._request.authorization.state.get_secret_value()]
        return mask_text(storable(text), known=known)[:_LONGEST_DETAIL]

    def _not_shown(self, state: PageState) -> AppException:
        seconds = self._timeouts.consent_button
        if state.is_hung:
            return AuthorizationTimeoutException(seconds)
        return ConsentButtonNotFoundException(seconds) if state.has_button else UnknownPageException(seconds)

    def _not_redirected(self) -> AppException:
        if self._person_ends is not None:
            return PersonNotSeenException(self._request.account_id, self._timeouts.person)
        return AuthorizationTimeoutException(self._timeouts.callback)

    def _check_stop(self) -> None:
        if self._request.stop.is_set():
            raise ServiceStoppingException
        if monotonic() >= self._request.deadline:
            if self._person_ends is not None:
                raise PersonNotSeenException(self._request.account_id, self._timeouts.person)
            raise AuthorizationTimeoutException(self._request.timeout)


def allow_commands(driver: webdriver.Remote, *, seconds: float) -> float:
    """How long the driver may take to answer a command from now on, before `CommandTimeout`; what it was before.

    Selenium has one such deadline for all; a driver that hangs inside a page's script tells nothing by itself.
    """
    executor = driver.command_executor
    assert isinstance(executor, RemoteConnection)
    before: float = executor.client_config.timeout
    executor.client_config.timeout = seconds
    return before


def is_dead(error: WebDriverException) -> bool:
    """Whether the tab, the browser or the session has gone, as against a script that failed."""
    gone = isinstance(error, (InvalidSessionIdException, NoSuchWindowException))
    return gone or any(words in str(error.msg).lower() for words in _DEATH_WORDS)


def parse_callback(url: str, authorization: AuthorizationRequest, account_id: str) -> SecretStr:
    """The code of a callback URL (RFC 6749, 4.1.2), once its `state` is seen to be ours.

    Of OAuth 1.0a the verifier (RFC 5849, 2.2), once the request token is seen to be ours.
    """
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    if authorization.request_token_secret is not None:
        query = _in_words_of_oauth2(query)
    if not hmac.compare_digest(
        query.get("state", "").encode(), authorization.state.get_secret_value().encode()
    ):
        if _is_answer(parse_qs(urlsplit(url).fragment)):
            raise FragmentResponseException
        raise StateMismatchException
    if query.get("error") == "access_denied":
        raise ConsentDeclinedException(account_id)
    if "code" not in query:
        words = mask_text(query.get("error", "the callback carries no code"))
        raise ConsentPageException(words[:_LONGEST_DETAIL])
    return SecretStr(query["code"])


def _is_answer(fragment: dict[str, list[str]]) -> bool:
    return not fragment.keys().isdisjoint(("code", "access_token", "error"))


def _in_words_of_oauth2(query: dict[str, str]) -> dict[str, str]:
    """X tells of a refusal as ``denied=<request token>``."""
    if "denied" in query:
        return {"state": query["denied"], "error": "access_denied"}
    words = {"oauth_token": "state", "oauth_verifier": "code"}
    return {word: query[name] for name, word in words.items() if name in query}
