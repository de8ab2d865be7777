"""An OAuth provider's HTTP API: token, revocation and who-am-I endpoints.

Sources: RFC 6749 (2.3.1, 4.1.3, 5, 6), RFC 7009 (revocation), X's OAuth 2.0 docs. No POST here is retried: a code lives
30 seconds and works once, and a repeated refresh may burn the token that the first answer carried.
"""

import asyncio
import re
import time
from base64 import b64decode
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import parse_qs, quote, unquote

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.dataclasses import dataclass

from app.clients import bounded
from app.clients.texts import storable
from app.utils.exceptions import (
    CreditsDepletedException,
    InvalidClientException,
    InvalidGrantException,
    TwitterAPIException,
)
from app.utils.masking import mask_text
from app.utils.retry import retry_idempotent

_MAX_MESSAGE: Final = 300
_LOOKED_AT: Final = 20_000
"""Characters; what comes later is not shown."""
_MAX_ID: Final = 64
"""Of the columns that keep an account's name and id."""
_X_OAUTH1_MESSAGE: Final = "errors.0.message"
_SECRET_FIELDS: Final = ("code", "code_verifier", "refresh_token", "token", "client_secret")
_QUOTED: Final = re.compile(r'"([^"]+)"')
_URL: Final = re.compile(r"https?://[^/?#\s]+[^#\s]*")
_JSON_PATH: Final = re.compile(r"[^.\s]+(\.[^.\s]+)*")

Refusals = Mapping[int, type[InvalidClientException] | type[InvalidGrantException]]
"""What an HTTP status means in answer to one certain call, where the body does not tell."""
_NO_REFUSALS: Final[Refusals] = MappingProxyType({})


def _endpoint_url(value: str) -> str:
    if not _URL.fullmatch(value):
        raise ValueError("must be an http:// or https:// address without a fragment (#...)")
    try:
        httpx.URL(value)
    except httpx.InvalidURL as error:
        raise ValueError(f"is no address: {error}") from None
    return value


def _json_path(value: str) -> str:
    if not _JSON_PATH.fullmatch(value):
        raise ValueError("must be a path such as data.username or accounts.0.login")
    return value


def _header_value(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise ValueError("must hold printable ASCII characters only, as HTTP headers do")
    return value


_Header = Annotated[str, AfterValidator(_header_value)]
EndpointUrl = Annotated[str, AfterValidator(_endpoint_url)]
OptionalUrl = Annotated[str, AfterValidator(lambda value: _endpoint_url(value) if value else value)]
_JsonPath = Annotated[str, AfterValidator(_json_path)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ProviderApi:
    """One provider's endpoints for programs."""

    name: str = Field(min_length=1)
    """As errors call it."""
    token_url: EndpointUrl
    revoke_url: OptionalUrl = ""
    """RFC 7009; empty: the provider has none."""
    me_url: EndpointUrl
    api_headers: dict[_Header, _Header] = Field(default_factory=dict)
    """Sent with every call of these endpoints."""
    username_path: _JsonPath
    """Where who-am-I's answer has the account: names and list indexes, with dots between."""
    user_id_path: _JsonPath
    client_auth: Literal["basic", "body"] = "basic"
    """Where an app's secret goes (RFC 6749, 2.3.1); an app without one names itself in the body, whatever this says."""


class RateLimit(NamedTuple):
    """Of an app at an endpoint, as X's ``x-rate-limit-*`` headers tell it."""

    remaining: int
    """Calls until `reset`."""
    reset: float
    """Unix seconds."""


class _TokenBody(BaseModel):
    """A successful token answer (RFC 6749, 5.1)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    access_token: SecretStr
    refresh_token: SecretStr | None = None
    expires_in: int | None = None
    """Lifetime of the access token in seconds."""
    scope: str | None = None
    """Granted scopes; absent when they are those asked for."""


class TokenResponse(_TokenBody):
    rate_limit: RateLimit | None = None
    """None: the answer's headers name none."""


class ProviderUser(BaseModel):
    """Who a token belongs to."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(min_length=1, max_length=_MAX_ID)
    username: str = Field(min_length=1)


class OAuthProviderClient:
    """Speaks any provider's endpoints for any of its apps.

    Args:
        timeout: seconds for a call; short, because a browser slot waits behind a code exchange.
    """

    def __init__(self, *, http: httpx.AsyncClient, timeout: float) -> None:
        self._http = http
        self._timeout = timeout

    async def token(
        self, api: ProviderApi, *, client_id: str, client_secret: str | None, form: dict[str, str]
    ) -> TokenResponse:
        """POST the token endpoint. Raises `InvalidGrantException`, `InvalidClientException`, `TwitterAPIException`."""
        response = await self._post(api, api.token_url, client_id, client_secret, form)
        if _json_object(response).get("error"):  # some say so with HTTP 200
            raise _classified(api, response)
        try:
            body = _TokenBody.model_validate_json(response.content)
        except ValidationError:
            raise unexpected_answer(api, response) from None
        return TokenResponse(**dict(body), rate_limit=_rate_limit(response))

    @retry_idempotent(attempts=3, timeout=20)
    async def revoke(
        self, api: ProviderApi, *, client_id: str, client_secret: str | None, token: str
    ) -> None:
        """Revoke an access or refresh token (RFC 7009)."""
        await self._post(api, api.revoke_url, client_id, client_secret, {"token": token})

    # A new token that nobody vouches for is thrown away with its consent: worth some seconds.
    @retry_idempotent(attempts=4, timeout=20)
    async def me(self, api: ProviderApi, access_token: str) -> ProviderUser:
        """The account that the token speaks for."""
        return user_in(api, await self.send(api, "GET", api.me_url, bearer=access_token))

    async def _post(
        self, api: ProviderApi, url: str, client_id: str, client_secret: str | None, form: dict[str, str]
    ) -> httpx.Response:
        if client_secret is None:
            return await self.send(api, "POST", url, data={**form, "client_id": client_id})
        if api.client_auth == "body":
            data = {**form, "client_id": client_id, "client_secret": client_secret}
            return await self.send(api, "POST", url, data=data)
        return await self.send(api, "POST", url, data=form, auth=httpx.BasicAuth(client_id, client_secret))

    async def send(
        self,
        api: ProviderApi,
        method: str,
        url: str,
        *,
        bearer: str | None = None,
        refusals: Refusals = _NO_REFUSALS,
        **content: Any,
    ) -> httpx.Response:
        """One call; the answer when it is a success. `content`: as httpx takes it.

        Raises `TwitterAPIException` or that child of it which the answer means.
        """
        # Asked for nothing, GitHub's token endpoint answers with a form.
        headers = {"Accept": "application/json", **api.api_headers}
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer}"
        try:
            async with asyncio.timeout(self._timeout):  # for the whole answer, however slowly it comes
                response = await bounded.request(
                    self._http, method, url, headers=headers, timeout=self._timeout, **content
                )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            reason = "the provider's API cannot be reached"
            raise TwitterAPIException("unreachable", reason, provider=api.name) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            reason = f"no answer within {self._timeout:g} seconds"
            raise TwitterAPIException("timeout", reason, provider=api.name, may_have_acted=True) from error
        except bounded.UnreadableAnswerError as error:
            raise TwitterAPIException(
                "unreadable", str(error), retryable=False, provider=api.name, may_have_acted=True
            ) from error
        except httpx.HTTPError as error:
            reason = "the connection to the provider's API broke off"
            raise TwitterAPIException("broken off", reason, provider=api.name, may_have_acted=True) from error
        if response.is_success:
            return response
        raise _classified(api, response, refusals)


def user_in(api: ProviderApi, response: httpx.Response) -> ProviderUser:
    """The account in a who-am-I's answer. Raises `TwitterAPIException`."""
    body = _json(response)
    try:
        return ProviderUser(id=_text_at(body, api.user_id_path), username=_text_at(body, api.username_path))
    except ValidationError:
        raise unexpected_answer(api, response) from None


def _classified(
    api: ProviderApi, response: httpx.Response, refusals: Refusals = _NO_REFUSALS
) -> TwitterAPIException:
    """Which of our errors an answer means (RFC 6749, 5.2; X says `invalid_request` where it means the grant)."""
    status, body = response.status_code, _json_object(response)
    code = str(body.get("error", ""))
    detail = body.get("error_description") or body.get("detail") or body.get("title") or code
    words = str(detail or _text_at(body, _X_OAUTH1_MESSAGE) or "no message")
    message = mask_text(storable(words)[:_LOOKED_AT], known=_secrets_sent(response.request))[:_MAX_MESSAGE]
    if status >= 500 or status == 429:
        # Whatever the body says: nothing was judged.
        return TwitterAPIException(status, message, provider=api.name, retry_after=_wait_asked_for(response))
    if status == 402:
        return CreditsDepletedException(status, message, provider=api.name)
    if code in ("invalid_client", "unauthorized_client"):
        return InvalidClientException(status, message, provider=api.name)
    if code == "invalid_grant" or (code == "invalid_request" and message.startswith("Value passed for the")):
        return InvalidGrantException(status, message, provider=api.name)
    if (meaning := refusals.get(status)) is not None:
        return meaning(status, message, provider=api.name)
    return TwitterAPIException(status, message, retryable=False, provider=api.name)


def _secrets_sent(request: httpx.Request) -> set[str]:
    """What a refusal may quote: secrets of the form and of the Authorization header, however they are spelt."""
    form = parse_qs(request.content.decode(errors="replace"))
    sent = {value for name in _SECRET_FIELDS for value in form.get(name, ())}
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme == "Basic":
        sent.add(b64decode(credentials).decode().partition(":")[2])
    sent.update(_QUOTED.findall(credentials) or [credentials])
    return sent | {quote(secret, safe="") for secret in sent} | {unquote(secret) for secret in sent}


def unexpected_answer(api: ProviderApi, response: httpx.Response) -> TwitterAPIException:
    """Not with the validation error's text: it quotes the body, which holds tokens."""
    return TwitterAPIException(
        response.status_code,
        "the answer is not what was expected",
        retryable=False,
        provider=api.name,
        may_have_acted=True,
    )


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _wait_asked_for(response: httpx.Response) -> float | None:
    """Seconds, by ``Retry-After`` or X's own header, which names the moment in unix seconds."""
    if (seconds := response.headers.get("retry-after", "")).isdecimal():
        return float(seconds)
    if (moment := response.headers.get("x-rate-limit-reset", "")).isdecimal():
        return max(1.0, float(moment) - time.time())
    return None


def _rate_limit(response: httpx.Response) -> RateLimit | None:
    remaining, reset = (response.headers.get(f"x-rate-limit-{name}", "") for name in ("remaining", "reset"))
    if remaining.isdecimal() and reset.isdecimal():
        return RateLimit(int(remaining), float(reset))
    return None


def _json_object(response: httpx.Response) -> dict[str, Any]:
    body = _json(response)
    return body if isinstance(body, dict) else {}


def _text_at(body: Any, path: str) -> str:
    """The text or whole number at a dotted path; empty when there is none."""
    for part in path.split("."):
        if isinstance(body, list) and part.isdecimal():
            body = body[int(part)] if int(part) < len(body) else None
        else:
            body = body.get(part) if isinstance(body, dict) else None
    return str(body) if isinstance(body, (str, int)) and not isinstance(body, bool) else ""
