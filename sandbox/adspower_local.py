"""Stand-in for AdsPower's local API (http://local.adspower.net:50325): list, start and stop the same profiles.

Every answer is HTTP 200 with `{"code": 0, "msg": "success", "data": …}`; code -1 is a failure.
"""

import shutil
import time
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from sandbox.browsers import DEAD_PROXY, BrowserStartError
from sandbox.faults import ADSPOWER_TOO_MANY, Call, Endpoint
from sandbox.sandbox_state import SandboxState, StateDep
from sandbox.state import Profile

MAX_PAGE_SIZE: Final = 100

ENDPOINTS: Final = {
    "/status": Endpoint.ADSPOWER_STATUS,
    "/api/v1/user/list": Endpoint.ADSPOWER_LIST,
    "/api/v1/browser/start": Endpoint.ADSPOWER_START,
    "/api/v1/browser/stop": Endpoint.ADSPOWER_STOP,
}


class AdsPowerError(Exception):
    """An error in AdsPower's shape."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


async def _check_pace(request: Request, sandbox: StateDep) -> None:
    """A call that follows the one before too soon is refused, and counts as the one before all the same."""
    now, last_call = time.monotonic(), request.app.state.last_call
    request.app.state.last_call = now
    if last_call is not None and now - last_call < sandbox.settings.adspower_spacing_ms / 1000:
        raise AdsPowerError(ADSPOWER_TOO_MANY)


router = APIRouter(dependencies=[Depends(_check_pace)])


@router.get("/api/v1/user/list")
async def list_users(
    sandbox: StateDep,
    page: Annotated[int, Query(ge=1)] = 1,
    page_size: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 1,
    user_id: str = "",
) -> dict[str, Any]:
    """Pages are 1-based, with one row unless told; a page after the last one is empty."""
    profiles = list(sandbox.profiles.all())
    if user_id:
        profiles = [profile for profile in profiles if profile.id == user_id]
    first = (page - 1) * page_size
    rows = [_row(profile, sandbox) for profile in profiles[first : first + page_size]]
    return _success({"list": rows, "page": page, "page_size": page_size})


@router.get("/api/v1/browser/start")
async def start_browser(sandbox: StateDep, user_id: str = "") -> dict[str, Any]:
    """Answers when the browser is up; with the same addresses when it runs already."""
    profile = sandbox.profiles.get(user_id)
    if profile is None:
        raise AdsPowerError("user account does not exist")
    fault = sandbox.faults.take(
        Endpoint.ADSPOWER_START,
        profile.account,
        {"no_ws_url", "start_then_kill", "odd_address", "dead_proxy"},
    )
    if fault is not None and fault.kind == "no_ws_url":
        return _success({})
    flags = DEAD_PROXY if fault is not None and fault.kind == "dead_proxy" else ()
    try:
        ws_url = await sandbox.browsers.start(profile, flags=flags)
    except (BrowserStartError, TimeoutError) as error:
        raise AdsPowerError(f"failed to start the browser: {error}") from error
    if fault is not None and fault.kind == "odd_address":
        return _success({"ws": {"selenium": fault.body}})
    if fault is not None and fault.kind == "start_then_kill":
        await sandbox.browsers.kill(profile.account, after=fault.seconds or 0.0)
    return _success(_addresses(ws_url))


@router.get("/api/v1/browser/stop")
async def stop_browser(sandbox: StateDep, user_id: str = "") -> dict[str, Any]:
    """Answers when the browser is gone."""
    if not any(browser.profile_id == user_id for browser in sandbox.browsers.running()):
        raise AdsPowerError("User_id is not open")
    await sandbox.browsers.stop(user_id)
    return _success({})


def create_adspower_local(sandbox: SandboxState) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.state.sandbox = sandbox
    app.state.last_call = None
    app.include_router(router)
    app.add_api_route("/status", _status)
    app.add_exception_handler(AdsPowerError, _show_error)
    app.add_exception_handler(RequestValidationError, _show_invalid_query)
    return app


def identify(request: Request, body: bytes, sandbox: SandboxState) -> Call | None:
    """Endpoint and account of a call, the latter from the query."""
    endpoint = ENDPOINTS.get(request.url.path)
    if endpoint is None:
        return None
    profile = sandbox.profiles.get(request.query_params.get("user_id", ""))
    return Call(endpoint, profile.account if profile else None)


async def _status() -> dict[str, Any]:
    """Any number of calls may ask."""
    return _success({})


def _success(data: dict[str, Any]) -> dict[str, Any]:
    return {"code": 0, "msg": "success", "data": data}


def _addresses(ws_url: str) -> dict[str, Any]:
    address = urlsplit(ws_url)
    return {
        "ws": {"selenium": address.netloc, "puppeteer": ws_url},
        "debug_port": str(address.port),
        "webdriver": shutil.which("chromedriver") or "",
    }


def _row(profile: Profile, sandbox: SandboxState) -> dict[str, Any]:
    """Return a profile's row, with the proxy's password in clear, as GoLogin's rows have it."""
    return {
        "user_id": profile.id,
        "serial_number": "1",
        "name": profile.name,
        "remark": "",
        "group_id": "1",
        "group_name": "sandbox",
        "created_time": str(int(profile.created_at.timestamp())),
        "last_open_time": "0",
        "user_proxy_config": {
            "proxy_soft": "other",
            "proxy_type": "http",
            "proxy_host": "proxy.sandbox.invalid",
            "proxy_port": "8080",
            "proxy_user": f"proxy-{profile.account}",
            "proxy_password": f"{sandbox.proxy_secret}-{profile.id[:8]}",
        },
    }


async def _show_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AdsPowerError)
    return JSONResponse({"code": -1, "msg": error.message})


async def _show_invalid_query(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    return JSONResponse({"code": -1, "msg": f"{problem['loc'][-1]}: {problem['msg']}"})
