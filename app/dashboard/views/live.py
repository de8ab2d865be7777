"""The live view: a session's browser on a canvas, and help for a session that waits for a person."""

from typing import Final
from urllib.parse import urlsplit

import structlog
from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.responses import RedirectResponse

from app.api.dependencies import AuthorizeCallerDep, ContextDep, DbDep, EvidenceCallerDep, ReadDbDep, identify
from app.api.errors import exception_response
from app.api.http.client_address import client_address
from app.api.http.middleware import CALLER_VARIABLES
from app.context import Context
from app.dashboard.live_socket import LiveSocket
from app.dashboard.page_route import SESSION_COOKIE, SignedInRoute
from app.dashboard.pages import render
from app.services.keys.service import Caller, Scope
from app.services.live.directory import find_live_session
from app.utils.exceptions import AppException, FormRefusedException, PermissionDeniedException
from app.utils.logger import get_logger
from app.utils.request_id import accept_request_id

_PREFIX: Final = "/ui/sessions/{session_id}"
_TRY_AGAIN: Final = 1013

router = APIRouter(prefix=_PREFIX, route_class=SignedInRoute, include_in_schema=False)
log = get_logger(__name__)


@router.get("/live/view")
async def show_view(request: Request, session_id: str, caller: EvidenceCallerDep, db: ReadDbDep) -> Response:
    session = await find_live_session(db, session_id, access=caller.access)
    return render(request, "live.html", session=session)


@router.post("/help")
async def resume_and_help(
    session_id: str, caller: AuthorizeCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    """Resume a session that needs attention, for a person who acts in the live view."""
    for scope in (Scope.EVIDENCE, Scope.CONTROL):
        if not caller.may(scope):
            raise PermissionDeniedException(scope)
    await context.sessions.authorizations.resume(db, session_id, actor=caller.name, access=caller.access)
    return RedirectResponse(f"/ui/sessions/{session_id}/live/view", 303)


@router.websocket("/live/socket")
async def serve_view(socket: WebSocket, session_id: str) -> None:
    """Serve one viewer. A page of another origin, or one without the sign-in and its scope, is refused."""
    with structlog.contextvars.bound_contextvars(request_id=accept_request_id(None), session_id=session_id):
        try:
            await _serve(socket, session_id)
        finally:
            structlog.contextvars.unbind_contextvars(*CALLER_VARIABLES)


def _require_own_origin(socket: WebSocket) -> None:
    """Refuse a WebSocket that a page of another origin opens. Raises `FormRefusedException`.

    Browsers send the page's origin with each one (RFC 6455, 4.1), and cookies whatever it is.
    """
    origin = urlsplit(socket.headers.get("Origin", ""))
    if not origin.netloc or origin.netloc != socket.headers.get("Host"):
        raise FormRefusedException


async def _serve(socket: WebSocket, session_id: str) -> None:
    context: Context = socket.app.state.context
    cookie = socket.cookies.get(SESSION_COOKIE)

    async def sign_in(is_activity: bool) -> Caller:
        return await context.dashboard_sessions.authenticate(cookie, is_activity=is_activity)

    viewers: set[WebSocket] = socket.app.state.live_viewers
    try:
        _require_own_origin(socket)
        await identify(socket, lambda: sign_in(True))
        caller: Caller = socket.state.caller
        if not caller.may(Scope.EVIDENCE):
            raise PermissionDeniedException(Scope.EVIDENCE)
        async with context.database.reading() as db:
            await find_live_session(db, session_id, access=caller.access)
    except AppException as error:
        log.info(
            "live.refused",
            error_code=error.error_code,
            status=error.status_code,
            client=client_address(socket.scope),
        )
        await socket.send_denial_response(exception_response(error))
        return
    await socket.accept()
    if len(viewers) >= context.settings.dashboard_live_viewers:
        await socket.send_json({"type": "end", "text": "Too many live views are open; try again later."})
        await socket.close(_TRY_AGAIN)
        return
    viewers.add(socket)
    try:
        log.info("live.view_opened")
        live = LiveSocket(
            socket=socket, context=context, caller=caller, session_id=session_id, sign_in=sign_in
        )
        await live.run()
    finally:
        viewers.discard(socket)
        log.info("live.view_closed")
