"""The one home of faults: which exist, which are set, and the answers the general ones give.

A fault names an endpoint and a kind, and may be bound to one account and to a number of uses. What comes in
place of an answer, or before it, is applied by `sandbox.interceptor`; what changes an answer's meaning is
applied by its endpoint, which asks `FaultBook.take`.
"""

import gzip
import html
import itertools
import json
import time
from collections.abc import Collection
from enum import StrEnum
from http import HTTPStatus
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import HTMLResponse, JSONResponse, Response


class Endpoint(StrEnum):
    """Every place where a fault can be set."""

    GOLOGIN_LIST = "gologin.list"
    GOLOGIN_PROFILE = "gologin.profile"
    GOLOGIN_USER = "gologin.user"
    LOCAL_START = "local.start"
    LOCAL_STOP = "local.stop"
    ADSPOWER_STATUS = "adspower.status"
    ADSPOWER_LIST = "adspower.list"
    ADSPOWER_START = "adspower.start"
    ADSPOWER_STOP = "adspower.stop"
    AUTHORIZE = "provider.authorize"
    CONSENT_DATA = "provider.consent_data"
    CONSENT = "provider.consent"
    TOKEN = "provider.token"
    REVOKE = "provider.revoke"
    ME = "provider.me"
    OAUTH1_REQUEST_TOKEN = "provider.oauth1_request_token"
    OAUTH1_AUTHORIZE = "provider.oauth1_authorize"
    OAUTH1_CONSENT = "provider.oauth1_consent"
    OAUTH1_ACCESS_TOKEN = "provider.oauth1_access_token"
    OAUTH1_REVOKE = "provider.oauth1_revoke"
    PLAINBOOK_AUTHORIZE = "plainbook.authorize"
    PLAINBOOK_CONSENT = "plainbook.consent"
    PLAINBOOK_TOKEN = "plainbook.token"
    PLAINBOOK_REVOKE = "plainbook.revoke"
    PLAINBOOK_ME = "plainbook.me"


class Call(NamedTuple):
    """A request as faults and statistics see it."""

    endpoint: Endpoint
    account: str | None


ADSPOWER_TOO_MANY = "Too many request per second, please check"

_BOMB = gzip.compress(bytes(64 * 1024 * 1024))

GENERAL_KINDS = {
    "delay": "answer `seconds` later (default 1)",
    "hang": "never answer; ends when the client leaves or the sandbox stops",
    "hang_after": "do the work, then never answer",
    "drop": "close the connection without an answer",
    "drop_after": "do the work, then close the connection without an answer",
    "status": "answer `status` (default 500) with `body` and `headers`, or an error body of the service's own shape",
    "alter": "the real answer with the fields of `body` (null: without it), `headers` and `status` in place of its own",
    "echo": "`status` (default 400), and an error that quotes the request: its Authorization and its body",
    "html": "an HTML page with `status` (default 502)",
    "html_after": "do the work, then answer as `html` does",
    "html_1015": "Cloudflare's rate limit page: 429, text/html, `error code: 1015`",
    "truncated_json": "the real answer, cut in half",
    "gzip_bomb": "`status` (default 200) and 64 KB of gzip that unpack to 64 MB",
    "empty_body": "`status` (default 200) with nothing in it",
    "rate_limited": "429; at the provider with x-rate-limit-* headers, reset after `seconds` (60); at AdsPower 200",
}

_KILL_BROWSER = {
    "kill_browser": "SIGKILL the account's browser, after `seconds` (default 0: before the answer)"
}

_START_KINDS = {
    "no_ws_url": "200 success without an address; nothing is started",
    "start_then_kill": "the browser starts and is killed before the answer (or after `seconds`)",
    "dead_proxy": "the browser starts, behind a proxy where nobody listens",
    "odd_address": "the browser starts, and the answer names `body` as its address",
    "start_hang_running": "the browser starts, but the answer never comes",
}

SPECIAL_KINDS: dict[Endpoint, dict[str, str]] = {
    Endpoint.LOCAL_START: _START_KINDS,
    Endpoint.ADSPOWER_START: _START_KINDS,
    Endpoint.AUTHORIZE: {
        "wrong_account": "another account is signed in",
        "wrong_account_unseen": "another account is signed in, and the page does not tell which",
        "signed_out": "the page asks to log in",
        "login_form": "a log-in page that takes the password `body` and goes on to the consent",
        "signed_out_redirect": "redirect to /i/flow/login",
        "locked": "redirect to /account/access",
        "challenge": "redirect to /account/login_challenge, a form with a submit button",
        "suspended": "redirect to /account/suspended, with a button that logs out",
        "terms": "redirect to /i/terms, a form that accepts them",
        "proxy_page": "redirect to a proxy seller's page on another host, with a form that pays",
        "proxy_page_in_place": "such a page in the provider's own place",
        "human_check": "the page asks to verify you are human",
        "leaky_page": "a log-in page that writes the values of `body` to title, console and a password field",
        "endless_script": "the page's script never ends",
        "error_page": "the provider's error page, which says `body`, too",
        "button_never_enabled": "the data never arrive, the button stays disabled",
        "declined": "pressing Authorize takes the decline path",
        "wrong_state": "the redirect carries another state",
        "covered_button": "a layer lies over the button",
        "two_pages": "the consent is asked for on a second page, too",
        "smaller_scope": "granted is `scope` (default: what was asked for without offline.access)",
        "callback_hang": "the sandbox's callback page never answers",
        **_KILL_BROWSER,
    },
    Endpoint.OAUTH1_AUTHORIZE: {
        "wrong_account_unseen": "another account is signed in, which the page never tells",
        "signed_out": "the page asks to log in",
        "declined": "pressing Authorize takes the decline path",
        "wrong_token": "the redirect carries another request token",
        **_KILL_BROWSER,
    },
    Endpoint.OAUTH1_CONSENT: _KILL_BROWSER,
    Endpoint.PLAINBOOK_AUTHORIZE: {
        "signed_out": "redirect to the login page",
        "not_listed": "the account is not among those to choose from",
        "error_page": "a page that says so in its text alone",
        "declined": "pressing Allow takes the decline path",
        "callback_error": "the redirect says that the provider is temporarily unavailable",
        "wrong_issuer": "the redirect names another issuer",
        **_KILL_BROWSER,
    },
    Endpoint.CONSENT_DATA: _KILL_BROWSER,
    Endpoint.CONSENT: _KILL_BROWSER,
    Endpoint.ME: {"wrong_account": "the token is said to be another account's"},
}


class FaultSpec(BaseModel):
    """Fault to inject: `kind` at `endpoint`, for one account or all, `times` times or for ever."""

    model_config = ConfigDict(extra="forbid")

    endpoint: Endpoint
    kind: str
    account: str | None = Field(default=None, description="only for this account; None: for all")
    times: int | None = Field(default=None, ge=1, description="how often; None: until cleared")
    seconds: float | None = Field(default=None, ge=0, le=3600)
    status: int | None = Field(default=None, ge=200, le=599)
    body: str | dict[str, Any] | None = None
    headers: dict[str, str] | None = None
    scope: str | None = None

    @model_validator(mode="after")
    def _kind_must_exist_here(self) -> Self:
        kinds = sorted(GENERAL_KINDS.keys() | SPECIAL_KINDS.get(self.endpoint, {}).keys())
        if self.kind not in kinds:
            raise ValueError(f"{self.endpoint} has no fault kind {self.kind!r}; it has {', '.join(kinds)}")
        return self


class Fault(FaultSpec):
    """A fault that is set; `times` counts down to its end."""

    id: int


class FaultBook:
    """The faults that are set, oldest first: of two that match, the older one acts."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._ids = itertools.count(1)

    def add(self, spec: FaultSpec) -> Fault:
        fault = Fault(id=next(self._ids), **spec.model_dump())
        self._faults.append(fault)
        return fault

    def all(self) -> list[Fault]:
        return list(self._faults)

    def clear(self, account: str | None = None) -> int:
        """Removes the faults bound to `account`, or all; tells how many."""
        remaining = [fault for fault in self._faults if account is not None and fault.account != account]
        removed = len(self._faults) - len(remaining)
        self._faults = remaining
        return removed

    def take(self, endpoint: Endpoint, account: str | None, kinds: Collection[str]) -> Fault | None:
        """The first matching fault, with one of its uses spent."""
        for fault in self._faults:
            if fault.endpoint == endpoint and fault.kind in kinds and fault.account in (None, account):
                self._spend(fault)
                return fault
        return None

    def _spend(self, fault: Fault) -> None:
        if fault.times is not None:
            fault.times -= 1
            if fault.times == 0:
                self._faults.remove(fault)


def canned_response(fault: Fault) -> Response:
    """The answer of a general kind that needs nothing but the fault itself."""
    match fault.kind:
        case "status":
            response = _with_body(fault, fault.status or 500)
            response.headers.update(fault.headers or {})
            return response
        case "html" | "html_after":
            return HTMLResponse(
                "<!doctype html><title>Error</title><h1>Bad gateway</h1>", fault.status or 502
            )
        case "html_1015":
            return HTMLResponse("error code: 1015", HTTPStatus.TOO_MANY_REQUESTS)
        case "gzip_bomb":
            return Response(_BOMB, fault.status or 200, headers={"Content-Encoding": "gzip"})
        case "empty_body":
            return Response(status_code=fault.status or 200)
        case "rate_limited":
            return _rate_limited(fault)
    raise AssertionError(f"{fault.kind} has no canned response")


def echo_response(fault: Fault, quoted: str) -> Response:
    """Every service finds its own name of the error's text."""
    names = ("message", "error_description", "detail", "msg")
    return JSONResponse({"code": -1, **dict.fromkeys(names, quoted)}, fault.status or 400)


def _with_body(fault: Fault, status: int) -> Response:
    if isinstance(fault.body, dict):
        return JSONResponse(fault.body, status)
    if fault.body is not None:
        return Response(fault.body, status, media_type=_media_type(fault.body))
    if fault.endpoint in (Endpoint.LOCAL_START, Endpoint.LOCAL_STOP):
        return Response(_phrase(status), status, media_type="text/plain")
    return JSONResponse(_error_body(fault.endpoint, status), status)


def _error_body(endpoint: Endpoint, status: int) -> dict[str, Any]:
    if endpoint.startswith("adspower."):
        return {"code": -1, "msg": _phrase(status)}
    if endpoint.startswith("gologin."):
        return {"statusCode": status, "error": _phrase(status), "message": _phrase(status)}
    if endpoint in (Endpoint.TOKEN, Endpoint.REVOKE) and status < 500:
        return {"error": "invalid_request", "error_description": "Value passed for the token was invalid."}
    return {"title": _phrase(status), "type": "about:blank", "status": status, "detail": _phrase(status)}


def _rate_limited(fault: Fault) -> Response:
    if fault.endpoint.startswith("adspower."):
        return JSONResponse({"code": -1, "msg": ADSPOWER_TOO_MANY})
    response = _with_body(fault, 429)
    if fault.endpoint.startswith("provider."):
        wait = 60 if fault.seconds is None else fault.seconds
        response.headers["x-rate-limit-limit"] = "75"
        response.headers["x-rate-limit-remaining"] = "0"
        response.headers["x-rate-limit-reset"] = str(int(time.time() + wait))
    return response


def _media_type(body: str) -> str:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return "text/html" if html.escape(body) != body else "text/plain"
    return "application/json"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
