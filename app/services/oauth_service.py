"""OAuth 2.0 with PKCE for the configured apps: the authorize URL, code exchange, refresh, revocation, who-am-I."""

import base64
import hashlib
import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from pydantic import SecretStr

from app.clients.oauth_provider import OAuthProviderClient, ProviderUser, TokenResponse
from app.config import OAuthApp
from app.services.interfaces import AuthorizationRequest, TokenSet
from app.services.providers import ConsentPageRules, OAuthProvider
from app.utils.exceptions import UnknownApiAppException

_VERIFIER_BYTES: Final = 64
"""86 characters of base64url: within the 43-128 of RFC 7636, 4.1."""


class OAuthService:
    """Holds no per-authorization state: state and verifier travel in the `AuthorizationRequest`."""

    def __init__(
        self, *, apps: Mapping[str, OAuthApp], provider: OAuthProvider, client: OAuthProviderClient
    ) -> None:
        self._apps = apps
        self._provider = provider
        self._client = client

    def app(self, api_app: str) -> OAuthApp:
        """Raises `UnknownApiAppException`."""
        try:
            return self._apps[api_app]
        except KeyError:
            raise UnknownApiAppException(api_app, sorted(self._apps)) from None

    def consent_page(self, api_app: str) -> ConsentPageRules:
        self.app(api_app)
        return self._provider.consent_page

    def generate_auth_url(self, api_app: str) -> AuthorizationRequest:
        """A new authorization request with its own state and verifier (RFC 6749, 4.1.1; RFC 7636, 4.3)."""
        app = self.app(api_app)
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(_VERIFIER_BYTES)
        query = {
            "response_type": "code",
            "client_id": app.client_id,
            "redirect_uri": app.redirect_uri,
            "scope": " ".join(app.scopes),
            "state": state,
            "code_challenge": _challenge(verifier),
            "code_challenge_method": "S256",
        }
        return AuthorizationRequest(
            url=f"{self._provider.authorize_url}?{urlencode(query)}",
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
            "code_verifier": authorization.code_verifier.get_secret_value(),
        }
        return await self._token(api_app, form)

    async def refresh_access_token(self, api_app: str, refresh_token: SecretStr) -> TokenSet:
        """Spends `refresh_token`; the answer carries its successor (RFC 6749, 6). Never call it twice with one."""
        return await self._token(
            api_app, {"grant_type": "refresh_token", "refresh_token": refresh_token.get_secret_value()}
        )

    async def verify_credentials(self, api_app: str, access_token: SecretStr) -> ProviderUser:
        """The account that the token speaks for."""
        self.app(api_app)
        return await self._client.me(access_token.get_secret_value())

    async def revoke_token(self, api_app: str, token: SecretStr) -> None:
        client_id, client_secret = self._client_credentials(api_app)
        await self._client.revoke(
            client_id=client_id, client_secret=client_secret, token=token.get_secret_value()
        )

    async def _token(self, api_app: str, form: dict[str, str]) -> TokenSet:
        client_id, client_secret = self._client_credentials(api_app)
        answer = await self._client.token(client_id=client_id, client_secret=client_secret, form=form)
        return _token_set(answer, asked=self.app(api_app).scopes)

    def _client_credentials(self, api_app: str) -> tuple[str, str | None]:
        app = self.app(api_app)
        return app.client_id, app.client_secret.get_secret_value() if app.client_secret else None


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _token_set(answer: TokenResponse, *, asked: tuple[str, ...]) -> TokenSet:
    return TokenSet(
        access_token=answer.access_token,
        refresh_token=answer.refresh_token,
        scopes=tuple(answer.scope.split()) if answer.scope else asked,
        expires_in=answer.expires_in,
    )
