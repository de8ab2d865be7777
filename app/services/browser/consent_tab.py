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
    InvalidSessionIdException,
    NoSuchFrameException,
    NoSuchWindowException,
    TimeoutException,
    UnexpectedAlertPresentException,
    WebDriverException,
)
from selenium.webdriver.remote.remote_connection import RemoteConnection
from selenium.webdriver.remote.webelement import WebElement
from urllib3.exceptions import ReadTimeoutError as CommandTimeout

from app.clients.browsers.devtools import RedirectWatcher
from app.clients.texts import storable
from app.models import SessionStage
from app.services.browser.button_press import click, why_not_now
from app.services.browser.consent_page import PageKind, PageState, script_rules
from app.services.browser.consent_places import ConsentPlaces, page_name
from app.services.browser.page_scripts import FIND_CONTINUE, FIND_HIDDEN_CONSENT, LOOK_NOW, WAIT_UNTIL_KNOWN
from app.services.interfaces import AuthorizationRequest, ConsentRequest
from app.utils.exceptions import (
    AccountLockedException,
    AccountMismatchException,
    AppException,
    AuthorizationTimeoutException,
    ConsentButtonNotFoundException,
    ConsentDeclinedException,
    ConsentPageException,
    ConsentUnavailableException,
    FragmentResponseException,
    HumanCheckException,
    IssuerMismatchException,
    LoginRequiredException,
    NotConsentPageException,
    PageDialogException,
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
"""Seconds between two looks at a page that should redirect; the redirect itself ends the wait at once."""
_PERSON_POLL: Final = 1.0
"""Seconds between two looks at a page on which a person is at work."""
_RETRY_SECONDS: Final = 0.1
"""Seconds between two tries to press a button that cannot be pressed yet."""
_MAX_CONSENT_PAGES: Final = 5
"""Pages of one consent on which a button is pressed."""
_MAX_CHECKBOXES: Final = 10
_MAX_BANNERS: Final = 3
_MAX_REOPENED: Final = 3
"""Ceiling of returns for a person who is led home; a provider that leads there each time would never end."""
_MAX_DETAIL_LENGTH: Final = 300
"""Characters of what a page says, secrets masked."""
_REFUSED_SELECTOR: Final = re.compile(r"'Document': (.+ is not a valid (?:selector|XPath expression))")
_COMMAND_MARGIN: Final = 10.0
"""The driver's deadline lies this far beyond the page's own: the other way round its session hangs."""
_DEATH_WORDS: Final = ("tab crashed", "disconnected", "not reachable", "target closed", "session deleted")


class ConsentTab:
    """Presses Authorize once a page, never again on a timer, and nothing at all that the provider's rules do not name.

    Nothing is pressed outside the provider's consent page, whatever a page looks like; its address is asked of the
    browser before each press. Banners and account choices are pressed on the provider's origins only.
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
            self._ignored |= {PageKind.BANNER, PageKind.CHECKBOX}
        # A person's page may have a button of any kind: only the consent's own marks count there.
        self._page = replace(request.page, fallback_buttons=()) if request.awaits_person else request.page
        self._places = ConsentPlaces.from_rules(request.authorization.url, request.page)
        self._banners = self._reopened = self._ticked = 0
        self._pressed: list[tuple[str, str]] = []
        """The page and the rule of each consent button that was pressed."""
        self._reason = ""
        """Reason why the consent button could not be pressed the last time."""
        self._button_ends = 0.0  # by `monotonic`, while a button is looked for
        self._in_frame = False
        self._tab = self._window = watcher.target_id
        self._seen: tuple[PageKind, str, str] | None = None
        self._seen_since = 0.0
        self._stage: SessionStage | None = None
        self._person_ends: float | None = None  # by `monotonic`, while a person has something to do
        self._last = PageState(PageKind.UNKNOWN)
        """Last page that was seen; it decides the error when no person comes in time."""

    def click_authorize_button(self) -> None:
        """Open the consent page, check who is signed in, and press Authorize once; an attended one is not pressed.

        Raises `LoginRequiredException`, `AccountLockedException`, `HumanCheckException`, `ConsentPageException`,
        `AccountMismatchException`, `ConsentButtonNotFoundException`, `UnknownPageException`,
        `NotConsentPageException`, `PageDialogException`, `PersonNotSeenException`, `AuthorizationTimeoutException`.
        """
        self._open_consent_page()
        self._button_ends = monotonic() + self._timeouts.consent_button
        # None: an app that was granted before redirects without asking.
        while (state := self._wait_for_consent()) is not None:
            self._report(SessionStage.CONSENT_SHOWN)
            self._check_account(state)
            if self._request.is_attended:
                self._await_person()
                return
            if self._press_authorize(state):
                return
            if monotonic() >= self._button_ends:
                self._end_of_button(state)

    def extract_oauth_code(self) -> SecretStr:
        """Wait for the redirect and take the code from its URL; its `state` must be ours.

        Raises `StateMismatchException`, `ConsentDeclinedException`, `ConsentPageException`,
        `AuthorizationTimeoutException`, `PersonNotSeenException`, and what the page may turn into.
        """
        self._wait_for_redirect()
        assert self._callback is not None
        code = parse_callback(self._callback, self._request.authorization, self._request.account_id)
        if self._request.is_attended:
            self._request.sink.report_stage(SessionStage.CONSENT_GIVEN)
        self._request.sink.report_stage(SessionStage.CODE_RECEIVED)
        return code

    def _wait_for_consent(self) -> PageState | None:
        """The page with its button ready; None when the browser was redirected to the callback already."""
        while True:
            self._check_stop()
            if self._has_redirected(0):
                return None
            remaining = self._button_ends - monotonic()
            if remaining > 0:
                # Short turns, so that a stop and a redirect are noticed; a page that navigates away ends one early.
                turn = int(min(remaining, TURN_SECONDS) * 1000)
                state = self._read_state(WAIT_UNTIL_KNOWN, turn, int(_SETTLE_SECONDS * 1000))
            else:
                state = self._read_state(LOOK_NOW, False)
            self._last = state
            is_other_account = self._request.awaits_person and self._mismatch(state) is not None
            if state.kind is PageKind.READY and not is_other_account:
                return state
            self._reason = state.reason or self._reason
            if not is_other_account and self._advance(state):
                self._button_ends = monotonic() + self._timeouts.consent_button
            elif self._is_for_person(state):
                self._button_ends = self._work_of_person(state)
            else:
                self._raise_for(state)
                is_same = self._seen == (state.kind, state.page, state.mark)
                self._note(state)
                if state.kind is PageKind.ELSEWHERE and is_same:
                    # A page that is built and stays is not on its way to the consent.
                    raise self._elsewhere_error(state)
                if remaining <= 0:
                    self._end_of_button(state)

    def _end_of_button(self, state: PageState) -> None:
        """Nothing could be pressed in time: the end, unless somebody is there to see whatever it is."""
        if self._request.awaits_person:
            self._button_ends = self._work_of_person(state)
            return
        if state.is_hung:
            raise AuthorizationTimeoutException(self._timeouts.consent_button)
        if state.is_elsewhere:
            raise self._elsewhere_error(state)
        if state.kind in (PageKind.READY, PageKind.CHOOSER) or state.has_button:
            raise self._no_button(state.reason)
        hint = self._mask(self._reason)
        if not hint:
            with suppress(WebDriverException, CommandTimeout):
                self._leave_frame()
                found = self._driver.execute_script(FIND_HIDDEN_CONSENT, self._rules())
                hint = self._mask(found) if isinstance(found, str) else ""
        raise UnknownPageException(self._timeouts.consent_button, hint)

    def _wait_for_redirect(self) -> None:
        ends = self._person_ends or monotonic() + self._timeouts.callback
        while not self._has_redirected(_POLL_SECONDS):
            self._check_stop()
            self._last = state = self._read_state(LOOK_NOW, self._has_settled())
            self._note(state)
            if self._is_for_person(state):
                ends = self._work_of_person(state)
            elif self._asks_again(state):
                self._check_account(state)
                if self._press_authorize(state):
                    ends = monotonic() + self._timeouts.callback
            elif not self._advance(state):
                self._raise_for(state)
            if monotonic() >= ends:
                if self._person_ends is not None:
                    raise self._not_seen_error()
                if state.is_elsewhere:
                    raise self._elsewhere_error(state)
                raise AuthorizationTimeoutException(self._timeouts.callback)

    def _note(self, state: PageState) -> None:
        """Remember the page that was seen, and since when."""
        if (state_key := (state.kind, state.page, state.mark)) != self._seen:
            self._seen, self._seen_since = state_key, monotonic()

    def _has_settled(self) -> bool:
        return self._seen is not None and monotonic() - self._seen_since >= _SETTLE_SECONDS

    def _asks_again(self, state: PageState) -> bool:
        """Return whether the consent goes on after a press: a person has finished their part and the page asks again,
        or it asks on another page, or here with another button in place of the first.
        """
        if state.kind is not PageKind.READY or self._request.is_attended:
            return False
        if self._person_ends is not None:
            return True
        if len(self._pressed) >= _MAX_CONSENT_PAGES or (state.page, state.mark) in self._pressed:
            return False
        is_other_page = state.page not in {page for page, _ in self._pressed}
        return is_other_page or (state.is_alone and self._has_settled())

    def _advance(self, state: PageState) -> bool:
        """Press what stands before the consent, once: a banner, the account to use, a checkbox."""
        if state.kind is PageKind.BANNER:
            assert state.button is not None
            self._press(state.button)  # it may go by itself
            self._has_redirected(_POLL_SECONDS)  # until it has faded
            self._banners += 1
            if self._banners >= _MAX_BANNERS:
                self._ignored.add(PageKind.BANNER)
            return True
        if state.kind is PageKind.CHECKBOX and not self._request.is_attended:
            assert state.button is not None
            self._check_account(state)
            self._press(state.button, is_consent=True)
            self._ticked += 1
            if self._ticked >= _MAX_CHECKBOXES:
                self._ignored.add(PageKind.CHECKBOX)
            return True
        if state.kind is PageKind.CHOOSER and not self._request.is_attended:
            self._check_account(state)
            assert state.button is not None
            if self._press(state.button, is_hidden=True):
                self._ignored.add(PageKind.CHOOSER)
                self._confirm_choice()
                return True
            self._has_redirected(_RETRY_SECONDS)
        return False

    def _confirm_choice(self) -> None:
        """Press the button that confirms the choice, unless choosing was enough and the page has gone."""
        if not self._request.page.account_continue:
            return
        ends = monotonic() + self._timeouts.consent_button
        while not self._has_redirected(0):
            self._check_stop()
            state = self._read_state(FIND_CONTINUE)
            if state.kind is not PageKind.CHOOSER:
                return
            if state.button is not None and self._press(state.button):
                return
            if monotonic() >= ends:
                raise self._no_button()
            self._has_redirected(_POLL_SECONDS)

    def _is_for_person(self, state: PageState) -> bool:
        """Return whether an awaited person has something to do here; else only known pages are waited for."""
        if not self._request.awaits_person:
            return False
        if state.kind.asks_for_person or state.kind is PageKind.CHOOSER or self._mismatch(state) is not None:
            return True
        if self._person_ends is None:
            return state.kind is PageKind.HOME and not self._pressed
        return state.kind in (PageKind.HOME, PageKind.UNKNOWN, PageKind.ERROR)

    def _work_of_person(self, state: PageState) -> float:
        """Leave the page to the person for a while; until when (`monotonic`) they have time."""
        ends = self._person_ends or self._await_person()
        if monotonic() >= ends:
            raise self._not_seen_error()
        if state.kind is PageKind.HOME and self._reopened < _MAX_REOPENED:
            self._reopened += 1
            with suppress(AuthorizationTimeoutException):  # the person's own time goes on
                self._open_consent_page()  # signed in, but led away from the consent
        self._has_redirected(_PERSON_POLL)
        return ends

    def _await_person(self) -> float:
        self._person_ends = monotonic() + self._timeouts.person
        self._request.person.set()
        self._request.sink.report_stage(SessionStage.WAITING_FOR_PERSON)
        return self._person_ends

    def _check_account(self, state: PageState) -> None:
        """The only guard before the click; after it the who-am-I must agree."""
        if (mismatch := self._mismatch(state)) is not None:
            raise mismatch

    def _mismatch(self, state: PageState) -> AccountMismatchException | None:
        account_id = self._request.account_id
        if state.kind is PageKind.CHOOSER and state.button is None:
            return AccountMismatchException(account_id, self._mask(state.detail))
        if state.handle is not None and state.handle != account_id:
            return AccountMismatchException(account_id, state.handle)
        return None

    def _not_seen_error(self) -> AppException:
        """The end of a person's time: they did not come, or another account is signed in all the same."""
        mismatch = self._mismatch(self._last)
        return mismatch or PersonNotSeenException(self._request.account_id, self._timeouts.person)

    def _press_authorize(self, state: PageState) -> bool:
        """Press Authorize; return whether it was pressed. The caller retries a button that cannot be pressed now."""
        self._check_stop()
        assert state.button is not None
        if not self._press(state.button, is_consent=True):
            self._has_redirected(_RETRY_SECONDS)
            return False
        self._person_ends = None
        self._request.person.clear()
        self._pressed.append((state.page, state.mark))
        self._report(SessionStage.CONSENT_GIVEN)
        return True

    def _press(self, button: WebElement, *, is_consent: bool = False, is_hidden: bool = False) -> bool:
        """Press once, never again on a timer: the button turns into a spinner. Whether it was pressed.

        `is_consent`: only on the consent page itself; else anywhere at the provider. `is_hidden`: a choice that is
        drawn over by its label.
        """
        is_clicked = False
        try:
            url = self._driver.current_url
            if not (self._places.is_consent_page(url) if is_consent else self._places.is_of_provider(url)):
                self._reason = f"the page has changed to {self._mask(page_name(url))}"
                return False
            self._reason = "" if is_hidden else why_not_now(self._driver, button, self._rules())
            if not self._reason:
                is_clicked = True
                with self._extended_deadline(self._timeouts.page_load):
                    self._reason = click(button)
        except NoSuchWindowException:
            if self._window == self._tab:
                raise
            return is_clicked  # the window may have closed with the click: the tab tells the rest
        except UnexpectedAlertPresentException as error:
            raise self._dialog(error) from error
        return not self._reason

    def _report(self, stage: SessionStage) -> None:
        if stage is not self._stage:
            self._request.sink.report_stage(stage)
        self._stage = stage

    def _open_consent_page(self) -> None:
        self._ignored.discard(PageKind.CHOOSER)
        if self._window != self._tab:
            self._driver.switch_to.window(self._tab)
            self._window = self._tab
        seconds = min(self._timeouts.page_load, max(self._request.deadline - monotonic(), 0.1))
        self._driver.set_page_load_timeout(seconds)
        try:
            with self._extended_deadline(seconds):
                self._driver.get(self._request.authorization.url)
        except UnexpectedAlertPresentException as error:
            raise self._dialog(error) from error
        except TimeoutException as error:
            self._check_stop()  # it may have been the whole attempt's deadline
            raise AuthorizationTimeoutException(self._timeouts.page_load) from error
        # The driver does not tell of all of them.
        if (code := self._watcher.find_network_error(self._tab)) is not None:
            raise ProfileNetworkException(code)

    @contextmanager
    def _extended_deadline(self, seconds: float) -> Iterator[None]:
        """Allow more time to a command that waits for a page: the driver's deadline lies beyond the page's own."""
        usual = allow_commands(self._driver, seconds=seconds + _COMMAND_MARGIN)
        try:
            yield
        finally:
            allow_commands(self._driver, seconds=usual)

    def _read_state(self, script: str, *arguments: object) -> PageState:
        try:
            self._leave_frame()
            self._follow_windows()
            state = self._run(script, *arguments)
            if state.kind is not PageKind.FRAME:
                return state
            assert state.button is not None
            self._driver.switch_to.frame(state.button)
            self._in_frame = True
            return self._run(script, *arguments)
        except (WebDriverException, CommandTimeout) as error:
            return self._state_after_error(error)

    def _run(self, script: str, *arguments: object) -> PageState:
        run = self._driver.execute_async_script if script is WAIT_UNTIL_KNOWN else self._driver.execute_script
        result = run(script, self._rules(), *arguments)
        if isinstance(result, dict) and (match := _REFUSED_SELECTOR.search(str(result.get("error")))):
            raise ProviderRulesException(match[1])
        return PageState.from_script(result)

    def _follow_windows(self) -> None:
        """Look at the page opened last that is the provider's consent page, else at the last of the provider's.

        A window that only helps, as one about the terms, does not hide a consent page.
        """
        front = self._watcher.choose_front(self._places.is_consent_page, self._places.is_of_provider)
        if front != self._window:
            try:
                self._driver.switch_to.window(front)
            except NoSuchWindowException:
                if front == self._tab:
                    raise
                return  # it has just closed; the next look chooses again
            self._window = front

    def _leave_frame(self) -> None:
        if self._in_frame:
            self._in_frame = False  # also when the frame's window has gone
            self._driver.switch_to.default_content()

    def _rules(self) -> dict[str, object]:
        return script_rules(
            self._page,
            self._places,
            self._request.account_id,
            ignore=self._ignored,
            in_frame=self._in_frame,
        )

    def _state_after_error(self, error: WebDriverException | CommandTimeout) -> PageState:
        """A script dies when its page navigates: look again. A dead tab or browser is the end."""
        if isinstance(error, UnexpectedAlertPresentException):
            raise self._dialog(error) from error
        is_inner = self._in_frame or self._window != self._tab
        if is_inner and isinstance(error, (NoSuchWindowException, NoSuchFrameException)):
            # Frame or window have gone; without the tab the next look fails, too.
            return PageState(PageKind.UNKNOWN)
        if isinstance(error, WebDriverException) and is_dead(error):
            raise error
        if (match := _REFUSED_SELECTOR.search(str(error))) is not None:
            raise ProviderRulesException(match[1])
        return PageState(PageKind.UNKNOWN, is_hung=isinstance(error, (TimeoutException, CommandTimeout)))

    def _has_redirected(self, seconds: float) -> bool:
        if self._callback is None:
            self._callback = self._watcher.wait(seconds)
            if self._callback is not None:
                self._request.person.clear()
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
                raise ConsentPageException(self._mask(state.detail) or "no detail")

    def _elsewhere_error(self, state: PageState) -> NotConsentPageException:
        hint = "a consent button is there: add its path to `consent_paths`" if state.has_button else ""
        page = self._mask(page_name(self._driver.current_url))
        return NotConsentPageException(
            self._request.account_id, page, is_of_provider=state.is_of_provider, hint=hint
        )

    def _dialog(self, error: UnexpectedAlertPresentException) -> PageDialogException:
        return PageDialogException(self._request.account_id, self._mask(error.alert_text or ""))

    def _mask(self, text: str) -> str:
        """Return a page's text fit for an error's sentence: a page may quote the request."""
        secrets = [self._request.authorization.state.get_secret_value()]
        return mask_text(storable(text), secrets=secrets)[:_MAX_DETAIL_LENGTH]

    def _no_button(self, reason: str = "") -> ConsentButtonNotFoundException:
        return ConsentButtonNotFoundException(
            self._timeouts.consent_button, self._mask(reason or self._reason)
        )

    def _check_stop(self) -> None:
        if self._request.stop.is_set():
            raise ServiceStoppingException
        if monotonic() >= self._request.deadline:
            if self._person_ends is not None:
                raise self._not_seen_error()
            raise AuthorizationTimeoutException(self._request.timeout)


def allow_commands(driver: webdriver.Remote, *, seconds: float) -> float:
    """Set the seconds that the driver may take for a command, before `CommandTimeout`; return the former value.

    Selenium has one such deadline for all; a driver that hangs inside a page's script tells nothing by itself.
    """
    executor = driver.command_executor
    assert isinstance(executor, RemoteConnection)
    previous: float = executor.client_config.timeout
    executor.client_config.timeout = seconds
    return previous


def is_dead(error: WebDriverException) -> bool:
    """Return whether the tab, the browser or the session has gone, as against a script that failed."""
    is_closed = isinstance(error, (InvalidSessionIdException, NoSuchWindowException))
    return is_closed or any(words in str(error.msg).lower() for words in _DEATH_WORDS)


def parse_callback(url: str, authorization: AuthorizationRequest, account_id: str) -> SecretStr:
    """The code of a callback URL (RFC 6749, 4.1.2), once its `state` is seen to be ours.

    Of OAuth 1.0a the verifier (RFC 5849, 2.2), once the request token is seen to be ours.
    """
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    if authorization.request_token_secret is not None and "denied" in query:
        # X tells of a refusal as ``denied=<request token>``.
        query = {"state": query["denied"], "error": "access_denied"}
    elif authorization.request_token_secret is not None:
        words = {"oauth_token": "state", "oauth_verifier": "code"}
        query = {word: query[name] for name, word in words.items() if name in query}
    if not hmac.compare_digest(
        query.get("state", "").encode(), authorization.state.get_secret_value().encode()
    ):
        if parse_qs(urlsplit(url).fragment).keys() & {"code", "access_token", "error"}:
            raise FragmentResponseException
        raise StateMismatchException
    if authorization.issuer and query.get("iss") != authorization.issuer:
        raise IssuerMismatchException(authorization.issuer)
    if "code" not in query or "error" in query:
        raise _callback_error(query.get("error", ""), account_id)
    return SecretStr(query["code"])


def _callback_error(error: str, account_id: str) -> AppException:
    """Return the error for one of the authorization endpoint (RFC 6749, 4.1.2.1; OpenID Connect Core 1.0, 3.1.2.6)."""
    match error:
        case "access_denied":
            return ConsentDeclinedException(account_id)
        case "temporarily_unavailable" | "server_error":
            return ConsentUnavailableException(error)
        case "login_required" | "account_selection_required":
            return LoginRequiredException(account_id)
        case "interaction_required":
            return HumanCheckException(account_id)
    words = mask_text(storable(error)) or "the callback carries no code"
    return ConsentPageException(words[:_MAX_DETAIL_LENGTH])
