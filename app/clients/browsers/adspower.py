"""AdsPower's local API (`http://local.adspower.net:50325`): list, start and stop profiles.

Source: https://localapi-doc-en.adspower.com. Every answer is HTTP 200 with `{"code": 0, "msg": …, "data": …}`; any
other code is a failure. The app answers one request a second and says so with `Too many request per second`.
"""

import asyncio
from collections.abc import Collection
from time import monotonic
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.clients.answers import body_kind, describe_kind, json_in, misfits, mismatch_text
from app.clients.bounded import LIST, AnswerTooLargeError
from app.clients.browsers.profile_browser import (
    BrowserProfile,
    ProfilePage,
    checked_ws_url,
    read_rows,
    to_name,
    to_text,
)
from app.clients.texts import error_words, printable
from app.utils.exceptions import UNREACHABLE, AdsPowerAPIException
from app.utils.retry import retry_idempotent

_PAGE_SIZE: Final = 100
_VERSION_TIMEOUT: Final = 5.0

T = TypeVar("T", bound=BaseModel)


class _Profile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    user_id: str = Field(min_length=1)
    name: Annotated[str, BeforeValidator(to_name)] = ""
    remark: Annotated[str | None, BeforeValidator(to_text)] = None
    group_name: Annotated[str, BeforeValidator(to_name)] = ""


class _List(BaseModel):
    model_config = ConfigDict(extra="ignore")

    profiles: list[Any] = Field(alias="list")


class _Addresses(BaseModel):
    model_config = ConfigDict(extra="ignore")

    selenium: str = Field(pattern=r"^[^/:]+:\d+$")


class _Started(BaseModel):
    model_config = ConfigDict(extra="ignore")

    ws: _Addresses


class _Version(BaseModel):
    model_config = ConfigDict(extra="ignore")

    ws_url: str = Field(alias="webSocketDebuggerUrl", pattern=r"^wss?://")


class AdsPowerClient:
    """Seconds: `api_timeout` for a list, `stop_timeout` for a stop, which waits for the browser, `spacing` between
    two calls. `browser_hosts`: hosts besides this one and that of `base_url` on which browsers may run.
    """

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        base_url: str,
        api_timeout: float,
        stop_timeout: float,
        spacing: float = 1.1,
        browser_hosts: Collection[str] = (),
    ) -> None:
        self._http = http
        self._base_url = base_url
        self._api_timeout = api_timeout
        self._stop_timeout = stop_timeout
        self._spacing = spacing
        self._browser_hosts = browser_hosts
        self._lock = asyncio.Lock()
        self._next_call = 0.0

    @retry_idempotent()
    async def list_profiles(self, page: int) -> ProfilePage:
        """100 a page; the group stands in for a tag, the remark for the notes."""
        answer = await self._call(
            "/api/v1/user/list", self._api_timeout, page=str(page), page_size=str(_PAGE_SIZE)
        )
        try:
            rows, skipped = read_rows(_Profile, _parse(_List, answer).profiles, "user_id")
        except ValueError as error:
            raise AdsPowerAPIException(200, str(error), retryable=False) from None
        profiles = [
            BrowserProfile(
                id=row.user_id,
                name=row.name,
                notes=row.remark or None,
                tags=(row.group_name,) if row.group_name else (),
                browser_type="adspower",
            )
            for row in rows
        ]
        return ProfilePage(profiles=profiles, skipped=skipped)

    @retry_idempotent()
    async def profile_exists(self, profile_id: str) -> bool:
        answer = await self._call("/api/v1/user/list", self._api_timeout, user_id=profile_id)
        rows = _parse(_List, answer).profiles
        return any(isinstance(row, dict) and row.get("user_id") == profile_id for row in rows)

    @retry_idempotent()
    async def check_token(self) -> None:
        """Do nothing: the local API takes no token, the app is signed in or it is not."""
        await self._call("/status", self._api_timeout)

    async def start_profile(self, profile_id: str, *, timeout: float) -> str:
        """The answer carries host and port; the browser itself tells its DevTools address."""
        answer = await self._call("/api/v1/browser/start", timeout, user_id=profile_id)
        address = _parse(_Started, answer).ws.selenium
        self._check_ws_url(f"ws://{address}/")
        try:
            version = await self._get(f"http://{address}/json/version", _VERSION_TIMEOUT, {})
        except AdsPowerAPIException as error:  # of the browser, not of the app
            raise AdsPowerAPIException("no browser", f"nothing answers on {address}") from error
        ws_url = _parse(_Version, version).ws_url
        try:
            path = urlsplit(ws_url).path
        except ValueError:
            raise AdsPowerAPIException(200, "the browser's address cannot be read", retryable=False) from None
        return self._check_ws_url(f"ws://{address}{path}")

    async def stop_profile(self, profile_id: str) -> None:
        """One that does not run is a failure to AdsPower and a success here."""
        try:
            await self._call("/api/v1/browser/stop", self._stop_timeout, user_id=profile_id)
        except AdsPowerAPIException as error:
            if "not open" not in error.message:
                raise

    def _check_ws_url(self, ws_url: str) -> str:
        try:
            return checked_ws_url(ws_url, api_url=self._base_url, hosts=self._browser_hosts)
        except ValueError as error:
            raise AdsPowerAPIException(200, str(error), retryable=False) from None

    async def _call(self, path: str, timeout: float, **params: str) -> Any:
        async with self._lock:
            now = monotonic()
            turn = max(now, self._next_call)
            self._next_call = turn + self._spacing
        await asyncio.sleep(turn - now)
        answer = await self._get(f"{self._base_url}{path}", timeout, params)
        if not isinstance(answer, dict) or "code" not in answer:
            expected = mismatch_text("the body", "an object with a code", describe_kind(answer))
            raise AdsPowerAPIException("no code", expected, retryable=False)
        if answer["code"] != 0:
            message = error_words(str(answer.get("msg") or ""))
            raise AdsPowerAPIException(
                f"code {printable(str(answer['code']))}", message, retryable="Too many" in message
            )
        return answer.get("data") or {}

    async def _get(self, url: str, timeout: float, params: dict[str, str]) -> Any:
        """`timeout`: seconds for the whole answer."""
        try:
            async with asyncio.timeout(timeout):
                response = await self._http.get(url, params=params, timeout=timeout, extensions=LIST)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise AdsPowerAPIException("timeout", f"no answer within {timeout:g} seconds") from error
        except httpx.ConnectError as error:  # nothing was sent
            raise AdsPowerAPIException(UNREACHABLE, "the app cannot be reached (is it running?)") from error
        except AnswerTooLargeError as error:
            raise AdsPowerAPIException("too large", str(error), retryable=False) from error
        except httpx.HTTPError as error:
            raise AdsPowerAPIException("disconnected", "the app broke the connection") from error
        if not response.is_success:
            retryable = response.status_code >= 500
            raise AdsPowerAPIException(response.status_code, "the app refused the call", retryable=retryable)
        if (answer := json_in(response)) is None:
            expected = mismatch_text("the body", "JSON", body_kind(response))
            raise AdsPowerAPIException(response.status_code, expected, retryable=False)
        return answer


def _parse(model: type[T], data: Any) -> T:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise AdsPowerAPIException(200, misfits(error), retryable=False) from None
