"""Stand-in for GoLogin's cloud API (https://api.gologin.com): profile list, one profile, user."""

import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from sandbox.faults import Call, Endpoint
from sandbox.sandbox_state import SandboxState, StateDep
from sandbox.state import Profile

ROWS_A_PAGE = 30
RATE_WINDOW = 60.0  # seconds


class GoLoginError(Exception):
    """An error in GoLogin's shape."""

    def __init__(self, status: int, message: str | list[str]) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class RateLimiter:
    """Counts calls in a moving minute.

    The first call too many revokes the token for good, as GoLogin does.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: deque[float] = deque()

    def allows(self, limit: int | None) -> bool:
        now = self._clock()
        self._calls.append(now)
        while self._calls[0] <= now - RATE_WINDOW:
            self._calls.popleft()
        return limit is None or len(self._calls) <= limit


async def _check_access(request: Request, sandbox: StateDep) -> None:
    expected = f"Bearer {sandbox.gologin_token}"
    if request.headers.get("authorization") != expected or sandbox.settings.gologin_token_revoked:
        raise GoLoginError(401, "Unauthorized")
    limiter: RateLimiter = request.app.state.limiter
    if not limiter.allows(sandbox.settings.gologin_rate_limit):
        sandbox.settings.gologin_token_revoked = True
        raise GoLoginError(429, "Too Many Requests")


router = APIRouter(dependencies=[Depends(_check_access)])


@router.get("/browser/v2")
async def list_profiles(
    sandbox: StateDep, page: Annotated[int, Query(ge=1)] = 1, search: str = ""
) -> dict[str, Any]:
    """Pages are 1-based; a page after the last one is empty."""
    profiles = sandbox.profiles.search(search.strip())
    first = (page - 1) * ROWS_A_PAGE
    return {
        "profiles": [_row(profile, sandbox) for profile in profiles[first : first + ROWS_A_PAGE]],
        "allProfilesCount": len(profiles),
        "currentOrbitaMajorV": 142,
        "isFolderDeleted": False,
    }


@router.get("/browser/{profile_id}")
async def get_profile(profile_id: str, sandbox: StateDep) -> dict[str, Any]:
    """The row of the list and a little more."""
    profile = sandbox.profiles.get(profile_id)
    if profile is None:
        raise GoLoginError(404, "Profile deleted or not found")
    navigator = {
        "userAgent": "Mozilla/5.0",
        "resolution": "1920x1080",
        "language": "en-US",
        "platform": "Linux",
    }
    return {**_row(profile, sandbox), "navigator": navigator, "startUrl": "", "autoLang": True}


@router.get("/user")
async def get_user() -> dict[str, Any]:
    """The owner of the token."""
    return {
        "_id": "5f0c1b2a3d4e5f6071829304",
        "email": "owner@sandbox.invalid",
        "plan": {"name": "Enterprise"},
    }


def create_gologin_cloud(sandbox: SandboxState) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.state.sandbox = sandbox
    app.state.limiter = RateLimiter()
    app.include_router(router)
    app.add_exception_handler(GoLoginError, _show_error)
    app.add_exception_handler(RequestValidationError, _show_invalid_query)
    return app


def identify(request: Request, body: bytes, sandbox: SandboxState) -> Call | None:
    """Endpoint and account of a cloud call; the list and the user belong to no account."""
    path = request.url.path
    if path == "/browser/v2":
        return Call(Endpoint.GOLOGIN_LIST, None)
    if path == "/user":
        return Call(Endpoint.GOLOGIN_USER, None)
    if path.startswith("/browser/"):
        profile = sandbox.profiles.get(path.removeprefix("/browser/"))
        return Call(Endpoint.GOLOGIN_PROFILE, profile.account if profile else None)
    return None


def _row(profile: Profile, sandbox: SandboxState) -> dict[str, Any]:
    created = profile.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "id": profile.id,
        "name": profile.name,
        "notes": "",
        "os": "lin",
        "browserType": "chrome",
        "folders": [],
        "tags": [{"_id": "64a000000000000000000001", "title": "sandbox", "color": "blue", "field": "tags"}],
        "proxy": _proxy(profile, sandbox.proxy_secret),
        "proxyEnabled": True,
        "timezone": {"id": "Etc/UTC"},
        "canBeRunning": True,
        "runDisabledReason": None,
        "lockEnabled": False,
        "lastActivity": created,
        "createdAt": created,
        "updatedAt": created,
        "permissions": {
            "viewProfile": True,
            "runProfile": True,
            "updateProfile": True,
            "deleteProfile": True,
        },
    }


def _proxy(profile: Profile, secret: str) -> dict[str, Any]:
    """GoLogin sends the proxy's password in clear; this one is easy to grep for where it must not be."""
    return {
        "id": profile.id[::-1],
        "mode": "http",
        "host": "proxy.sandbox.invalid",
        "port": 8080,
        "username": f"proxy-{profile.account}",
        "password": f"{secret}-{profile.id[:8]}",
        "customName": "sandbox proxy",
    }


async def _show_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GoLoginError)
    phrase = HTTPStatus(error.status).phrase
    return JSONResponse({"statusCode": error.status, "error": phrase, "message": error.message}, error.status)


async def _show_invalid_query(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    messages = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
    return await _show_error(request, GoLoginError(400, messages))
