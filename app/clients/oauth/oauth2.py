"""An OAuth provider's HTTP API: token, revocation and who-am-I endpoints.

Sources: RFC 6749 (2.3.1, 4.1.3, 5, 6), RFC 7009 (revocation), X's OAuth 2.0 docs. No POST here is retried: a code lives
30 seconds and works once, and a repeated refresh may burn the token that the first answer carried.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote_plus

import httpx
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic.dataclasses import dataclass

from app.clients.answers import (
    body_kind,
    describe_kind,
    json_in,
    mismatch_text,
    read_fields,
    to_text,
    value_at,
)
from app.clients.bounded import AnswerTooLargeError
from app.clients.oauth.rate_limits import (
    MAX_RETRY_AFTER,
    rate_limit_in,
    refusal_limit,
    seconds_until,
    spent_limit,
)
from app.clients.oauth.refusals import NO_REFUSALS, ErrorRules, Refusals, classify_error, tells_error
from app.clients.oauth.token_answers import TokenResponse, UnusableAnswerError, token_response, tokens_in
from app.clients.texts import storable
from app.utils.exceptions import InvalidGrantException, TwitterAPIException
from app.utils.handles import bare_handle
from app.utils.logger import get_logger
from app.utils.retry import retry_idempotent
from app.utils.waits import CallLimit, LimitOwner

_MAX_ID: Final = 255
"""Characters, as OpenID Connect has it (Core 1.0, 2: ``sub``); also of the column."""
_URL: Final = re.compile(r"https?://[^/?#\s]+[^#\s]*")
_JSON_PATH: Final = re.compile(r"[^.\s]+(\.[^.\s]+)*")

log = get_logger(__name__)


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
    """Name that errors use."""
    token_url: EndpointUrl
    revoke_url: OptionalUrl = ""
    """RFC 7009; empty: the provider has none."""
    me_url: EndpointUrl
    api_headers: dict[_Header, _Header] = Field(default_factory=dict)
    """Sent with every call of these endpoints."""
    username_path: _JsonPath
    """Path to the account in who-am-I's answer: names and list indexes, with dots between."""
    user_id_path: _JsonPath
    client_auth: Literal["basic", "body"] = "basic"
    """Place of an app's secret (RFC 6749, 2.3.1); an app without one names itself in the body, whatever this says."""
    errors: ErrorRules = Field(default_factory=ErrorRules)


class ProviderUser(BaseModel):
    """The account that a token belongs to."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: Annotated[str, BeforeValidator(storable)] = Field(min_length=1, max_length=_MAX_ID)
    username: Annotated[str, BeforeValidator(bare_handle), BeforeValidator(storable)] = Field(
        min_length=1, max_length=_MAX_ID
    )
    limit: CallLimit | None = None
    """Who-am-I is not answered again before this has ended."""


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
        """POST the token endpoint. What an answer holds that cannot be used is revoked.

        Raises `InvalidGrantException`, `InvalidClientException`, `TwitterAPIException`.
        """
        response = await self._post(api, api.token_url, client_id, client_secret, form)
        if tells_error(response):  # some say so with HTTP 200
            raise _classify(api, response)
        fields = read_fields(response)
        try:
            return token_response(fields, rate_limit_in(response.headers, now=time.time()))
        except UnusableAnswerError as error:
            await self._revoke_all(api, client_id, client_secret, tokens_in(fields))
            problem = f"the answer is not what was expected: {error}"
            raise unexpected_answer(api, response, problem) from None

    @retry_idempotent(attempts=3, timeout=20)
    async def revoke(
        self, api: ProviderApi, *, client_id: str, client_secret: str | None, token: str
    ) -> None:
        """Revoke an access or refresh token (RFC 7009); one that is refused is gone already."""
        with suppress(InvalidGrantException):
            await self._post(api, api.revoke_url, client_id, client_secret, {"token": token})

    async def _revoke_all(
        self, api: ProviderApi, client_id: str, client_secret: str | None, tokens: Sequence[SecretStr]
    ) -> None:
        """Nobody keeps these, so none may live on at the provider."""
        for token in tokens:
            if not api.revoke_url:
                log.warning("token.not_revocable", provider=api.name)
                return
            try:
                await self.revoke(
                    api, client_id=client_id, client_secret=client_secret, token=token.get_secret_value()
                )
            except TwitterAPIException as error:
                log.error("token.revocation_failed", provider=api.name, error=error.message)

    # A new token that nobody vouches for is thrown away with its consent: worth some seconds.
    @retry_idempotent(attempts=4, timeout=20)
    async def me(self, api: ProviderApi, access_token: str) -> ProviderUser:
        """The account that the token speaks for. Raises `InvalidGrantException` when the token is refused."""
        refusals = dict.fromkeys(api.errors.token_refused, InvalidGrantException)
        return user_in(api, await self.send(api, "GET", api.me_url, bearer=access_token, refusals=refusals))

    async def _post(
        self, api: ProviderApi, url: str, client_id: str, client_secret: str | None, form: dict[str, str]
    ) -> httpx.Response:
        if client_secret is None:
            return await self.send(api, "POST", url, data={**form, "client_id": client_id})
        if api.client_auth == "body":
            data = {**form, "client_id": client_id, "client_secret": client_secret}
            return await self.send(api, "POST", url, data=data)
        # Form-urlencoded first: a secret may hold what means something in the header (RFC 6749, 2.3.1).
        auth = httpx.BasicAuth(quote_plus(client_id), quote_plus(client_secret))
        return await self.send(api, "POST", url, data=form, auth=auth)

    async def send(
        self,
        api: ProviderApi,
        method: str,
        url: str,
        *,
        bearer: str | None = None,
        refusals: Refusals = NO_REFUSALS,
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
                response = await self._http.request(
                    method, url, headers=headers, timeout=self._timeout, **content
                )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            reason = "the provider's API cannot be reached"
            raise TwitterAPIException("unreachable", reason, provider=api.name) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            reason = f"no answer within {self._timeout:g} seconds"
            raise TwitterAPIException("timeout", reason, provider=api.name, may_have_acted=True) from error
        except AnswerTooLargeError as error:
            raise TwitterAPIException(
                "too large", str(error), retryable=False, provider=api.name, may_have_acted=True
            ) from error
        except httpx.HTTPError as error:
            reason = "the connection to the provider's API broke off"
            raise TwitterAPIException("broken off", reason, provider=api.name, may_have_acted=True) from error
        if response.is_success:
            return response
        refusal = _classify(api, response, refusals)
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            owner = LimitOwner.ACCOUNT if url == api.me_url else LimitOwner.APP
            refusal.limit = refusal_limit(response.headers, now=time.time(), owner=owner)
        raise refusal


def user_in(api: ProviderApi, response: httpx.Response) -> ProviderUser:
    """The account in a who-am-I's answer. Raises `TwitterAPIException`."""
    if tells_error(response):
        raise _classify(api, response)
    body = json_in(response)
    values = {"id": value_at(body, api.user_id_path), "username": value_at(body, api.username_path)}
    try:
        user = ProviderUser.model_validate({name: to_text(value) for name, value in values.items()})
        limit = spent_limit(response.headers, now=time.time(), owner=LimitOwner.ACCOUNT)
        return user.model_copy(update={"limit": limit})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
    path = {"id": api.user_id_path, "username": api.username_path}[name]
    if body is None:
        raise unexpected_answer(api, response)
    expected = f"text or a whole number, {_MAX_ID} characters at most"
    raise unexpected_answer(api, response, mismatch_text(path, expected, describe_kind(values[name])))


def _classify(
    api: ProviderApi, response: httpx.Response, refusals: Refusals = NO_REFUSALS
) -> TwitterAPIException:
    now = time.time()
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:  # it alone speaks of limits of calls
        limit = refusal_limit(response.headers, now=now, owner=LimitOwner.APP)
        retry_after = limit and limit.seconds
    else:
        header = response.headers.get("retry-after", "")
        retry_after = seconds_until(header, now=now, ceiling=MAX_RETRY_AFTER)
    return classify_error(
        response, provider=api.name, rules=api.errors, refusals=refusals, retry_after=retry_after
    )


def unexpected_answer(
    api: ProviderApi, response: httpx.Response, problem: str | None = None
) -> TwitterAPIException:
    """Return the error of an unexpected answer. It quotes no value of the answer, which may hold tokens."""
    return TwitterAPIException(
        response.status_code,
        problem or mismatch_text("the body", "a JSON object", body_kind(response)),
        retryable=False,
        provider=api.name,
        may_have_acted=True,
    )
