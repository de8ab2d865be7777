"""Stand-in for the provider's API (https://api.x.com): token, revoke and who-am-I."""

from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from sandbox.faults import Endpoint
from sandbox.oauth import Grant, OAuthError, OAuthState
from sandbox.oauth1 import OAuth1Error, SignedCall
from sandbox.sandbox_state import SandboxState, StateDep
from sandbox.state import user_id_of
from sandbox.traffic import RateWindow

router = APIRouter()

_NO_CACHE = {"cache-control": "no-store"}
_TOO_MANY = {
    "title": "Too Many Requests",
    "type": "about:blank",
    "status": 429,
    "detail": "Too Many Requests",
}


async def _form(request: Request) -> dict[str, str]:
    return parse_form(await request.body())


FormDep = Annotated[dict[str, str], Depends(_form)]


@router.post("/2/oauth2/token")
async def token(request: Request, form: FormDep, sandbox: StateDep) -> JSONResponse:
    """RFC 6749 sections 4.1.3 and 6, with PKCE (RFC 7636) and rotating refresh tokens."""
    client_id = sandbox.oauth.authenticate(request.headers.get("authorization"), form)
    window = _rate_window(sandbox, client_id)
    rate_headers = window.headers if window else {}
    if window and window.calls > window.limit:
        return JSONResponse(_TOO_MANY, 429, headers=rate_headers)
    _require(form, "grant_type")
    lifetime = sandbox.settings.access_token_seconds
    if form["grant_type"] == "authorization_code":
        _require(form, "code", "redirect_uri", "code_verifier")
        grant = sandbox.oauth.exchange(client_id, form, lifetime)
    elif form["grant_type"] == "refresh_token":
        _require(form, "refresh_token")
        grant = sandbox.oauth.refresh(client_id, form, lifetime)
        sandbox.traffic.refreshes[grant.account] += 1
    else:
        raise OAuthError("Value passed for the grant_type was invalid.", error="unsupported_grant_type")
    return JSONResponse(_token_body(grant, lifetime), headers=_NO_CACHE | rate_headers)


@router.post("/2/oauth2/revoke")
async def revoke(request: Request, form: FormDep, sandbox: StateDep) -> JSONResponse:
    """RFC 7009."""
    client_id = sandbox.oauth.authenticate(request.headers.get("authorization"), form)
    _require(form, "token")
    sandbox.oauth.revoke(client_id, form["token"])
    return JSONResponse({"revoked": True})


@router.get("/2/users/me")
async def users_me(request: Request, sandbox: StateDep) -> JSONResponse:
    """The account behind an access token that may read tweets and users, or that signs by OAuth 1.0a."""
    account = _signer(request, sandbox) if is_signed(request) else _bearer(request, sandbox)
    if account is None:
        problem = {"title": "Unauthorized", "type": "about:blank", "status": 401, "detail": "Unauthorized"}
        return JSONResponse(problem, 401)
    if sandbox.faults.take(Endpoint.ME, account, {"wrong_account"}):
        account = sandbox.profiles.other_account(account)
    return JSONResponse(
        {"data": {"id": user_id_of(account), "name": display_name(account), "username": account}}
    )


async def show_oauth_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OAuthError)
    return JSONResponse({"error": error.error, "error_description": error.description}, error.status)


def account_of_call(request: Request, body: bytes, oauth: OAuthState) -> str | None:
    """The account an API call is about, from the code or token in it."""
    form = parse_form(body)
    secrets = [bearer_token(request), *(form.get(name, "") for name in ("code", "refresh_token", "token"))]
    return next(filter(None, map(oauth.account_of, secrets)), None)


def parse_form(body: bytes) -> dict[str, str]:
    """An `application/x-www-form-urlencoded` body; of a repeated name the last value counts."""
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))


def bearer_token(request: Request) -> str:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value if scheme.lower() == "bearer" else ""


def is_signed(request: Request) -> bool:
    """Return whether a request is signed by OAuth 1.0a, rightly or not."""
    return request.headers.get("authorization", "").lower().startswith("oauth ")


def signed_call(request: Request) -> SignedCall:
    """Check the signature of a call without a body. Raises `OAuth1Error`."""
    authorization = request.headers.get("authorization", "")
    return SignedCall(request.method, str(request.url), authorization=authorization)


def display_name(account: str) -> str:
    return account.replace("_", " ").title()


def _bearer(request: Request, sandbox: SandboxState) -> str | None:
    grant = sandbox.oauth.find_grant(bearer_token(request))
    return grant.account if grant is not None and grant.may("users.read", "tweet.read") else None


def _signer(request: Request, sandbox: SandboxState) -> str | None:
    try:
        return sandbox.oauth1.access(signed_call(request)).account
    except OAuth1Error:
        return None


def _rate_window(sandbox: SandboxState, client_id: str) -> RateWindow | None:
    name = next(name for name, app in sandbox.info.apps.items() if app.client_id == client_id)
    limit = sandbox.settings.token_rate_limits.get(name)
    if limit is None:
        return None
    return sandbox.traffic.token_windows.count(name, limit, sandbox.settings.token_rate_window)


def _require(form: dict[str, str], *names: str) -> None:
    for name in names:
        if not form.get(name):
            raise OAuthError(f"Missing required parameter [{name}].")


def _token_body(grant: Grant, lifetime: int) -> dict[str, Any]:
    body = {
        "token_type": "bearer",
        "expires_in": lifetime,
        "access_token": grant.access_token,
        "scope": grant.scope,
    }
    return body | ({"refresh_token": grant.refresh_token} if grant.refresh_token else {})
