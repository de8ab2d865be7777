"""The provider's memory: OAuth apps, consent tickets, authorization codes and grants. No HTTP in here."""

import base64
import hashlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

from pydantic import BaseModel

from sandbox.config import AppInfo

INVALID_TOKEN = "Value passed for the token was invalid."
INVALID_CODE = "Value passed for the authorization code was invalid."
MISSING_AUTHORIZATION = "Missing valid authorization header"


class OAuthError(Exception):
    """A refusal in the shape of RFC 6749 section 5.2, with X's wording."""

    def __init__(self, description: str, *, error: str = "invalid_request", status: int = 400) -> None:
        super().__init__(description)
        self.description = description
        self.error = error
        self.status = status


class AuthorizeRequestError(Exception):
    """The authorize URL is wrong; the message says what, for the error page."""


class IssuedSecrets(BaseModel):
    """Every secret of all authorizations so far, also the spent and the refused ones."""

    codes: list[str] = []
    access_tokens: list[str] = []
    refresh_tokens: list[str] = []
    verifiers: list[str] = []
    states: list[str] = []
    request_tokens: list[str] = []
    token_secrets: list[str] = []
    """OAuth 1.0a's, of request tokens and of access tokens; its verifiers are among the codes."""

    def all(self) -> list[str]:
        """Return all that are not empty: a caller may have left out its state or verifier."""
        lists: dict[str, list[str]] = self.model_dump()
        return [secret for secrets_of_kind in lists.values() for secret in secrets_of_kind if secret]


class GrantState(BaseModel):
    """`usable`: whether its access token or its refresh token still works."""

    app: str
    account: str
    scope: str
    usable: bool


@dataclass(frozen=True, slots=True)
class AuthorizeRequest:
    """A validated authorize URL."""

    app_name: str
    client_id: str
    redirect_uri: str
    scope: str
    state: str
    code_challenge: str


@dataclass(slots=True)
class Ticket:
    """One shown consent page: works once, and only for the browser session it was made for."""

    id: str
    request: AuthorizeRequest
    signed_in: str
    page_account: str
    fault: str | None = None
    granted_scope: str | None = None
    used: bool = False


@dataclass(slots=True)
class Code:
    """An authorization code; kept after use, so that a second use is still known to be this account's."""

    request: AuthorizeRequest
    account: str
    scope: str
    expires_at: float
    used: bool = False


@dataclass(slots=True)
class Grant:
    """Grant of an account to an app: the current tokens of one chain of refreshes."""

    client_id: str
    account: str
    scope: str
    access_token: str = ""
    access_expires_at: float = 0.0
    refresh_token: str | None = None
    alive: bool = True

    def may(self, *scopes: str) -> bool:
        return set(scopes) <= set(self.scope.split())


@dataclass(slots=True)
class OAuthState:
    """Issues and checks everything OAuth. Lifetimes are seconds, `clock` is unix time."""

    apps: Mapping[str, AppInfo]
    clock: Callable[[], float] = time.time
    rotates: bool = True
    """A refresh replaces the refresh token, too."""
    offline_scope: str = "offline.access"
    """Scope without which there is no refresh token."""
    secret_in_body: bool = False
    """Take the secret in the body in place of the Basic header (RFC 6749, 2.3.1)."""
    issued: IssuedSecrets = field(default_factory=IssuedSecrets)
    codes_reused: int = 0
    refresh_tokens_reused: Counter[str] = field(default_factory=Counter)
    """Number of reused refresh tokens by account."""
    _tickets: dict[str, Ticket] = field(default_factory=dict)
    _codes: dict[str, Code] = field(default_factory=dict)
    _access: dict[str, Grant] = field(default_factory=dict)
    _refresh: dict[str, Grant] = field(default_factory=dict)
    _current: dict[tuple[str, str], Grant] = field(default_factory=dict)
    _grants: list[Grant] = field(default_factory=list)

    # The consent page

    def check_authorize(self, query: Mapping[str, str]) -> AuthorizeRequest:
        """Validates an authorize URL's query. Raises `AuthorizeRequestError`."""
        self.issued.states.append(query.get("state", ""))
        name, app = self._app_by_id(query.get("client_id", ""))
        problem = _find_problem(query, app)
        if app is None or problem:
            raise AuthorizeRequestError(problem or "client_id is unknown")
        fields = {
            key: query[key] for key in ("client_id", "redirect_uri", "scope", "state", "code_challenge")
        }
        return AuthorizeRequest(app_name=name, **fields)

    def open_ticket(self, request: AuthorizeRequest, *, signed_in: str, page_account: str) -> Ticket:
        """`signed_in`: whose cookie it is; `page_account`: who the page names and grants as."""
        ticket = Ticket(
            id=secrets.token_urlsafe(24), request=request, signed_in=signed_in, page_account=page_account
        )
        self._tickets[ticket.id] = ticket
        return ticket

    def ticket(self, ticket_id: str, signed_in: str | None) -> Ticket:
        """The ticket, for the account it was made for and nobody else. Raises `OAuthError` 403."""
        ticket = self._tickets.get(ticket_id)
        if ticket is None or ticket.signed_in != signed_in:
            raise OAuthError("This page belongs to another session.", error="forbidden", status=403)
        return ticket

    def use_ticket(self, ticket: Ticket) -> None:
        """Raises `OAuthError` 403 on the second use."""
        if ticket.used:
            raise OAuthError("This page was already answered.", error="forbidden", status=403)
        ticket.used = True

    def issue_code(self, ticket: Ticket, lifetime: float) -> str:
        code = secrets.token_urlsafe(48)
        scope = ticket.granted_scope or ticket.request.scope
        self._codes[code] = Code(ticket.request, ticket.page_account, scope, self.clock() + lifetime)
        self.issued.codes.append(code)
        return code

    # The token endpoint

    def authenticate(self, authorization: str | None, form: Mapping[str, str]) -> str:
        """The calling app's client id, from the Basic header or the body.

        Raises `OAuthError` 401 `unauthorized_client`.
        """
        if self.secret_in_body:
            client_id, secret = form.get("client_id"), form.get("client_secret")
        else:
            client_id, secret = _basic_credentials(authorization)
        _, app = self._app_by_id(client_id or form.get("client_id", ""))
        if app is None or not _same_secret(app.client_secret, secret):
            raise OAuthError(MISSING_AUTHORIZATION, error="unauthorized_client", status=401)
        return app.client_id

    def exchange(self, client_id: str, form: Mapping[str, str], lifetime: float) -> Grant:
        """Code → first tokens. The code is spent by the first try, right or wrong.

        Raises `OAuthError` 400.
        """
        self.issued.verifiers.append(form.get("code_verifier", ""))
        code = self._codes.get(form.get("code", ""))
        if code is None or code.used:
            self.codes_reused += code is not None
            raise OAuthError(INVALID_CODE)
        code.used = True
        if code.expires_at <= self.clock() or not _fits(code.request, client_id, form):
            raise OAuthError(INVALID_CODE)
        return self.give(client_id, code.account, code.scope, lifetime)

    def give(self, client_id: str, account: str, scope: str, lifetime: float) -> Grant:
        """First tokens; they end those of an earlier grant."""
        self.revoke_grants(account, client_id)
        grant = Grant(client_id=client_id, account=account, scope=scope)
        self._current[client_id, account] = grant
        self._grants.append(grant)
        return self._issue_tokens(grant, lifetime)

    def refresh(self, client_id: str, form: Mapping[str, str], lifetime: float) -> Grant:
        """New tokens; the old ones are dead. Presenting a spent refresh token kills the whole chain.

        Raises `OAuthError` 400.
        """
        token = form.get("refresh_token", "")
        grant = self._refresh.get(token)
        if grant is None or grant.client_id != client_id:
            raise OAuthError(INVALID_TOKEN)
        if token != grant.refresh_token:
            self.refresh_tokens_reused[grant.account] += 1
            self._kill(grant)
        if not grant.alive:
            raise OAuthError(INVALID_TOKEN)
        return self._issue_tokens(grant, lifetime)

    def revoke(self, client_id: str, token: str) -> None:
        """A refresh token ends its grant, an access token only itself; unknown is fine (RFC 7009, 2.2)."""
        grant = self._refresh.get(token)
        if grant is not None and grant.client_id == client_id:
            self._kill(grant)
        access = self._access.get(token)
        if access is not None and access.client_id == client_id:
            del self._access[token]

    def revoke_grants(self, account: str, client_id: str | None = None) -> int:
        """Ends the account's grants (in one app, or in all) and tells how many were alive."""
        keys = [k for k in self._current if k[1] == account] if client_id is None else [(client_id, account)]
        grants = [self._current[key] for key in keys if key in self._current and self._current[key].alive]
        for grant in grants:
            self._kill(grant)
        return len(grants)

    # Who a secret belongs to

    def find_grant(self, token: str) -> Grant | None:
        """The living grant behind a valid access token."""
        grant = self._access.get(token)
        if grant is None or not grant.alive or grant.access_expires_at <= self.clock():
            return None
        return grant

    def grants(self, account: str | None = None) -> list[GrantState]:
        """The account's grants, or all, oldest first."""
        return [self._grant_state(grant) for grant in self._grants if account in (None, grant.account)]

    def account_of(self, secret: str) -> str | None:
        """The account behind any code, access or refresh token, also a spent one."""
        holder = self._codes.get(secret) or self._access.get(secret) or self._refresh.get(secret)
        return holder.account if holder else None

    def _grant_state(self, grant: Grant) -> GrantState:
        by_access_token = self.find_grant(grant.access_token) is not None
        by_refresh_token = grant.alive and grant.refresh_token is not None
        app, _ = self._app_by_id(grant.client_id)
        return GrantState(
            app=app, account=grant.account, scope=grant.scope, usable=by_access_token or by_refresh_token
        )

    def _app_by_id(self, client_id: str) -> tuple[str, AppInfo | None]:
        return next(
            ((name, app) for name, app in self.apps.items() if app.client_id == client_id), ("", None)
        )

    def _issue_tokens(self, grant: Grant, lifetime: float) -> Grant:
        self._access.pop(grant.access_token, None)
        grant.access_token = secrets.token_urlsafe(48)
        grant.access_expires_at = self.clock() + lifetime
        self._access[grant.access_token] = grant
        self.issued.access_tokens.append(grant.access_token)
        if grant.may(self.offline_scope) and (self.rotates or grant.refresh_token is None):
            grant.refresh_token = secrets.token_urlsafe(48)
            self._refresh[grant.refresh_token] = grant
            self.issued.refresh_tokens.append(grant.refresh_token)
        return grant

    def _kill(self, grant: Grant) -> None:
        grant.alive = False
        self._access.pop(grant.access_token, None)


def _find_problem(query: Mapping[str, str], app: AppInfo | None) -> str | None:
    if app is None:
        return "client_id is unknown"
    rules = {
        "response_type must be code": query.get("response_type") == "code",
        "redirect_uri differs from the registered one": query.get("redirect_uri") == app.redirect_uri,
        "scope is empty or unknown": _is_subset(query.get("scope", ""), app.scopes),
        "state must have 1 to 500 characters": 1 <= len(query.get("state", "")) <= 500,
        "code_challenge must have 43 to 128 characters": 43 <= len(query.get("code_challenge", "")) <= 128,
        "code_challenge_method must be S256": query.get("code_challenge_method") == "S256",
    }
    return next((problem for problem, holds in rules.items() if not holds), None)


def _is_subset(scope: str, scopes: list[str]) -> bool:
    return bool(scope.split()) and set(scope.split()) <= set(scopes)


def _basic_credentials(header: str | None) -> tuple[str | None, str | None]:
    scheme, _, encoded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None, None
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None, None
    return unquote_plus(client_id), unquote_plus(secret)  # RFC 6749, 2.3.1


def _same_secret(expected: str | None, secret: str | None) -> bool:
    if expected is None:
        return not secret
    return hmac.compare_digest(expected.encode(), (secret or "").encode())


def _fits(request: AuthorizeRequest, client_id: str, form: Mapping[str, str]) -> bool:
    verifier = form.get("code_verifier", "")
    digest = hashlib.sha256(verifier.encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return (
        request.client_id == client_id
        and request.redirect_uri == form.get("redirect_uri")
        and 43 <= len(verifier) <= 128
        and hmac.compare_digest(challenge.encode(), request.code_challenge.encode())
    )
