"""Stand-in for the provider's OAuth 1.0a: the signed endpoints, and a consent page that is a plain form."""

import html
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse

from sandbox.faults import SPECIAL_KINDS, Call, Endpoint
from sandbox.oauth1 import OAuth1Error, RequestToken, SignedCall
from sandbox.provider_api import FormDep, is_signed, signed_call
from sandbox.provider_pages import SignedInDep
from sandbox.sandbox_state import SandboxState, StateDep
from sandbox.state import SESSION_COOKIE, user_id_of

_AUTHORIZE: Final = "/oauth/authorize"
_PAGES: Final = {
    ("GET", _AUTHORIZE): Endpoint.OAUTH1_AUTHORIZE,
    ("POST", _AUTHORIZE): Endpoint.OAUTH1_CONSENT,
}
_SIGNED: Final = {
    ("POST", "/oauth/request_token"): Endpoint.OAUTH1_REQUEST_TOKEN,
    ("POST", "/oauth/access_token"): Endpoint.OAUTH1_ACCESS_TOKEN,
    ("POST", "/1.1/oauth/invalidate_token"): Endpoint.OAUTH1_REVOKE,
    ("GET", "/2/users/me"): Endpoint.ME,
}
_PAGE_FAULTS: Final = SPECIAL_KINDS[Endpoint.OAUTH1_AUTHORIZE].keys() - {"kill_browser"}
_LOGIN: Final = (
    '<form id="oauth_form"><input id="username_or_email"><input id="password" type="password">'
    '<input type="submit" id="allow" value="Authorize app"></form>'
)

router = APIRouter()

SignedDep = Annotated[SignedCall, Depends(signed_call)]


@router.post("/oauth/request_token")
async def request_token(call: SignedDep, sandbox: StateDep) -> PlainTextResponse:
    token = sandbox.oauth1.request_token(call)
    return _form(oauth_token=token.token, oauth_token_secret=token.secret, oauth_callback_confirmed="true")


@router.post("/oauth/access_token")
async def access_token(call: SignedDep, sandbox: StateDep) -> PlainTextResponse:
    token = sandbox.oauth1.access_token(call)
    user = {"user_id": user_id_of(token.account), "screen_name": token.account}
    return _form(oauth_token=token.token, oauth_token_secret=token.secret, **user)


@router.post("/1.1/oauth/invalidate_token")
async def invalidate_token(call: SignedDep, sandbox: StateDep) -> dict[str, str]:
    token = sandbox.oauth1.access(call)
    token.alive = False
    return {"access_token": token.token}


@router.get(_AUTHORIZE, response_model=None)
async def authorize(account: SignedInDep, sandbox: StateDep, oauth_token: str = "") -> Response:
    """The consent page, which does not tell who is signed in; one who is not is asked to by the same button."""
    fault = sandbox.faults.take(Endpoint.OAUTH1_AUTHORIZE, account, _PAGE_FAULTS)
    kind = fault.kind if fault else None
    if account is None or kind == "signed_out":
        return _page("Authorize an app to access your account?", _LOGIN)
    page_account = sandbox.profiles.other_account(account) if kind == "wrong_account_unseen" else account
    pending = sandbox.oauth1.show(oauth_token, signed_in=account, page_account=page_account)
    if pending is None:
        return _page("Whoa there!", "<p>There is no request token for this page.</p>")
    pending.fault = kind
    return _consent_page(pending)


@router.post(_AUTHORIZE, response_model=None)
async def consent(form: FormDep, account: SignedInDep, sandbox: StateDep) -> Response:
    """The decision, once."""
    pending = sandbox.oauth1.answer(form.get("oauth_token", ""), form.get("authenticity_token", ""), account)
    if "cancel" in form or pending.fault == "declined":
        return _redirect(pending, denied=pending.token)
    token = pending.token[::-1] if pending.fault == "wrong_token" else pending.token
    return _redirect(pending, oauth_token=token, oauth_verifier=sandbox.oauth1.grant(pending))


def add_oauth1(app: FastAPI) -> None:
    """Add the routes of OAuth 1.0a to the provider's server."""
    app.include_router(router)
    app.add_exception_handler(OAuth1Error, _show_error)


def identify(request: Request, _body: bytes, sandbox: SandboxState) -> Call | None:
    """The account: of pages from the cookie, of signed calls from the token; None: no call of OAuth 1.0a."""
    route = (request.method, request.url.path)
    if (page := _PAGES.get(route)) is not None:
        return Call(page, sandbox.sessions.account_of(request.cookies.get(SESSION_COOKIE)))
    endpoint = _SIGNED.get(route)
    if endpoint is None or (endpoint is Endpoint.ME and not is_signed(request)):
        return None
    return Call(endpoint, _account_of(request, sandbox))


def _account_of(request: Request, sandbox: SandboxState) -> str | None:
    try:
        return sandbox.oauth1.account_of(signed_call(request).token)
    except OAuth1Error:
        return None


async def _show_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OAuth1Error)
    return JSONResponse({"errors": [{"code": error.code, "message": error.message}]}, error.status)


def _form(**values: str) -> PlainTextResponse:
    return PlainTextResponse(urlencode(values), headers={"cache-control": "no-store"})


def _redirect(pending: RequestToken, **answer: str) -> RedirectResponse:
    separator = "&" if "?" in pending.callback else "?"
    return RedirectResponse(f"{pending.callback}{separator}{urlencode(answer)}", 303)


def _consent_page(pending: RequestToken) -> HTMLResponse:
    return _page(
        f"Authorize {pending.app_name} to access your account?",
        f'<form id="oauth_form" method="post" action="{_AUTHORIZE}">'
        f'<input type="hidden" name="authenticity_token" value="{pending.form_token}">'
        f'<input type="hidden" name="oauth_token" value="{html.escape(pending.token)}">'
        '<input type="submit" id="allow" value="Authorize app">'
        '<input type="submit" id="cancel" name="cancel" value="Cancel"></form>',
    )


def _page(title: str, body: str) -> HTMLResponse:
    text = f"<!doctype html><meta charset=utf-8><title>{title}</title><h1>{title}</h1>{body}"
    return HTMLResponse(text, headers={"cache-control": "no-store"})
