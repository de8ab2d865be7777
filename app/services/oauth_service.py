"""OAuth 2.0 with PKCE, and 1.0a, for the configured apps: authorize URL, exchange, refresh, revocation, who-am-I."""

import asyncio
import base64
import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

from pydantic import SecretStr

from app.clients.oauth.oauth1 import OAuth1App, OAuth1ProviderClient, OAuth1Token
from app.clients.oauth.oauth2 import OAuthProviderClient, ProviderUser
from app.config import OAuthApp
from app.services.interfaces import AuthorizationRequest, TokenSet
from app.services.oauth.provider import ConsentPageRules, OAuthProvider
from app.services.oauth.rate_limits import ProviderRateLimits
from app.utils.exceptions import InvalidGrantException, UnknownApiAppException
from app.utils.logger import get_logger

_VERIFIER_BYTES: Final = 64
"""86 characters of base64url: within the 43-128 of RFC 7636, 4.1."""
_UNKNOWN_APP_LIFE: Final = 3600.0
_RECHECK_WAIT: Final = 1.0
"""Seconds after a refusal of a new token."""

log = get_logger(__name__)


class OAuthService:
    """Holds no per-authorization state: state and verifier travel in the `AuthorizationRequest`.

    Every app's `provider` must be one of `providers`; an app without scopes has its provider's.
    """

    def __init__(
        self,
        *,
        apps: Mapping[str, OAuthApp],
        providers: Mapping[str, OAuthProvider],
        client: OAuthProviderClient,
        budgets: ProviderRateLimits,
        recheck_wait: float = _RECHECK_WAIT,
    ) -> None:
        self._apps = {
            name: app
            if app.scopes or app.kind == "oauth1"
            else app.model_copy(update={"scopes": providers[app.provider].default_scopes})
            for name, app in apps.items()
        }
        self._providers = providers
        self._client = client
        self._oauth1 = OAuth1ProviderClient(provider=client)
        self._budgets = budgets
        self.recheck_wait = recheck_wait

    def app(self, api_app: str) -> OAuthApp:
        """Raises `UnknownApiAppException`."""
        try:
            return self._apps[api_app]
        except KeyError:
            raise UnknownApiAppException(api_app, sorted(self._apps)) from None

    def consent_page(self, api_app: str) -> ConsentPageRules:
        return self._provider(api_app).consent_page

    def handle_problem(self, api_app: str, handle: str) -> str | None:
        """Return why the app's provider has no such handle; None when it may have. Raises `UnknownApiAppException`."""
        return self._provider(api_app).handle_problem(handle)

    def default_token_life(self, api_app: str) -> float:
        """Seconds after which a token of the app is refreshed whose lifetime is unknown."""
        app = self._apps.get(api_app)
        return _UNKNOWN_APP_LIFE if app is None else self._providers[app.provider].default_token_life

    async def generate_auth_url(self, api_app: str) -> AuthorizationRequest:
        """A new authorization request with its own state and verifier (RFC 6749, 4.1.1; RFC 7636, 4.3).

        Of OAuth 1.0a with a request token, which the provider is asked for (RFC 5849, 2.1): raises
        `InvalidClientException`, `TwitterAPIException`.
        """
        app, provider = self.app(api_app), self._provider(api_app)
        if app.kind == "oauth1":
            return await self._oauth1_request(self._oauth1_app(api_app))
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(_VERIFIER_BYTES)
        query = {
            **provider.extra_authorize_params,
            "response_type": "code",
            "client_id": app.client_id,
            "redirect_uri": app.redirect_uri,
            "state": state,
        }
        if app.scopes:
            query["scope"] = provider.scope_separator.join(app.scopes)
        if provider.pkce:
            query |= {"code_challenge": _challenge(verifier), "code_challenge_method": "S256"}
        return AuthorizationRequest(
            url=_add_query(provider.authorize_url, query),
            redirect_uri=app.redirect_uri,
            state=SecretStr(state),
            code_verifier=SecretStr(verifier) if provider.pkce else None,
            issuer=provider.issuer,
        )

    async def exchange_code_for_tokens(
        self, api_app: str, *, code: SecretStr, authorization: AuthorizationRequest
    ) -> TokenSet:
        """Once, and at once: the code lives 30 seconds and works one time (RFC 6749, 4.1.3).

        Of OAuth 1.0a `code` is the verifier (RFC 5849, 2.3).
        """
        if authorization.request_token_secret is not None:
            request_token = OAuth1Token(authorization.state, authorization.request_token_secret)
            access = await self._oauth1.access_token(
                self._oauth1_app(api_app), request_token=request_token, verifier=code
            )
            return TokenSet(
                access_token=access.token,
                refresh_token=None,
                scopes=(),
                expires_in=None,
                oauth_token_secret=access.secret,
            )
        form = {
            "grant_type": "authorization_code",
            "code": code.get_secret_value(),
            "redirect_uri": authorization.redirect_uri,
        }
        if authorization.code_verifier is not None:
            form["code_verifier"] = authorization.code_verifier.get_secret_value()
        return await self._token(api_app, form)

    async def refresh_access_token(self, api_app: str, refresh_token: SecretStr) -> TokenSet:
        """New tokens (RFC 6749, 6). Never call it twice with one refresh token of a provider that rotates them: it is
        spent, and the answer carries its successor. A refresh token without a successor goes on working, and is
        returned again.
        """
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token.get_secret_value()}
        tokens = await self._token(api_app, form)
        if tokens.refresh_token is not None:
            return tokens
        if self._provider(api_app).refresh_tokens_rotate:
            log.warning("token.no_successor", api_app=api_app)
        return replace(tokens, refresh_token=refresh_token)

    async def verify_credentials(
        self,
        api_app: str,
        access_token: SecretStr,
        oauth_token_secret: SecretStr | None = None,
        *,
        is_new: bool = False,
    ) -> ProviderUser:
        """The account that the token speaks for. Raises `InvalidGrantException` when the token is refused.

        `is_new`: issued just now, so that not every server of the provider may know it yet; asked a second time then.
        """
        try:
            return await self._fetch_user(api_app, access_token, oauth_token_secret)
        except InvalidGrantException:
            if not is_new:
                raise
        await asyncio.sleep(self.recheck_wait)
        return await self._fetch_user(api_app, access_token, oauth_token_secret)

    async def _fetch_user(
        self, api_app: str, access_token: SecretStr, oauth_token_secret: SecretStr | None
    ) -> ProviderUser:
        if oauth_token_secret is not None:
            token = OAuth1Token(access_token, oauth_token_secret)
            return await self._oauth1.me(self._oauth1_app(api_app), token)
        return await self._client.me(self._provider(api_app), access_token.get_secret_value())

    async def revoke_token(
        self, api_app: str, token: SecretStr, oauth_token_secret: SecretStr | None = None
    ) -> None:
        """Nothing but a log line where the provider has no such endpoint."""
        provider = self._provider(api_app)
        endpoints = provider if oauth_token_secret is None else self._oauth1_app(api_app).endpoints
        if not endpoints.revoke_url:
            log.warning("token.not_revocable", api_app=api_app, provider=provider.name)
            return
        if oauth_token_secret is not None:
            await self._oauth1.revoke(self._oauth1_app(api_app), OAuth1Token(token, oauth_token_secret))
            return
        client_id, client_secret = self._client_credentials(api_app)
        await self._client.revoke(
            provider, client_id=client_id, client_secret=client_secret, token=token.get_secret_value()
        )

    def _provider(self, api_app: str) -> OAuthProvider:
        return self._providers[self.app(api_app).provider]

    async def _token(self, api_app: str, form: dict[str, str]) -> TokenSet:
        client_id, client_secret = self._client_credentials(api_app)
        asked_at = time.time()
        with self._budgets.calling(api_app):
            answer = await self._client.token(
                self._provider(api_app), client_id=client_id, client_secret=client_secret, form=form
            )
        try:
            self._budgets.note_answer(api_app, answer.rate_limit, asked_at=asked_at)
        except Exception:  # the tokens are worth more
            log.exception("app.limit_not_noted", api_app=api_app)
        return TokenSet(
            access_token=answer.access_token,
            refresh_token=answer.refresh_token,
            scopes=answer.scopes or self.app(api_app).scopes,
            expires_in=answer.expires_in,
        )

    async def _oauth1_request(self, app: OAuth1App) -> AuthorizationRequest:
        request_token = await self._oauth1.request_token(app)
        query = {"oauth_token": request_token.token.get_secret_value()}
        return AuthorizationRequest(
            url=_add_query(app.endpoints.authorize_url, query),
            redirect_uri=app.redirect_uri,
            state=request_token.token,
            request_token_secret=request_token.secret,
        )

    def _oauth1_app(self, api_app: str) -> OAuth1App:
        """Raises `UnknownApiAppException`, too, when the app is not of this kind any more."""
        app, provider = self.app(api_app), self._provider(api_app)
        if app.kind != "oauth1":
            names = [name for name, each in self._apps.items() if each.kind == "oauth1"]
            raise UnknownApiAppException(api_app, sorted(names))
        # `OAuthApp` and `load_providers` let no other one in.
        assert app.client_secret is not None
        assert provider.oauth1 is not None
        return OAuth1App(provider, provider.oauth1, app.client_id, app.client_secret, app.redirect_uri)

    def _client_credentials(self, api_app: str) -> tuple[str, str | None]:
        app = self.app(api_app)
        return app.client_id, app.client_secret.get_secret_value() if app.client_secret else None


def _add_query(url: str, query: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
