"""The HTTP API of an OpenID Connect provider: discovery, keys and the exchange of a code.

Sources: OpenID Connect Core 1.0 and Discovery 1.0, RFC 7636 (PKCE), RFC 9207 (`iss` of the callback). Nothing is sent
to an address that the provider's own discovery document does not name.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote_plus

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri  # type: ignore[import-untyped]
from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import Url

from app.clients.answers import json_in, misfits
from app.clients.bounded import AnswerTooLargeError
from app.clients.openid.id_tokens import SigningKey, UnknownKeyError, read_id_token, read_keys
from app.clients.texts import error_words
from app.utils.exceptions import SingleSignOnRefusedException, SingleSignOnUnavailableException
from app.utils.hosts import is_loopback

_MAX_ANSWER: Final = 256_000
"""Bytes."""
_KEPT_FOR: Final = 600.0
"""Seconds for which the discovery document and the keys are kept; a withdrawn key counts no longer."""
_FAILURE_KEPT_FOR: Final = 3.0
"""Seconds for which a failure is kept: those who wait for the same answer do not ask again one after the other."""
_REFETCH_AFTER: Final = 30.0
"""Seconds between two looks for a key that is not among those that are kept."""
_DISCOVERY_PATH: Final = "/.well-known/openid-configuration"

T = TypeVar("T")


class _Discovery(BaseModel):
    """Used parts of the discovery document (OpenID Connect Discovery 1.0, 3)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    issuer: str = Field(max_length=2_000)
    authorization_endpoint: str = Field(max_length=2_000)
    token_endpoint: str = Field(max_length=2_000)
    jwks_uri: str = Field(max_length=2_000)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class OpenIdProvider:
    """`client_secret`: None for a public client. `timeout`: seconds for one answer."""

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        issuer: str,
        client_id: str,
        client_secret: SecretStr | None,
        redirect_uri: str,
        scopes: tuple[str, ...],
        timeout: float,
    ) -> None:
        self._http = http
        self.issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._redirect_uri = redirect_uri
        self._scopes = scopes
        self._timeout = timeout
        self._discovery = _Kept(self._fetch_discovery)
        self._keys = _Kept(self._fetch_keys)

    async def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """Return the address to which the browser goes. Raises `SingleSignOnUnavailableException`."""
        discovery = await self._discovery.get()
        url: str = prepare_grant_uri(
            discovery.authorization_endpoint,
            self._client_id,
            "code",
            redirect_uri=self._redirect_uri,
            scope=" ".join(self._scopes),
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return url

    async def check_issuer(self, issuer: str | None) -> None:
        """Check the `iss` of a callback, which providers that announce it must send (RFC 9207, 2.4).

        Raises `SingleSignOnRefusedException`, `SingleSignOnUnavailableException`.
        """
        discovery = await self._discovery.get()
        is_needed = discovery.authorization_response_iss_parameter_supported
        if issuer != self.issuer and (is_needed or issuer is not None):
            raise SingleSignOnRefusedException("The answer is not of the provider that was asked")

    async def exchange(self, code: str, *, nonce: str, verifier: str) -> dict[str, Any]:
        """Spend the code, and return the claims of the ID token; the other tokens are dropped.

        Raises `SingleSignOnRefusedException`, `SingleSignOnUnavailableException`.
        """
        discovery = await self._discovery.get()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        answer = await self._send(
            "POST", discovery.token_endpoint, **self._authenticate(form, discovery), refused=_refused_code
        )
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise SingleSignOnUnavailableException("its answer has no ID token")
        try:
            return self._read(token, await self._keys.get(), nonce)
        except UnknownKeyError:
            keys = await self._keys.get_newer()
        try:
            return self._read(token, keys, nonce)
        except UnknownKeyError:
            raise SingleSignOnRefusedException(
                "The provider's ID token is signed with an unknown key"
            ) from None

    def _read(self, token: str, keys: list[SigningKey], nonce: str) -> dict[str, Any]:
        return read_id_token(token, keys, issuer=self.issuer, client_id=self._client_id, nonce=nonce)

    def _authenticate(self, form: dict[str, str], discovery: _Discovery) -> dict[str, Any]:
        """Return the form with the client's authentication, as httpx takes it (RFC 6749, 2.3.1)."""
        if self._client_secret is None:
            return {"data": form | {"client_id": self._client_id}}
        secret, methods = (
            self._client_secret.get_secret_value(),
            discovery.token_endpoint_auth_methods_supported,
        )
        if "client_secret_basic" in methods:
            return {"data": form, "auth": httpx.BasicAuth(quote_plus(self._client_id), quote_plus(secret))}
        if "client_secret_post" in methods:
            return {"data": form | {"client_id": self._client_id, "client_secret": secret}}
        raise SingleSignOnUnavailableException("it takes no client secret")

    async def _fetch_discovery(self) -> _Discovery:
        body = await self._send("GET", f"{self.issuer.rstrip('/')}{_DISCOVERY_PATH}")
        try:
            discovery = _Discovery.model_validate(body)
        except ValidationError as error:
            raise SingleSignOnUnavailableException(f"discovery: {misfits(error)}") from None
        if discovery.issuer != self.issuer:
            raise SingleSignOnUnavailableException("its discovery document is of another issuer")
        for url in (discovery.authorization_endpoint, discovery.token_endpoint, discovery.jwks_uri):
            self._check_endpoint(url)
        return discovery

    def _check_endpoint(self, value: str) -> None:
        """Refuse an address without TLS, unless the issuer is this machine and has none either."""
        try:
            url = Url(value)
        except ValueError:
            raise SingleSignOnUnavailableException(
                "its discovery document names what is no address"
            ) from None
        is_local = self.issuer.startswith("http://") and url.scheme == "http" and is_loopback(url.host or "")
        if url.scheme != "https" and not is_local:
            raise SingleSignOnUnavailableException("its discovery document names an address without https")

    async def _fetch_keys(self) -> list[SigningKey]:
        body = await self._send("GET", (await self._discovery.get()).jwks_uri)
        keys = body.get("keys")
        if not isinstance(keys, list) or not (found := read_keys(keys)):
            raise SingleSignOnUnavailableException("it has no key that can sign ID tokens")
        return found

    async def _send(
        self,
        method: str,
        url: str,
        *,
        refused: Callable[[httpx.Response], Exception | None] = lambda _: None,
        **content: Any,
    ) -> dict[str, Any]:
        """Return the JSON object of a success. Redirects are not followed.

        Raises `SingleSignOnUnavailableException`, and what `refused` makes of another status.
        """
        try:
            async with asyncio.timeout(self._timeout):  # for the whole answer, however slowly it comes
                response = await self._http.request(
                    method,
                    url,
                    headers={"Accept": "application/json"},
                    timeout=self._timeout,
                    follow_redirects=False,
                    extensions={"max_answer": _MAX_ANSWER},
                    **content,
                )
        except (TimeoutError, httpx.TimeoutException):
            problem = f"it does not answer within {self._timeout:g} seconds"
            raise SingleSignOnUnavailableException(problem) from None
        except AnswerTooLargeError as error:
            raise SingleSignOnUnavailableException(str(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = f"it cannot be reached ({type(error).__name__})"
            raise SingleSignOnUnavailableException(problem) from None
        if not response.is_success:
            raise refused(response) or SingleSignOnUnavailableException(
                f"it answers with HTTP {response.status_code}"
            )
        media_type = response.headers.get("content-type", "").strip().lower()
        body = json_in(response) if media_type.endswith(("/json", "+json")) else None
        if not isinstance(body, dict):
            raise SingleSignOnUnavailableException("its answer is no JSON object")
        return body


class _Kept(Generic[T]):
    """An answer that is kept for some minutes; those who need it at once wait for one request."""

    def __init__(self, fetch: Callable[[], Awaitable[T]]) -> None:
        self._fetch = fetch
        self._lock = asyncio.Lock()
        self._value: T | None = None
        self._valid_until = 0.0
        self._problem = ""
        self._failed_until = 0.0
        self._refetch_at = 0.0

    async def get(self) -> T:
        """Raises what the fetch raises."""
        async with self._lock:
            return await self._get()

    async def get_newer(self) -> T:
        """Return what is there now, unless that was asked just before."""
        async with self._lock:
            if monotonic() >= self._refetch_at:
                self._refetch_at = monotonic() + _REFETCH_AFTER
                self._value = None
            return await self._get()

    async def _get(self) -> T:
        now = monotonic()
        if self._value is not None and now < self._valid_until:
            return self._value
        if now < self._failed_until:
            raise SingleSignOnUnavailableException(self._problem)
        try:
            self._value = await self._fetch()
        except SingleSignOnUnavailableException as error:
            self._problem, self._failed_until = error.problem, monotonic() + _FAILURE_KEPT_FOR
            raise
        self._valid_until = monotonic() + _KEPT_FOR
        return self._value


def _refused_code(response: httpx.Response) -> Exception | None:
    """Return what an error answer of the token endpoint means (RFC 6749, 5.2): a refused code is nobody's fault."""
    body = json_in(response)
    error = body.get("error") if isinstance(body, dict) else None
    if error == "invalid_grant":
        return SingleSignOnRefusedException("The provider refuses the code of this sign-in")
    if not isinstance(error, str):
        return None
    return SingleSignOnUnavailableException(f"it refuses this service: {error_words(error)[:100]}")
