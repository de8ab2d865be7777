"""GoLogin's two APIs: the cloud (`https://api.gologin.com`) and the desktop app on this host.

Source: GoLogin's public API docs and SDKs. Any body can be HTML, whatever the status: everything is parsed
defensively, and every failure becomes a `GoLoginAPIException` with GoLogin's own words, cut and without the token.
"""

import asyncio
import re
from collections.abc import Collection
from typing import Annotated, Any, Final, Protocol, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from app.clients.answers import body_kind, json_in, misfits, mismatch_text
from app.clients.bounded import LIST, AnswerTooLargeError
from app.clients.browsers.profile_browser import (
    BrowserProfile,
    ProfilePage,
    checked_ws_url,
    read_rows,
    to_name,
    to_text,
)
from app.clients.texts import error_words, without_tags
from app.utils.exceptions import UNREACHABLE, GoLoginAPIException
from app.utils.retry import retry_idempotent
from app.utils.tasks import run_shielded

_CLOUDFLARE_1015: Final = re.compile(r"error\W*(?:code)?\W*1015\b", re.IGNORECASE)
_PAGE_HEAD: Final = 20_000
"""Characters in which an error page names its error."""
_MAX_TAGS: Final = 100
_RETRYABLE_STATUSES: Final = frozenset({500, 502, 503, 504})

T = TypeVar("T", bound=BaseModel)


class RequestBudget(Protocol):
    """Limit that every call to the cloud API passes first."""

    async def acquire(self) -> None:
        """Wait for the call's place in the request budget. Raises `GoLoginBreakerOpenException`."""

    async def open_breaker(self, reason: str) -> None:
        """The rate was limited: let no call through any more."""


class GoLoginProfile(BrowserProfile):
    """GoLogin's spelling. A field of an unexpected type is taken as missing: only the id has to be there."""

    name: Annotated[str, BeforeValidator(to_name)] = ""
    notes: Annotated[str | None, BeforeValidator(to_text)] = None
    os: Annotated[str | None, BeforeValidator(to_text)] = None
    browser_type: Annotated[str | None, BeforeValidator(to_text)] = Field(default=None, alias="browserType")
    can_be_running: bool | None = Field(default=None, alias="canBeRunning")

    @field_validator("can_be_running", mode="before")
    @classmethod
    def _flag(cls, value: Any) -> bool | None:
        return value if isinstance(value, bool) else None

    @field_validator("tags", mode="before")
    @classmethod
    def _titles(cls, value: Any) -> tuple[str, ...]:
        tags = [tag for tag in value if isinstance(tag, dict)] if isinstance(value, list) else []
        titles = [tag.get("title") for tag in tags][:_MAX_TAGS]
        return tuple(to_name(title) for title in titles if isinstance(title, str))


class _Page(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    profiles: list[Any]
    total: int | None = Field(default=None, alias="allProfilesCount")

    @field_validator("total", mode="before")
    @classmethod
    def _count(cls, value: Any) -> int | None:
        return value if isinstance(value, int) and not isinstance(value, bool) else None


class _User(BaseModel):
    """Any object: an HTML page with status 200 is none."""

    model_config = ConfigDict(extra="ignore")


class _Started(BaseModel):
    model_config = ConfigDict(extra="ignore")

    ws_url: str = Field(alias="wsUrl")


class GoLoginClient:
    """Speaks both APIs; keeps no state.

    Args:
        gate: passed before every cloud call; the local API has no budget.
        api_timeout: seconds for a cloud call; they answer within a few seconds or not at all.
        stop_timeout: seconds for stop-profile, which waits until the browser has saved its profile.
        browser_hosts: hosts besides this one and that of `local_url` on which browsers may run.
    """

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        gate: RequestBudget,
        api_url: str,
        api_token: str,
        local_url: str,
        api_timeout: float,
        stop_timeout: float,
        browser_hosts: Collection[str] = (),
    ) -> None:
        self._http = http
        self._gate = gate
        self._api_url = api_url
        self._api_token = api_token
        self._local_url = local_url
        self._api_timeout = api_timeout
        self._stop_timeout = stop_timeout
        self._browser_hosts = browser_hosts

    @retry_idempotent()
    async def list_profiles(self, page: int) -> ProfilePage:
        """30 a page, oldest first, so that new ones only ever appear at the end."""
        params = {"page": page, "sorterField": "createdAt", "sorterOrder": "ascend"}
        response = await self._cloud("/browser/v2", params=params, extensions=LIST)
        page_rows = _parse(_Page, response)
        try:
            rows, skipped = read_rows(GoLoginProfile, page_rows.profiles, "id")
        except ValueError as error:
            raise GoLoginAPIException(response.status_code, str(error), retryable=False) from None
        return ProfilePage(profiles=list(rows), skipped=skipped, total=page_rows.total)

    @retry_idempotent()
    async def profile_exists(self, profile_id: str) -> bool:
        """A 404 says that it was deleted; any other failure says nothing."""
        try:
            profile = _parse(GoLoginProfile, await self._cloud(f"/browser/{quote(profile_id, safe='')}"))
        except GoLoginAPIException as error:
            if error.status == 404:
                return False
            raise
        return profile.id == profile_id

    @retry_idempotent()
    async def check_token(self) -> None:
        """`GET /user` is the cheapest call that needs a token."""
        _parse(_User, await self._cloud("/user"))

    async def start_profile(self, profile_id: str, *, timeout: float) -> str:
        """Start the profile's browser and return its DevTools address (`wsUrl`) once it is up.

        Never retried: a second start while the first goes on corrupts the profile.
        """
        body = {"profileId": profile_id, "sync": True}
        response = await self._send("POST", f"{self._local_url}/browser/start-profile", timeout, json=body)
        try:
            ws_url = _parse(_Started, response).ws_url
            return checked_ws_url(ws_url, api_url=self._local_url, hosts=self._browser_hosts)
        except GoLoginAPIException as error:
            if words := _refusal(response, secret=self._api_token):
                raise GoLoginAPIException(response.status_code, words, retryable=error.retryable) from None
            raise
        except ValueError as error:
            raise GoLoginAPIException(response.status_code, str(error), retryable=False) from None

    async def stop_profile(self, profile_id: str) -> None:
        """204 without a body, also when nothing ran."""
        body = {"profileId": profile_id}
        await self._send("POST", f"{self._local_url}/browser/stop-profile", self._stop_timeout, json=body)

    async def _cloud(self, path: str, **content: Any) -> httpx.Response:
        """A GET within the budget; a sign of rate limiting opens the breaker before anybody can call again."""
        await self._gate.acquire()
        headers = {"Authorization": f"Bearer {self._api_token}"}
        response = await self._exchange(
            "GET", f"{self._api_url}{path}", self._api_timeout, "the cloud API", headers=headers, **content
        )
        if _is_rate_limited(response):
            await run_shielded(self._gate.open_breaker(f"HTTP {response.status_code} for GET {path}"))
            raise GoLoginAPIException(
                response.status_code, "the rate limit was reached; the API token may be lost", retryable=False
            )
        return self._check_status(response)

    async def _send(self, method: str, url: str, timeout: float, **content: Any) -> httpx.Response:
        """A call of the local API."""
        return self._check_status(
            await self._exchange(
                method, url, timeout, "the desktop app's local API (is it running and signed in?)", **content
            )
        )

    async def _exchange(
        self, method: str, url: str, timeout: float, peer: str, **content: Any
    ) -> httpx.Response:
        """`timeout`: seconds for the whole answer, however slowly it comes."""
        try:
            async with asyncio.timeout(timeout):
                return await self._http.request(method, url, timeout=timeout, **content)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise GoLoginAPIException("timeout", f"no answer within {timeout:g} seconds") from error
        except httpx.ConnectError as error:  # nothing was sent
            raise GoLoginAPIException(UNREACHABLE, f"{peer} cannot be reached") from error
        except AnswerTooLargeError as error:
            raise GoLoginAPIException("too large", str(error), retryable=False) from error
        except httpx.HTTPError as error:
            raise GoLoginAPIException("disconnected", f"{peer} broke the connection") from error

    def _check_status(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        # GoLogin's own words, else the whole text.
        message = _refusal(response, secret=self._api_token) or error_words(
            response.text, secret=self._api_token
        )
        retryable = response.status_code in _RETRYABLE_STATUSES
        raise GoLoginAPIException(response.status_code, message, retryable=retryable)


def _is_rate_limited(response: httpx.Response) -> bool:
    """GoLogin's 429, or Cloudflare's page, which may come with another status; JSON is data, whatever it says."""
    if response.status_code == 429:
        return True
    if "json" in response.headers.get("content-type", ""):
        return False
    return bool(_CLOUDFLARE_1015.search(without_tags(response.text[:_PAGE_HEAD])))


def _parse(model: type[T], response: httpx.Response) -> T:
    # Not Pydantic's own parser: it refuses a whole page for half an emoji in one name.
    body = json_in(response)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        message = misfits(error)
    if body is None:
        message = mismatch_text("the body", "JSON", body_kind(response))
    raise GoLoginAPIException(response.status_code, message, retryable=False)


def _refusal(response: httpx.Response, *, secret: str) -> str:
    """`message`, a string or a list, or `error`; empty when there is neither."""
    body = json_in(response)
    message = body.get("message") or body.get("error") if isinstance(body, dict) else None
    if isinstance(message, list):
        message = "; ".join(str(part) for part in message)
    return error_words(str(message), secret=secret) if message else ""
