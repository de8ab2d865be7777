"""OAuth 1.0a at a provider's endpoints: request token, access token, who-am-I and revocation, every call signed.

Sources: RFC 5849, X's OAuth 1.0a docs. No POST for a token is retried: a verifier works once.
"""

import dataclasses
from collections.abc import Generator
from contextlib import suppress
from typing import Final
from urllib.parse import parse_qsl

import httpx
from oauthlib.oauth1 import Client as Signer
from pydantic import ConfigDict, SecretStr
from pydantic.dataclasses import dataclass

from app.clients.answers import describe_kind, mismatch_text
from app.clients.oauth.oauth2 import (
    EndpointUrl,
    OAuthProviderClient,
    OptionalUrl,
    ProviderApi,
    ProviderUser,
    unexpected_answer,
    user_in,
)
from app.clients.oauth.refusals import Refusals
from app.utils.exceptions import InvalidClientException, InvalidGrantException
from app.utils.retry import retry_idempotent

# A request token is asked for by the app alone; X answers 403 to a callback that is not registered.
_APP_REFUSED: Final[Refusals] = dict.fromkeys((400, 401, 403), InvalidClientException)
_VERIFIER_REFUSED: Final[Refusals] = dict.fromkeys((400, 401), InvalidGrantException)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class OAuth1Endpoints:
    """RFC 5849, 2."""

    request_token_url: EndpointUrl
    authorize_url: EndpointUrl
    access_token_url: EndpointUrl
    revoke_url: OptionalUrl = ""
    """Takes a POST signed with the token, as X's ``invalidate_token`` does; empty: the provider has none."""


@dataclasses.dataclass(frozen=True)
class OAuth1App:
    """An app at its provider."""

    api: ProviderApi
    endpoints: OAuth1Endpoints
    client_id: str
    client_secret: SecretStr
    redirect_uri: str


@dataclasses.dataclass(frozen=True)
class OAuth1Token:
    """A request token or an access token, with the secret that signs for it (RFC 5849, 1.1)."""

    token: SecretStr
    secret: SecretStr


class OAuth1ProviderClient:
    """Speaks any provider's endpoints for any of its apps; deadlines and errors are those of `provider`."""

    def __init__(self, *, provider: OAuthProviderClient) -> None:
        self._provider = provider

    async def request_token(self, app: OAuth1App) -> OAuth1Token:
        """Request a temporary token (RFC 5849, 2.1). Raises `InvalidClientException`, `TwitterAPIException`."""
        signature = _Signature(app, callback=app.redirect_uri)
        url = app.endpoints.request_token_url
        response = await self._provider.send(app.api, "POST", url, auth=signature, refusals=_APP_REFUSED)
        if (confirmed := _form(response).get("oauth_callback_confirmed")) != "true":
            problem = mismatch_text("oauth_callback_confirmed", '"true"', describe_kind(confirmed))
            raise unexpected_answer(app.api, response, problem)
        return _token_in(app.api, response)

    async def access_token(
        self, app: OAuth1App, *, request_token: OAuth1Token, verifier: SecretStr
    ) -> OAuth1Token:
        """Spends the request token (RFC 5849, 2.3). Raises `InvalidGrantException`, `TwitterAPIException`."""
        signature = _Signature(app, request_token, verifier=verifier)
        url = app.endpoints.access_token_url
        response = await self._provider.send(app.api, "POST", url, auth=signature, refusals=_VERIFIER_REFUSED)
        return _token_in(app.api, response)

    # As OAuth 2.0's: a new token that nobody vouches for is thrown away with its consent.
    @retry_idempotent(attempts=4, timeout=20)
    async def me(self, app: OAuth1App, token: OAuth1Token) -> ProviderUser:
        """The account that the token speaks for.

        Raises `InvalidGrantException` when the token is refused, `InvalidClientException` when the app is,
        `TwitterAPIException`.
        """
        return user_in(app.api, await self._send_for(app, token, "GET", app.api.me_url))

    @retry_idempotent(attempts=3, timeout=20)
    async def revoke(self, app: OAuth1App, token: OAuth1Token) -> None:
        """Raises `InvalidClientException`, `TwitterAPIException`."""
        with suppress(InvalidGrantException):  # it is gone already
            await self._send_for(app, token, "POST", app.endpoints.revoke_url)

    async def _send_for(self, app: OAuth1App, token: OAuth1Token, method: str, url: str) -> httpx.Response:
        refusals = dict.fromkeys(app.api.errors.token_refused, InvalidGrantException)
        try:
            return await self._provider.send(
                app.api, method, url, auth=_Signature(app, token), refusals=refusals
            )
        except InvalidGrantException:
            # The answer is the same when the app's own keys are wrong; they alone sign for a request token.
            await self.request_token(app)
            raise


class _Signature(httpx.Auth):
    """HMAC-SHA1 in the header, each request anew: a nonce is good for one (RFC 5849, 3.3)."""

    def __init__(
        self,
        app: OAuth1App,
        token: OAuth1Token | None = None,
        *,
        callback: str | None = None,
        verifier: SecretStr | None = None,
    ) -> None:
        self._signer = Signer(
            app.client_id,
            client_secret=app.client_secret.get_secret_value(),
            resource_owner_key=token.token.get_secret_value() if token else None,
            resource_owner_secret=token.secret.get_secret_value() if token else None,
            callback_uri=callback,
            verifier=verifier.get_secret_value() if verifier else None,
        )

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        _, headers, _ = self._signer.sign(str(request.url), request.method)  # type: ignore[arg-type]
        request.headers.update(headers)
        yield request


def _token_in(api: ProviderApi, response: httpx.Response) -> OAuth1Token:
    answer = _form(response)
    token, secret = answer.get("oauth_token"), answer.get("oauth_token_secret")
    if not token or not secret:
        field, value = ("oauth_token_secret", secret) if token else ("oauth_token", token)
        raise unexpected_answer(api, response, mismatch_text(field, "text", describe_kind(value)))
    return OAuth1Token(SecretStr(token), SecretStr(secret))


def _form(response: httpx.Response) -> dict[str, str]:
    # Not by the charset that the answer names: some of Python's decode no text.
    return dict(parse_qsl(response.content.decode(errors="replace")))
