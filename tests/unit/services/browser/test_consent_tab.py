"""What a callback URL means, and which Selenium errors are the end."""

import hmac
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from selenium.common.exceptions import (
    InvalidSessionIdException,
    JavascriptException,
    NoSuchWindowException,
    WebDriverException,
)

from app.services.browser.consent_tab import ConsentTab, is_dead, parse_callback
from app.services.interfaces import BrowserTimeouts, ConsentRequest, RunningBrowser
from app.services.oauth.provider import ConsentPageRules
from app.utils.exceptions import (
    AppException,
    ConsentDeclinedException,
    ConsentPageException,
    ConsentUnavailableException,
    FailureKind,
    HumanCheckException,
    IssuerMismatchException,
    LoginRequiredException,
    StateMismatchException,
)
from tests.fixtures.factories import new_authorization


def parse(**query: str) -> str:
    url = f"http://127.0.0.1:1/callback?{urlencode(query)}"
    return parse_callback(url, new_authorization(), "alice").get_secret_value()


@pytest.mark.parametrize(
    ("error", "expected", "kind"),
    [
        ("temporarily_unavailable", ConsentUnavailableException, FailureKind.TRANSIENT),
        ("server_error", ConsentUnavailableException, FailureKind.TRANSIENT),
        ("access_denied", ConsentDeclinedException, FailureKind.ACCOUNT),
        ("login_required", LoginRequiredException, FailureKind.ACCOUNT),
        ("account_selection_required", LoginRequiredException, FailureKind.ACCOUNT),
        ("interaction_required", HumanCheckException, FailureKind.ACCOUNT),
        ("invalid_scope", ConsentPageException, FailureKind.APP),
        ("unauthorized_client", ConsentPageException, FailureKind.APP),
        ("", ConsentPageException, FailureKind.APP),
    ],
)
def test_an_error_of_the_callback_is_the_providers_the_accounts_or_the_apps(
    error: str, expected: type[AppException], kind: FailureKind
):
    with pytest.raises(expected) as caught:
        parse(state="the-state", error=error)
    assert caught.value.kind is kind


@pytest.mark.parametrize("query", [{"iss": "https://evil.example"}, {"iss": "https://id.example/"}, {}])
def test_a_callback_of_another_issuer_is_refused(query: dict[str, str]):
    known = replace(new_authorization(), issuer="https://id.example")
    url = f"http://h/?{urlencode({'state': 'the-state', 'code': 'c', **query})}"
    with pytest.raises(IssuerMismatchException, match=r"https://id\.example"):
        parse_callback(url, known, "alice")


def test_the_issuer_is_looked_at_only_where_it_is_known():
    known = replace(new_authorization(), issuer="https://id.example")
    url = f"http://h/?{urlencode({'state': 'the-state', 'code': 'c', 'iss': 'https://id.example'})}"
    assert parse_callback(url, known, "alice").get_secret_value() == "c"
    assert parse_callback(url, new_authorization(), "alice").get_secret_value() == "c"


def test_the_code_is_taken():
    assert parse(state="the-state", code="a code+with/signs") == "a code+with/signs"


@pytest.mark.parametrize(
    "query",
    [
        {"code": "c"},
        {"state": "", "code": "c"},
        {"state": "the-stat", "code": "c"},
        {"state": "the-state ", "code": "c"},
        {"state": "THE-STATE", "code": "c"},
        {"state": "ü", "code": "c"},
        {"error": "access_denied"},
    ],
)
def test_a_callback_with_another_state_is_refused_whatever_it_says(query: dict[str, str]):
    with pytest.raises(StateMismatchException):
        parse(**query)


@given(st.text().filter(lambda text: text != "the-state"))
def test_other_state_is_refused(state: str):
    try:
        query = urlencode({"state": state, "code": "c"})
    except UnicodeEncodeError:
        return
    with pytest.raises(StateMismatchException):
        parse_callback(f"http://h/?{query}", new_authorization(), "alice")


def test_the_state_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    compared: list[tuple[Any, Any]] = []
    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *pair: compared.append(pair) or original(*pair))
    parse(state="the-state", code="c")
    assert compared == [(b"the-state", b"the-state")]


def test_declined_consent_is_recognised():
    with pytest.raises(ConsentDeclinedException, match="@alice"):
        parse(state="the-state", error="access_denied")


def test_an_error_of_the_provider_is_named():
    with pytest.raises(ConsentPageException, match="invalid_scope"):
        parse(state="the-state", error="invalid_scope")


@pytest.mark.parametrize("query", [{}, {"code": ""}])
def test_callback_without_a_code_is_refused(query: dict[str, str]):
    with pytest.raises(ConsentPageException, match="no code"):
        parse(state="the-state", **query)


def test_cut_message_holds_no_part_of_a_secret():
    with pytest.raises(ConsentPageException) as refused:
        parse(state="the-state", error="x" * 290 + " 0a1b2c3d4e5f6071829304a5b6c7")
    assert "0a1b" not in refused.value.message


def parse_oauth1(**query: str) -> str:
    authorization = new_authorization(request_token_secret=SecretStr("its-secret"), code_verifier=None)
    return parse_callback(f"http://h/?{urlencode(query)}", authorization, "alice").get_secret_value()


def test_oauth1s_verifier_is_taken():
    assert parse_oauth1(oauth_token="the-state", oauth_verifier="v+/") == "v+/"


@pytest.mark.parametrize(
    ("query", "ours"),
    [
        ({"oauth_token": "other", "oauth_verifier": "v"}, StateMismatchException),
        ({"oauth_verifier": "v"}, StateMismatchException),
        ({"state": "the-state", "code": "c"}, StateMismatchException),
        ({"denied": "other"}, StateMismatchException),
        ({"denied": "other", "oauth_token": "the-state", "oauth_verifier": "v"}, StateMismatchException),
        ({"denied": "the-state"}, ConsentDeclinedException),
        ({"oauth_token": "the-state"}, ConsentPageException),
    ],
    ids=str,
)
def test_oauth1_callback_without_a_verifier_is_an_error(query: dict[str, str], ours: type[Exception]):
    with pytest.raises(ours):
        parse_oauth1(**query)


@pytest.mark.parametrize(
    ("error", "dead"),
    [
        (InvalidSessionIdException("x"), True),
        (NoSuchWindowException("x"), True),
        (WebDriverException("tab crashed"), True),
        (WebDriverException("disconnected: not connected to DevTools"), True),
        (WebDriverException("chrome not reachable"), True),
        (JavascriptException("javascript error: document unloaded while waiting for result"), False),
        (WebDriverException(None), False),
    ],
)
def test_errors_of_a_dead_browser_are_recognised(error: WebDriverException, dead: bool):
    assert is_dead(error) is dead


class ClosedWindow:
    """A driver whose window has closed itself."""

    @property
    def current_url(self) -> str:
        raise NoSuchWindowException


def test_a_button_whose_window_has_closed_before_the_click_was_not_pressed():
    request = ConsentRequest(
        browser=RunningBrowser(profile_id="p", address="127.0.0.1:1", ws_url="ws://127.0.0.1:1/x", major=1),
        driver_url="http://127.0.0.1:1",
        account_id="alice",
        authorization=new_authorization(),
        page=ConsentPageRules(consent_buttons=("button",)),
        sink=SimpleNamespace(report_stage=print),
        timeouts=BrowserTimeouts(attach=1, page_load=1, consent_button=1, callback=1, person=1),
    )
    watcher: Any = SimpleNamespace(target_id="tab")
    driver: Any = ClosedWindow()
    tab = ConsentTab(driver=driver, watcher=watcher, request=request)
    tab._window = "window"
    button: Any = None
    assert not tab._press(button, is_consent=True)
    tab._window = "tab"
    with pytest.raises(NoSuchWindowException):
        tab._press(button, is_consent=True)
