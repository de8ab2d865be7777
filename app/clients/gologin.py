"""GoLogin's two APIs: the cloud (`https://api.gologin.com`) and the desktop app on this host.

Source: GoLogin's public API docs and SDKs. Any body can be HTML, whatever the status: everything is parsed
defensively, and every failure becomes a `GoLoginAPIException` with GoLogin's own words, cut and without the token.
"""

import re
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from app.utils.exceptions import GoLoginAPIException
from app.utils.retry import retry_idempotent

PAGE_SIZE: Final = 30
"""Rows of a page of the profile list; GoLogin fixes it."""

_MAX_MESSAGE: Final = 500
_TAGS: Final = re.compile(r"<(script|style)\b.*?</\1>|<[^>]+>", re.DOTALL | re.IGNORECASE)
_RETRYABLE_STATUSES: Final = frozenset({500, 502, 503, 504})

T = TypeVar("T", bound=BaseModel)


class GoLoginProfile(BaseModel):
    """A row of the profile list: what the service uses of it. The proxy is never read: its password is in clear."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(min_length=1)
    name: str = ""
    notes: str | None = None
    os: str | None = None
    browser_type: str | None = Field(default=None, alias="browserType")
    can_be_running: bool | None = Field(default=None, alias="canBeRunning")

    @field_validator("name", mode="before")
    @classmethod
    def _trimmed(cls, value: Any) -> Any:
        return "" if value is None else value.strip() if isinstance(value, str) else value


class ProfilePage(BaseModel):
    """One page; the end is an empty `profiles` or `total` reached."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    profiles: list[GoLoginProfile]
    total: int | None = Field(default=None, alias="allProfilesCount")


class _Started(BaseModel):
    model_config = ConfigDict(extra="ignore")

    ws_url: str = Field(alias="wsUrl", pattern=r"^wss?://[^/]+:\d+/")


class GoLoginClient:
    """Speaks both APIs; keeps no state.

    Args:
        api_timeout: seconds for a cloud call; they answer within a few seconds or not at all.
        stop_timeout: seconds for stop-profile, which waits until the browser has saved its profile.
    """

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        api_url: str,
        api_token: str,
        local_url: str,
        api_timeout: float,
        stop_timeout: float,
    ) -> None:
        self._http = http
        self._api_url = api_url
        self._api_token = api_token
        self._local_url = local_url
        self._api_timeout = api_timeout
        self._stop_timeout = stop_timeout

    @retry_idempotent()
    async def list_profiles(self, page: int) -> ProfilePage:
        """Page `page` (from 1) of all profiles, oldest first, so that new ones only ever appear at the end."""
        params = {"page": page, "sorterField": "createdAt", "sorterOrder": "ascend"}
        response = await self._send(
            "GET", f"{self._api_url}/browser/v2", self._api_timeout, params=params, cloud=True
        )
        return _parse(ProfilePage, response)

    @retry_idempotent()
    async def check_token(self) -> None:
        """Raises `GoLoginAPIException` unless the API token works."""
        await self._send("GET", f"{self._api_url}/user", self._api_timeout, cloud=True)

    async def start_profile(self, profile_id: str, *, timeout: float) -> str:
        """Start the profile's browser and return its DevTools address (`wsUrl`) once it is up.

        Never retried: a second start while the first goes on corrupts the profile.
        """
        body = {"profileId": profile_id, "sync": True}
        response = await self._send("POST", f"{self._local_url}/browser/start-profile", timeout, json=body)
        return _parse(_Started, response).ws_url

    @retry_idempotent(attempts=2)
    async def stop_profile(self, profile_id: str) -> None:
        """Stop the profile's browser; a success too when it does not run (204, no body)."""
        body = {"profileId": profile_id}
        await self._send("POST", f"{self._local_url}/browser/stop-profile", self._stop_timeout, json=body)

    async def _send(
        self, method: str, url: str, timeout: float, *, cloud: bool = False, **content: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._api_token}"} if cloud else {}
        try:
            response = await self._http.request(method, url, headers=headers, timeout=timeout, **content)
        except httpx.TimeoutException as error:
            raise GoLoginAPIException("timeout", f"no answer within {timeout:g} seconds") from error
        except httpx.HTTPError as error:
            raise GoLoginAPIException("unreachable", f"{_place(cloud)} cannot be reached") from error
        if response.is_success:
            return response
        message = _without(self._api_token, _error_message(response))
        retryable = response.status_code in _RETRYABLE_STATUSES
        raise GoLoginAPIException(response.status_code, message, retryable=retryable)


def _parse(model: type[T], response: httpx.Response) -> T:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, item["loc"])) or item["type"] for item in error.errors()[:3])
        message = f"the answer is not what was expected ({fields})"
        raise GoLoginAPIException(response.status_code, message, retryable=False) from None


def _place(cloud: bool) -> str:
    return "the cloud API" if cloud else "the desktop app's local API (is it running and signed in?)"


def _error_message(response: httpx.Response) -> str:
    """GoLogin's own words: `message` is a string or a list; else the text without its HTML."""
    try:
        body = response.json()
        message = body.get("message") or body.get("error") if isinstance(body, dict) else None
    except ValueError:
        message = None
    if isinstance(message, list):
        message = "; ".join(str(part) for part in message)
    text = str(message) if message else " ".join(_TAGS.sub(" ", response.text).split())
    return text[:_MAX_MESSAGE] or "no message"


def _without(secret: str, text: str) -> str:
    return text.replace(secret, "[masked]") if secret else text
