"""OAuth 2.0 with PKCE for the configured apps: the authorize URL, code exchange, refresh, revocation, who-am-I."""

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

from pydantic import SecretStr

from app.clients.oauth_provider import OAuthProviderClient, ProviderUser
from app.config import OAuthApp
from app.services.interfaces import AuthorizationRequest, TokenSet
from app.services.providers import ConsentPageRules, OAuthProvider
from app.utils.exceptions import UnknownApiAppException
from app.utils.logger import get_logger

_VERIFIER_BYTES: Final = 64
"""86 characters of base64url: within the 43-128 of RFC 7636, 4.1."""
_BETWEEN_SCOPES: Final = re.compile(r"[\s,]+")
"""GitHub is asked with spaces and answers with commas."""

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
    ) -> None:
        self._apps = {name: _with_scopes(app, providers[app.provider]) for name, app in apps.items()}
        self._providers = providers
        self._client = client

    def app(self, api_app: str) -> OAuthApp:
        """Raises `UnknownApiAppException`."""
        try:
            return self._apps[api_app]
        except KeyError:
            raise UnknownApiAppException(api_app, sorted(self._apps)) from None

    def consent_page(self, api_app: str) -> ConsentPageRules:
        return self._provider(api_app).consent_page

    def generate_auth_url(self, api_app: str) -> AuthorizationRequest:
        """A new authorization request with its own state and verifier (RFC 6749, 4.1.1; RFC 7636, 4.3)."""
        app, provider = self.app(api_app), self._provider(api_app)
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
        separator = "&" if "?" in provider.authorize_url else "?"
        return AuthorizationRequest(
            url=f"{provider.authorize_url}{separator}{urlencode(query)}",
            redirect_uri=app.redirect_uri,
            state=SecretStr(state),
            code_verifier=SecretStr(verifier),
        )

    async def exchange_code_for_tokens(
        self, api_app: str, *, code: SecretStr, authorization: AuthorizationRequest
    ) -> TokenSet:
        """Once, and at once: the code lives 30 seconds and works one time (RFC 6749, 4.1.3)."""
        form = {
            "grant_type": "authorization_code",
            "code": code.get_secret_value(),
            "redirect_uri": authorization.redirect_uri,
        }
        if self._provider(api_app).pkce:
            form["code_verifier"] = authorization.code_verifier.get_secret_value()
        return await self._token(api_app, form)

    async def refresh_access_token(self, api_app: str, refresh_token: SecretStr) -> TokenSet:
        """New tokens (RFC 6749, 6). Never call it twice with one refresh token of a provider that rotates them: it is
        spent, and the answer carries its successor. Any other provider's goes on working, and is in the answer again.
        """
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token.get_secret_value()}
        tokens = await self._token(api_app, form)
        if tokens.refresh_token is None and not self._provider(api_app).refresh_tokens_rotate:
            return replace(tokens, refresh_token=refresh_token)
        return tokens

    async def verify_credentials(self, api_app: str, access_token: SecretStr) -> ProviderUser:
        """The account that the token speaks for."""
        return await self._client.me(self._provider(api_app), access_token.get_secret_value())

    async def revoke_token(self, api_app: str, token: SecretStr) -> None:
        """Nothing but a log line where the provider has no such endpoint."""
        provider = self._provider(api_app)
        if not provider.revoke_url:
            log.warning("token.not_revocable", api_app=api_app, provider=provider.name)
            return
        client_id, client_secret = self._client_credentials(api_app)
        await self._client.revoke(
            provider, client_id=client_id, client_secret=client_secret, token=token.get_secret_value()
        )

    def _provider(self, api_app: str) -> OAuthProvider:
        return self._providers[self.app(api_app).provider]

    async def _token(self, api_app: str, form: dict[str, str]) -> TokenSet:
        client_id, client_secret = self._client_credentials(api_app)
        answer = await self._client.token(
            self._provider(api_app), client_id=client_id, client_secret=client_secret, form=form
        )
        granted = tuple(filter(None, _BETWEEN_SCOPES.split(answer.scope or "")))
        return TokenSet(
            access_token=answer.access_token,
            refresh_token=answer.refresh_token,
            scopes=granted or self.app(api_app).scopes,
            expires_in=answer.expires_in,
        )

    def _client_credentials(self, api_app: str) -> tuple[str, str | None]:
        app = self.app(api_app)
        return app.client_id, app.client_secret.get_secret_value() if app.client_secret else None


def _with_scopes(app: OAuthApp, provider: OAuthProvider) -> OAuthApp:
    return app if app.scopes else app.model_copy(update={"scopes": provider.default_scopes})


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
