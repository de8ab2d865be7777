"""Plainbook, a provider unlike X: pages without scripts, a choice of accounts, a cookie banner, plain OAuth 2.0.

Its client authenticates in the body, access tokens live an hour, refresh tokens stay the same.
"""

import html
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from sandbox.faults import SPECIAL_KINDS, Call, Endpoint
from sandbox.oauth import AuthorizeRequestError, Grant, OAuthError, Ticket
from sandbox.provider_api import account_of_call, bearer_token, parse_form
from sandbox.provider_pages import SignedInDep
from sandbox.sandbox_state import SandboxState, StateDep
from sandbox.state import SESSION_COOKIE, user_id_of

MOUNTED_AT = "/plainbook"
SCOPES = ("profile", "posts", "offline")
TOKEN_SECONDS = 3600

_STYLE = (
    "body{font:16px serif;margin:3em}"
    "dialog{position:fixed;inset:0;width:100vw;height:100vh;max-width:none;max-height:none;border:0}"
)
ISSUER = "https://plainbook.example"
_BANNER = (
    '<dialog open class="cookies"><p>Cookies!</p><form method="dialog"><button>Fine</button></form></dialog>'
)
_LOGIN = '<form class="login"><input name="login"><input type="password" name="password"></form>'
_ENDPOINTS = {
    ("GET", "/authorize"): Endpoint.PLAINBOOK_AUTHORIZE,
    ("POST", "/consent"): Endpoint.PLAINBOOK_CONSENT,
    ("POST", "/token"): Endpoint.PLAINBOOK_TOKEN,
    ("POST", "/revoke"): Endpoint.PLAINBOOK_REVOKE,
    ("GET", "/me"): Endpoint.PLAINBOOK_ME,
}
_API = (Endpoint.PLAINBOOK_TOKEN, Endpoint.PLAINBOOK_REVOKE, Endpoint.PLAINBOOK_ME)


def create_plainbook(sandbox: SandboxState) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.state.sandbox = sandbox
    app.add_exception_handler(OAuthError, _show_error)
    app.get("/authorize", response_model=None)(authorize)
    app.get("/consent", response_model=None)(consent_page)
    app.post("/consent", response_model=None)(consent)
    app.get("/login", response_model=None)(login_page)
    app.post("/token")(token)
    app.post("/revoke")(revoke)
    app.get("/me")(me)
    return app


def identify(request: Request, body: bytes, sandbox: SandboxState) -> Call | None:
    """Return the endpoint of a request to the server that Plainbook is mounted on; None: not for Plainbook."""
    endpoint = _ENDPOINTS.get((request.method, request.url.path.removeprefix(MOUNTED_AT)))
    if endpoint is None or not request.url.path.startswith(MOUNTED_AT):
        return None
    if endpoint not in _API:
        return Call(endpoint, sandbox.sessions.account_of(request.cookies.get(SESSION_COOKIE)))
    return Call(endpoint, account_of_call(request, body, sandbox.plainbook))


async def authorize(request: Request, account: SignedInDep, sandbox: StateDep) -> Response:
    """Ask for the account, then for the consent; a faulty request is told in a page."""
    try:
        authorize_request = sandbox.plainbook.check_authorize(request.query_params)
    except AuthorizeRequestError as problem:
        return _page("Sorry", f'<p class="error">{html.escape(str(problem))}</p>')
    kinds = SPECIAL_KINDS[Endpoint.PLAINBOOK_AUTHORIZE].keys() - {"kill_browser"}
    fault = sandbox.faults.take(Endpoint.PLAINBOOK_AUTHORIZE, account, kinds)
    kind = fault.kind if fault else None
    if account is None or kind == "signed_out":
        return RedirectResponse(f"{MOUNTED_AT}/login", 302)
    if kind == "error_page":
        return _page("Sorry", "<p>Plainbook is having a break.</p>")
    ticket = sandbox.plainbook.open_ticket(authorize_request, signed_in=account, page_account=account)
    ticket.fault = kind
    banner = _BANNER if sandbox.settings.plainbook_banner else ""
    if not sandbox.settings.plainbook_chooser:
        return _consent_page(ticket, banner)
    return _chooser(
        ticket, _decoys(account) if kind == "not_listed" else [*_decoys(account), account], banner
    )


async def consent_page(ticket: str, account: str, signed_in: SignedInDep, sandbox: StateDep) -> Response:
    """Show the consent page for the account that was chosen."""
    form_ticket = sandbox.plainbook.ticket(ticket, signed_in)
    if account not in (form_ticket.signed_in, *_decoys(form_ticket.signed_in)):
        raise OAuthError("This account is not signed in.", status=403)
    form_ticket.page_account = account
    return _consent_page(form_ticket)


async def consent(request: Request, signed_in: SignedInDep, sandbox: StateDep) -> Response:
    """The decision, once."""
    form = parse_form(await request.body())
    form_ticket = sandbox.plainbook.ticket(form.get("ticket", ""), signed_in)
    sandbox.plainbook.use_ticket(form_ticket)
    if form.get("decision") != "allow" or form_ticket.fault == "declined":
        return RedirectResponse(_decline_url(form_ticket), 303)
    if form_ticket.fault == "callback_error":
        return RedirectResponse(_location(form_ticket, error="temporarily_unavailable"), 303)
    code = sandbox.plainbook.issue_code(form_ticket, sandbox.settings.code_seconds)
    return RedirectResponse(_location(form_ticket, code=code), 303)


async def login_page() -> Response:
    return _page("Log in", _LOGIN)


async def token(request: Request, sandbox: StateDep) -> JSONResponse:
    """RFC 6749, 4.1.3 and 6."""
    form = parse_form(await request.body())
    client_id = sandbox.plainbook.authenticate(request.headers.get("authorization"), form)
    if form.get("grant_type") == "authorization_code":
        grant = sandbox.plainbook.exchange(client_id, form, TOKEN_SECONDS)
    elif form.get("grant_type") == "refresh_token":
        grant = sandbox.plainbook.refresh(client_id, form, TOKEN_SECONDS)
    else:
        raise OAuthError("No such grant_type.", error="unsupported_grant_type")
    return JSONResponse(_token_body(grant, is_first=form["grant_type"] == "authorization_code"))


async def revoke(request: Request, sandbox: StateDep) -> JSONResponse:
    """RFC 7009."""
    form = parse_form(await request.body())
    client_id = sandbox.plainbook.authenticate(request.headers.get("authorization"), form)
    sandbox.plainbook.revoke(client_id, form.get("token", ""))
    return JSONResponse({})


async def me(request: Request, sandbox: StateDep) -> JSONResponse:
    grant = sandbox.plainbook.find_grant(bearer_token(request))
    if grant is None or not grant.may("profile"):
        return JSONResponse({"error": "invalid_token"}, 401)
    return JSONResponse({"user": {"login": grant.account, "uid": int(user_id_of(grant.account))}})


async def _show_error(request: Request, error: Exception) -> JSONResponse:
    """RFC 6749, 5.2, to the letter."""
    assert isinstance(error, OAuthError)
    name = {401: "invalid_client", 400: "invalid_grant"}.get(error.status, "access_denied")
    if error.error == "unsupported_grant_type":
        name = error.error
    return JSONResponse({"error": name, "error_description": "Plainbook refuses this."}, error.status)


def _token_body(grant: Grant, *, is_first: bool) -> dict[str, Any]:
    body = {
        "token_type": "Bearer",
        "expires_in": TOKEN_SECONDS,
        "access_token": grant.access_token,
        "scope": ",".join(grant.scope.split()),
    }
    return body | ({"refresh_token": grant.refresh_token} if is_first and grant.refresh_token else {})


def _decoys(account: str) -> list[str]:
    """Other accounts of the same browser, one of which only begins like the profile's own."""
    return [f"{account}2", "someone.else"]


def _chooser(ticket: Ticket, accounts: list[str], banner: str) -> Response:
    choices = "".join(
        f'<li><label><input type="radio" name="account" value="{html.escape(name)}"> {html.escape(name)}</label>'
        for name in accounts
    )
    return _page(
        "Choose an account",
        f'<form class="accounts" action="{MOUNTED_AT}/consent"><ul>{choices}</ul>'
        f'<input type="hidden" name="ticket" value="{ticket.id}"><button type="submit">Go on</button></form>{banner}',
    )


def _consent_page(ticket: Ticket, banner: str = "") -> Response:
    return _page(
        f"{ticket.request.app_name} wants to post for you",
        f'<p>You are <b id="signed-in">{html.escape(ticket.page_account)}</b></p>'
        f'<form class="consent" method="post" action="{MOUNTED_AT}/consent">'
        f'<input type="hidden" name="ticket" value="{ticket.id}">'
        '<button type="submit" name="decision" value="allow">Allow</button> '
        f'<a href="{html.escape(_decline_url(ticket))}">Cancel</a></form>{banner}',
    )


def _decline_url(ticket: Ticket) -> str:
    return _location(ticket, error="access_denied")


def _location(ticket: Ticket, **answer: str) -> str:
    """Return the callback's address with the issuer's name (RFC 9207)."""
    uri = ticket.request.redirect_uri
    issuer = "https://another.example" if ticket.fault == "wrong_issuer" else ISSUER
    answer |= {"state": ticket.request.state, "iss": issuer}
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode(answer)}"


def _page(title: str, body: str) -> Response:
    text = f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>{body}"
    return HTMLResponse(text, headers={"cache-control": "no-store"})
