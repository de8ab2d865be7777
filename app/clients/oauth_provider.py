"""The OAuth provider's HTTP API: token, revocation and who-am-I endpoints.

Sources: RFC 6749 (4.1.3, 5, 6), RFC 7009 (revocation), X's OAuth 2.0 docs. No POST here is retried: a code lives
30 seconds and works once, and a repeated refresh may burn the token that the first answer carried.
"""

import asyncio
import time
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from app.utils.exceptions import (
    CreditsDepletedException,
    InvalidClientException,
    InvalidGrantException,
    TwitterAPIException,
)
from app.utils.retry import retry_idempotent

_MAX_MESSAGE: Final = 300

T = TypeVar("T", bound=BaseModel)


class TokenResponse(BaseModel):
    """A successful token answer (RFC 6749, 5.1)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    access_token: SecretStr
    refresh_token: SecretStr | None = None
    expires_in: int | None = None
    """Lifetime of the access token in seconds."""
    scope: str | None = None
    """Granted scopes, space separated; absent when they are those asked for."""


class ProviderUser(BaseModel):
    """Who a token belongs to."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    username: str


class _Me(BaseModel):
    data: ProviderUser


class OAuthProviderClient:
    """Speaks one provider's endpoints for any of its apps.

    Args:
        timeout: seconds for a call; short, because a browser slot waits behind a code exchange.
    """

    def __init__(
        self, *, http: httpx.AsyncClient, token_url: str, revoke_url: str, me_url: str, timeout: float
    ) -> None:
        self._http = http
        self._token_url = token_url
        self._revoke_url = revoke_url
        self._me_url = me_url
        self._timeout = timeout

    async def token(
        self, *, client_id: str, client_secret: str | None, form: dict[str, str]
    ) -> TokenResponse:
        """POST the token endpoint. Raises `InvalidGrantException`, `InvalidClientException`, `TwitterAPIException`."""
        response = await self._post(self._token_url, client_id, client_secret, form)
        return _parse(TokenResponse, response)

    async def revoke(self, *, client_id: str, client_secret: str | None, token: str) -> None:
        """Revoke an access or refresh token (RFC 7009)."""
        await self._post(self._revoke_url, client_id, client_secret, {"token": token})

    # A new token that nobody vouches for is thrown away with its consent: worth some seconds.
    @retry_idempotent(attempts=4, timeout=20)
    async def me(self, access_token: str) -> ProviderUser:
        """The account that the token speaks for."""
        headers = {"Authorization": f"Bearer {access_token}"}
        return _parse(_Me, await self._send("GET", self._me_url, headers=headers)).data

    async def _post(
        self, url: str, client_id: str, client_secret: str | None, form: dict[str, str]
    ) -> httpx.Response:
        """A confidential client authenticates by Basic, a public one names itself in the body (RFC 6749, 2.3.1)."""
        if client_secret is not None:
            return await self._send("POST", url, data=form, auth=httpx.BasicAuth(client_id, client_secret))
        return await self._send("POST", url, data={**form, "client_id": client_id})

    async def _send(self, method: str, url: str, **content: Any) -> httpx.Response:
        try:
            async with asyncio.timeout(self._timeout):  # for the whole answer, however slowly it comes
                response = await self._http.request(method, url, timeout=self._timeout, **content)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise TwitterAPIException("timeout", f"no answer within {self._timeout:g} seconds") from error
        except httpx.HTTPError as error:
            raise TwitterAPIException("unreachable", "the provider's API cannot be reached") from error
        if response.is_success:
            return response
        raise _classified(response)


def _classified(response: httpx.Response) -> TwitterAPIException:
    """Which of our errors an answer means (RFC 6749, 5.2; X says `invalid_request` where it means the grant)."""
    body = _json_object(response)
    code = str(body.get("error", ""))
    detail = body.get("error_description") or body.get("detail") or body.get("title") or code or "no message"
    message = str(detail)[:_MAX_MESSAGE]
    if response.status_code >= 500 or response.status_code == 429:
        # Whatever the body says: nothing was judged.
        return TwitterAPIException(response.status_code, message, retry_after=_wait_asked_for(response))
    if response.status_code == 402:
        return CreditsDepletedException(response.status_code, message)
    if code in ("invalid_client", "unauthorized_client"):
        return InvalidClientException(response.status_code, message)
    if code == "invalid_grant" or (code == "invalid_request" and message.startswith("Value passed for the")):
        return InvalidGrantException(response.status_code, message)
    return TwitterAPIException(response.status_code, message, retryable=False)


def _wait_asked_for(response: httpx.Response) -> float | None:
    """Seconds, by ``Retry-After`` or X's own header, which names the moment in unix seconds."""
    if (seconds := response.headers.get("retry-after", "")).isdecimal():
        return float(seconds)
    if (moment := response.headers.get("x-rate-limit-reset", "")).isdecimal():
        return max(1.0, float(moment) - time.time())
    return None


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _parse(model: type[T], response: httpx.Response) -> T:
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        # Not the validation error's text: it quotes the body, which holds tokens.
        raise TwitterAPIException(
            response.status_code, "the answer is not what was expected", retryable=False
        ) from None
