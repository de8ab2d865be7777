"""The provider's memory of OAuth 1.0a: request tokens, access tokens, nonces; checks every signature. No HTTP in here.

Source: RFC 5849; refusals are numbered and worded as X's.
"""

import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from oauthlib.oauth1.rfc5849.signature import collect_parameters, verify_hmac_sha1

from sandbox.config import AppInfo
from sandbox.oauth import GrantState, IssuedSecrets, OAuthError

CLOCK_SKEW = 300  # seconds that a call's timestamp may be off


class OAuth1Error(Exception):
    """A refusal in the shape of X's API 1.1."""

    def __init__(self, code: int, message: str, *, status: int = 401) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


class SignedCall:
    """A request without a body as its signature covers it (RFC 5849, 3.4.1).

    Raises `OAuth1Error` when it is not signed at all.
    """

    def __init__(self, method: str, url: str, *, authorization: str) -> None:
        headers = {"Authorization": authorization}
        try:
            signed = collect_parameters(urlsplit(url).query, headers=headers)
            self.oauth = dict(collect_parameters(headers=headers, exclude_oauth_signature=False))
            """The parameters of the header."""
        except ValueError:
            raise _not_authenticated() from None
        signature = self.oauth.get("oauth_signature", "")
        # All that the library's check looks at.
        self._request: Any = SimpleNamespace(uri=url, http_method=method, params=signed, signature=signature)

    @property
    def token(self) -> str:
        return self.oauth.get("oauth_token", "")

    def is_signed_with(self, client_secret: str, token_secret: str) -> bool:
        """HMAC-SHA1 (RFC 5849, 3.4.2) is the only method."""
        is_known = self.oauth.get("oauth_signature_method") == "HMAC-SHA1"
        return is_known and verify_hmac_sha1(self._request, client_secret, token_secret)


@dataclass(slots=True)
class RequestToken:
    """One authorization: asked for by an app, shown to an account, answered, exchanged; each once."""

    app_name: str
    client_id: str
    callback: str
    token: str = field(default_factory=lambda: secrets.token_urlsafe(20))
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    signed_in: str | None = None
    """Account of the browser session that the page was made for."""
    page_account: str = ""
    """Account as which the page grants."""
    form_token: str = ""
    fault: str | None = None
    answered: bool = False
    verifier: str | None = None
    """Verifier; None: not granted, or exchanged already."""


@dataclass(slots=True)
class AccessToken:
    """Access token of an account for an app, until it is invalidated."""

    app_name: str
    client_id: str
    account: str
    token: str = field(default_factory=lambda: f"{secrets.randbelow(10**10)}-{secrets.token_urlsafe(30)}")
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(34))
    alive: bool = True


@dataclass(slots=True)
class OAuth1State:
    """Issues and checks everything OAuth 1.0a. `clock` is unix time."""

    apps: Mapping[str, AppInfo]
    issued: IssuedSecrets
    clock: Callable[[], float] = time.time
    _requests: dict[str, RequestToken] = field(default_factory=dict)
    _access: dict[str, AccessToken] = field(default_factory=dict)
    _nonces: set[tuple[str | None, ...]] = field(default_factory=set)

    def request_token(self, call: SignedCall) -> RequestToken:
        """RFC 5849, 2.1. Raises `OAuth1Error`."""
        name, app = self._caller(call, token_secret="")
        if call.oauth.get("oauth_callback") != app.redirect_uri:
            problem = "Callback URL not approved for this client application."
            raise OAuth1Error(415, problem, status=403)
        token = RequestToken(name, app.client_id, app.redirect_uri)
        self._requests[token.token] = token
        self.issued.request_tokens.append(token.token)
        self.issued.token_secrets.append(token.secret)
        return token

    def show(self, token: str, *, signed_in: str, page_account: str) -> RequestToken | None:
        """The consent page for an account; None when the request token is unknown or was answered."""
        request_token = self._requests.get(token)
        if request_token is None or request_token.answered:
            return None
        request_token.signed_in, request_token.page_account = signed_in, page_account
        request_token.form_token = secrets.token_urlsafe(24)
        return request_token

    def answer(self, token: str, form_token: str, signed_in: str | None) -> RequestToken:
        """The page's form came back. Raises `OAuthError` 403 when it is not the one shown, or comes again."""
        request_token = self._requests.get(token)
        if (
            request_token is None
            or request_token.answered
            or request_token.signed_in != signed_in
            or not request_token.form_token
        ):
            raise OAuthError("This page was answered, or is another's.", error="forbidden", status=403)
        if not hmac.compare_digest(request_token.form_token.encode(), form_token.encode()):
            raise OAuthError("This page belongs to another session.", error="forbidden", status=403)
        request_token.answered = True
        return request_token

    def grant(self, request_token: RequestToken) -> str:
        """The verifier (RFC 5849, 2.2)."""
        request_token.verifier = secrets.token_urlsafe(24)
        self.issued.codes.append(request_token.verifier)
        return request_token.verifier

    def access_token(self, call: SignedCall) -> AccessToken:
        """Spends the request token (RFC 5849, 2.3); an earlier grant of the account ends. Raises `OAuth1Error`."""
        request_token = self._requests.get(call.token)
        if request_token is None:
            raise _not_authenticated()
        name, app = self._caller(call, token_secret=request_token.secret)
        verifier = call.oauth.get("oauth_verifier", "")
        if (
            request_token.client_id != app.client_id
            or request_token.verifier is None
            or not hmac.compare_digest(request_token.verifier.encode(), verifier.encode())
        ):
            raise OAuth1Error(99, "Error processing your OAuth request: Invalid oauth_verifier parameter")
        request_token.verifier = None
        self.revoke_grants(request_token.page_account, app.client_id)
        access_token = AccessToken(name, app.client_id, request_token.page_account)
        self._access[access_token.token] = access_token
        self.issued.access_tokens.append(access_token.token)
        self.issued.token_secrets.append(access_token.secret)
        return access_token

    def access(self, call: SignedCall) -> AccessToken:
        """The living token that the call is signed for. Raises `OAuth1Error`."""
        access_token = self._access.get(call.token)
        if access_token is None or not access_token.alive:
            raise OAuth1Error(89, "Invalid or expired token.")
        _, app = self._caller(call, token_secret=access_token.secret)
        if access_token.client_id != app.client_id:
            raise OAuth1Error(89, "Invalid or expired token.")
        return access_token

    def revoke_grants(self, account: str, client_id: str | None = None) -> int:
        """Ends the account's grants (in one app, or in all) and tells how many were alive."""
        alive = [
            each
            for each in self._access.values()
            if each.account == account and each.alive and client_id in (None, each.client_id)
        ]
        for each in alive:
            each.alive = False
        return len(alive)

    def grants(self, account: str | None = None) -> list[GrantState]:
        """The account's grants, or all, oldest first."""
        return [
            GrantState(app=each.app_name, account=each.account, scope="", usable=each.alive)
            for each in self._access.values()
            if account in (None, each.account)
        ]

    def account_of(self, token: str) -> str | None:
        """The account behind a request token that was shown, or an access token, also a dead one."""
        if (access_token := self._access.get(token)) is not None:
            return access_token.account
        request_token = self._requests.get(token)
        return request_token.signed_in if request_token else None

    def _caller(self, call: SignedCall, *, token_secret: str) -> tuple[str, AppInfo]:
        """The app that signed the call, which was not seen before (RFC 5849, 3.2, 3.3)."""
        client_id = call.oauth.get("oauth_consumer_key")
        name, app = next(
            ((name, app) for name, app in self.apps.items() if app.client_id == client_id), ("", None)
        )
        if app is None or not call.is_signed_with(app.client_secret or "", token_secret):
            raise _not_authenticated()
        moment = call.oauth.get("oauth_timestamp", "")
        if not moment.isdecimal() or abs(self.clock() - int(moment)) > CLOCK_SKEW:
            raise OAuth1Error(135, "Timestamp out of bounds.")
        nonce = (client_id, call.token, moment, call.oauth.get("oauth_nonce"))
        if nonce in self._nonces:
            raise _not_authenticated()
        self._nonces.add(nonce)
        return name, app


def _not_authenticated() -> OAuth1Error:
    return OAuth1Error(32, "Could not authenticate you.")
