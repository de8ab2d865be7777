"""Stand-in for the local API of GoLogin's desktop app (http://localhost:36912): start and stop a profile."""

import json
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from sandbox.browsers import DEAD_PROXY, BrowserStartError
from sandbox.faults import Call, Endpoint, Fault
from sandbox.sandbox_state import SandboxState, StateDep
from sandbox.state import Profile

router = APIRouter()


class StartRequest(BaseModel):
    profileId: str  # noqa: N815  (GoLogin's spelling)
    sync: bool = True


class StopRequest(BaseModel):
    profileId: str  # noqa: N815


@router.post("/browser/start-profile", response_model=None)
async def start_profile(body: StartRequest, sandbox: StateDep) -> dict[str, Any] | Response:
    """Starts the browser and answers when it is up; with `sync: false` at once, without `wsUrl`."""
    profile = sandbox.profiles.get(body.profileId)
    if profile is None:
        return PlainTextResponse("Profile deleted or not found", 404)
    fault = sandbox.faults.take(
        Endpoint.LOCAL_START, profile.account, {"no_ws_url", "start_then_kill", "odd_address", "dead_proxy"}
    )
    if fault is not None and fault.kind == "no_ws_url":
        return {"status": "success"}
    if not body.sync:
        sandbox.browsers.start_soon(profile)
        return {"status": "success"}
    return await _start_and_wait(profile, fault, sandbox)


@router.post("/browser/stop-profile", status_code=204)
async def stop_profile(body: StopRequest, sandbox: StateDep) -> Response:
    """204 with an empty body when the browser is gone, also when none was running."""
    await sandbox.browsers.stop(body.profileId)
    return Response(status_code=204)


def create_gologin_local(sandbox: SandboxState) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.state.sandbox = sandbox
    app.include_router(router)
    return app


def identify(request: Request, body: bytes, sandbox: SandboxState) -> Call | None:
    """Endpoint and account of a local call, the latter from the profile id in the body."""
    endpoints = {"/browser/start-profile": Endpoint.LOCAL_START, "/browser/stop-profile": Endpoint.LOCAL_STOP}
    endpoint = endpoints.get(request.url.path)
    return Call(endpoint, _account(body, sandbox)) if endpoint else None


async def _start_and_wait(
    profile: Profile, fault: Fault | None, sandbox: SandboxState
) -> dict[str, Any] | Response:
    flags = DEAD_PROXY if fault is not None and fault.kind == "dead_proxy" else ()
    try:
        ws_url = await sandbox.browsers.start(profile, flags=flags)
    except (BrowserStartError, TimeoutError) as error:
        return PlainTextResponse(f"Failed to start profile: {error}", 500)
    if fault is not None and fault.kind == "odd_address":
        return {"status": "success", "wsUrl": fault.body}
    if fault is not None and fault.kind == "start_then_kill":
        await sandbox.browsers.kill(profile.account, after=fault.seconds or 0.0)
    return {"status": "success", "wsUrl": ws_url}


def _account(body: bytes, sandbox: SandboxState) -> str | None:
    try:
        profile = sandbox.profiles.get(json.loads(body)["profileId"])
    except (ValueError, TypeError, KeyError):
        return None
    return profile.account if profile else None
