"""Stand-in for the provider's web site (https://x.com): consent page, what may replace it, callbacks."""

import hashlib
import html
import json
import random
from dataclasses import asdict
from functools import cache
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Cookie, Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from pydantic import BaseModel

from app.utils.tasks import wait_for_event
from sandbox import provider_api
from sandbox.faults import SPECIAL_KINDS, Call, Endpoint, Fault
from sandbox.interceptor import until_gone
from sandbox.oauth import AuthorizeRequest, AuthorizeRequestError, OAuthError, Ticket
from sandbox.sandbox_state import SandboxState, StateDep
from sandbox.state import SESSION_COOKIE

PAGES = Path(__file__).parent / "pages"
CALLBACK = "/callback"
HANGING_CALLBACK = "/callback/hang"

_ERROR_TITLE = "Something went wrong"
_ERROR_TEST_ID = 'data-testid="OAuth_Consent_Error_Detail"'
_ERROR_TEXT = "You weren't able to give access to the App. Go back and try logging in again."
_LOG_IN_FORM = "/i/flow/log-in-form"
_CONSENT_API = "/i/api/2/oauth2/consent"
_PAGE_FAULTS = SPECIAL_KINDS[Endpoint.AUTHORIZE].keys() - {"callback_hang", "kill_browser"}
_REDIRECTS = {
    "signed_out_redirect": "/i/flow/login",
    "locked": "/account/access",
    "challenge": "/account/login_challenge",
    "suspended": "/account/suspended",
    "terms": "/i/terms",
}
_SECOND_PAGE = "second_page"
_PROXY_PAGE = "/proxy/plan"
PRESSED_BY_MISTAKE = "/pressed"
"""Target of the forms of pages that are no consent: nobody may ever ask for it."""
_SUBMIT = (
    '<form method="post" action="${to}"><input name="answer"><input type="submit" value="${label}"></form>'
)
_FORMS = {
    "/account/login_challenge": ("Confirm it's you", "Enter your phone number to go on.", "Submit"),
    "/account/suspended": ("Your account is suspended", "It broke the rules.", "Log out"),
    "/i/terms": ("We've updated our terms", "Accept them to go on.", "Accept"),
    _PROXY_PAGE: ("Your plan is used up", "Buy more traffic.", "Renew now"),
}

_SCOPE_TEXTS = {
    "tweet.read": "All the posts you can view, including posts from protected accounts.",
    "users.read": "Any account you can view, including protected accounts.",
    "offline.access": "Stay connected to your account until you revoke access.",
}

router = APIRouter()


async def _signed_in(
    sandbox: StateDep, cookie: Annotated[str | None, Cookie(alias=SESSION_COOKIE)] = None
) -> str | None:
    return sandbox.sessions.account_of(cookie)


SignedInDep = Annotated[str | None, Depends(_signed_in)]


class Decision(BaseModel):
    """Body that the consent page's script posts after a click."""

    ticket: str
    decision: Literal["authorize", "decline"]


@router.get("/i/oauth2/authorize", response_model=None)
async def authorize(request: Request, account: SignedInDep, sandbox: StateDep) -> Response:
    """The consent page's empty shell, or what stands in its way; errors are 200 too, as in X's own SPA."""
    try:
        authorize_request = sandbox.oauth.check_authorize(request.query_params)
    except AuthorizeRequestError as problem:
        return _error_page(f"({problem})")
    if account is None:
        return _log_in_page()
    faults = _PAGE_FAULTS - ({"two_pages"} if _SECOND_PAGE in request.query_params else set())
    fault = sandbox.faults.take(Endpoint.AUTHORIZE, account, faults)
    return _page_instead(fault, request) or _consent_page(authorize_request, account, fault, sandbox)


@router.get(_CONSENT_API)
async def consent_data(ticket: str, account: SignedInDep, sandbox: StateDep) -> dict[str, Any]:
    """Return the data of the consent page: the account that is signed in, the app, the scopes."""
    page_ticket = sandbox.oauth.ticket(ticket, account)
    shortest, longest = sandbox.settings.consent_delay_ms
    await wait_for_event(sandbox.stopping, random.uniform(shortest, longest) / 1000)
    return {
        "ready": page_ticket.fault != "button_never_enabled",
        "covered": page_ticket.fault == "covered_button",
        "app": page_ticket.request.app_name,
        "handle": None if page_ticket.fault == "wrong_account_unseen" else page_ticket.page_account,
        "name": provider_api.display_name(page_ticket.page_account),
        "permissions": [_SCOPE_TEXTS.get(scope, scope) for scope in page_ticket.request.scope.split()],
    }


@router.post(_CONSENT_API)
async def consent(body: Decision, account: SignedInDep, sandbox: StateDep) -> dict[str, str]:
    """Takes the decision, once, and tells the page where to go."""
    ticket = sandbox.oauth.ticket(body.ticket, account)
    sandbox.oauth.use_ticket(ticket)
    if ticket.fault == "two_pages":
        query = asdict(ticket.request) | {
            "response_type": "code",
            "code_challenge_method": "S256",
            _SECOND_PAGE: 1,
        }
        return {"location": f"/i/oauth2/authorize?{urlencode(query)}"}
    state = ticket.request.state
    if body.decision == "decline" or ticket.fault == "declined":
        return {"location": _location(ticket, {"error": "access_denied", "state": state})}
    if ticket.fault == "wrong_state":
        state = f"{state[::-1]}x"
    code = sandbox.oauth.issue_code(ticket, sandbox.settings.code_seconds)
    return {"location": _location(ticket, {"state": state, "code": code})}


@router.get(CALLBACK)
async def callback(request: Request, account: SignedInDep, sandbox: StateDep) -> Response:
    """End of AIOTT2's redirect; never answers while the account has the fault `callback_hang`."""
    if sandbox.faults.take(Endpoint.AUTHORIZE, account, {"callback_hang"}):
        await until_gone(request.receive, sandbox.stopping)
    return _notice("You're connected", "You can close this page and go back to the app.")


@router.get(HANGING_CALLBACK)
async def hanging_callback(request: Request, sandbox: StateDep) -> Response:
    """End of AIOTT3's redirect: accepted, never answered."""
    await until_gone(request.receive, sandbox.stopping)
    return Response(status_code=503)


@router.get("/i/flow/login")
async def login_page() -> Response:
    return _log_in_page()


@router.post(_LOG_IN_FORM)
async def log_in(request: Request) -> Response:
    """Take a form of `_log_in_form`: the right password leads on to the consent page."""
    fields = dict(parse_qsl((await request.body()).decode()))
    is_right = _digest(fields.get("password", "")) == fields.get("expected")
    to = fields.get("to", "")
    if not (is_right and fields.get("user") and to.startswith("/i/oauth2/authorize?")):
        return _notice("Log in", "The user name or the password is wrong.")
    return RedirectResponse(to, 303)


@router.get("/account/access")
async def locked_page() -> Response:
    return _notice("Your account has been locked", "Pass a challenge to unlock your account and go on.")


@router.get("/account/login_challenge")
@router.get("/account/suspended")
@router.get("/i/terms")
@router.get(_PROXY_PAGE)
async def page_with_a_form(request: Request) -> Response:
    """A page that is no consent, with a button that must not be pressed."""
    return _form_page(request.url.path)


@router.get("/assets/{name}")
async def asset(name: Literal["consent.js", "style.css"]) -> FileResponse:
    return FileResponse(PAGES / name)


def create_provider(sandbox: SandboxState) -> FastAPI:
    """The web site and the API on one server; the real one has a host for each."""
    app = FastAPI(openapi_url=None)
    app.state.sandbox = sandbox
    app.include_router(router)
    app.include_router(provider_api.router)
    app.add_exception_handler(OAuthError, provider_api.show_oauth_error)
    return app


def identify(request: Request, body: bytes, sandbox: SandboxState) -> Call | None:
    """Endpoint and account: the latter from the cookie on pages, from the token or code in API calls."""
    endpoint = _ENDPOINTS.get((request.method, request.url.path))
    if endpoint is None:
        return None
    if endpoint in (Endpoint.TOKEN, Endpoint.REVOKE, Endpoint.ME):
        return Call(endpoint, provider_api.account_of_call(request, body, sandbox.oauth))
    return Call(endpoint, sandbox.sessions.account_of(request.cookies.get(SESSION_COOKIE)))


_ENDPOINTS = {
    ("GET", "/i/oauth2/authorize"): Endpoint.AUTHORIZE,
    ("GET", _CONSENT_API): Endpoint.CONSENT_DATA,
    ("POST", _CONSENT_API): Endpoint.CONSENT,
    ("POST", "/2/oauth2/token"): Endpoint.TOKEN,
    ("POST", "/2/oauth2/revoke"): Endpoint.REVOKE,
    ("GET", "/2/users/me"): Endpoint.ME,
}


def _page_instead(fault: Fault | None, request: Request) -> Response | None:
    """Return the page that a fault shows in place of the consent page; None if it changes only what happens there."""
    if fault is None:
        return None
    if fault.kind in _REDIRECTS:
        return RedirectResponse(_REDIRECTS[fault.kind], 302)
    if fault.kind == "proxy_page":
        other_host = "localhost" if request.url.hostname == "127.0.0.1" else "127.0.0.1"
        return RedirectResponse(
            str(request.url.replace(hostname=other_host, path=_PROXY_PAGE, query="")), 302
        )
    pages = {
        "proxy_page_in_place": _form_page(_PROXY_PAGE),
        "signed_out": _log_in_page(),
        "login_form": _log_in_form(str(fault.body), f"{request.url.path}?{request.url.query}"),
        "human_check": _notice("One more step", "Before you go on, verify you are human."),
        "error_page": _error_page(str(fault.body or "")),
        "leaky_page": _html("leaky.html", values=json.dumps(fault.body)),
        "endless_script": _notice("Endless", "Wait.", action="<script>for (;;);</script>"),
    }
    return pages.get(fault.kind)


def _consent_page(
    authorize_request: AuthorizeRequest, account: str, fault: Fault | None, sandbox: SandboxState
) -> Response:
    kind = fault.kind if fault else None
    is_wrong = kind in ("wrong_account", "wrong_account_unseen")
    page_account = sandbox.profiles.other_account(account) if is_wrong else account
    ticket = sandbox.oauth.open_ticket(authorize_request, signed_in=account, page_account=page_account)
    ticket.fault = kind
    if fault is not None and kind == "smaller_scope":
        ticket.granted_scope = fault.scope or _remove_offline_access(authorize_request.scope)
    return _html("consent.html", ticket=ticket.id, api=_CONSENT_API)


def _remove_offline_access(scope: str) -> str:
    return " ".join(word for word in scope.split() if word != "offline.access")


def _location(ticket: Ticket, answer: dict[str, str]) -> str:
    uri = ticket.request.redirect_uri
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode(answer)}"


def _form_page(path: str) -> Response:
    title, text, label = _FORMS[path]
    return _notice(title, text, action=Template(_SUBMIT).substitute(to=PRESSED_BY_MISTAKE, label=label))


def _log_in_page() -> Response:
    button = '<button class="primary" data-testid="OAuth_Consent_Log_In_Button">Log in</button>'
    return _notice("Log in", "Log in to give an app access to your account.", action=button)


def _log_in_form(password: str, to: str) -> Response:
    """A page with fields for a user name and a password; `to`: the path to which the right password leads."""
    fields = "".join(
        f'<input type="hidden" name="{name}" value="{html.escape(value)}">'
        for name, value in {"to": to, "expected": _digest(password)}.items()
    )
    form = (
        f'<form method="post" action="{_LOG_IN_FORM}" autocomplete="off">{fields}'
        '<p><input name="user" aria-label="User name"></p>'
        '<p><input name="password" type="password" aria-label="Password"></p>'
        '<button class="primary" data-testid="OAuth_Consent_Log_In_Button">Log in</button></form>'
    )
    return _notice("Log in", "Log in to give an app access to your account.", action=form)


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _error_page(detail: str = "") -> Response:
    return _notice(_ERROR_TITLE, f"{_ERROR_TEXT} {detail}".strip(), attribute=_ERROR_TEST_ID)


def _notice(title: str, text: str, *, attribute: str = "", action: str = "") -> Response:
    """A heading, a sentence (its element with a further `attribute`) and perhaps an `action`: a button."""
    return _html("notice.html", title=title, text=html.escape(text), attribute=attribute, action=action)


def _html(page: str, **values: str) -> Response:
    return HTMLResponse(_template(page).substitute(values), headers={"cache-control": "no-store"})


@cache
def _template(page: str) -> Template:
    return Template((PAGES / page).read_text(encoding="utf-8"))
