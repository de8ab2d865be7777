"""One session: its attempts, events and evidence, live while it runs, and what can be done about it."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.sse import EventSourceResponse, format_sse_event

from app.api.dependencies import (
    AuthorizeCallerDep,
    ContextDep,
    DbDep,
    EvidenceCallerDep,
    ReadDbDep,
    SessionsReadCallerDep,
)
from app.api.endpoints.events import UNBUFFERED
from app.api.http.stalled_clients import STALLED
from app.context import Context
from app.dashboard.notices import redirect
from app.dashboard.page_route import LiveRoute, SignedInRoute, own_path
from app.dashboard.pages import Pages, render
from app.dashboard.timeline import AttemptLine, build_timeline
from app.models import AuthorizationSession, Event, Evidence
from app.services.authorizations import evidence
from app.services.authorizations.service import SessionView
from app.services.events import queries as event_queries
from app.services.events.filters import EventFilter
from app.services.events.streams import Reader
from app.services.keys.service import Caller, Scope
from app.services.shared.paging import PageRequest
from app.utils.exceptions import AuthenticationException, SessionNotFoundException

_EVENTS: Final = 100
"""Latest events of a session that its page shows."""
_RETRY_MS: Final = 2_000

router = APIRouter(prefix="/ui/sessions/{session_id}", route_class=SignedInRoute, include_in_schema=False)
live_router = APIRouter(prefix=router.prefix, route_class=LiveRoute, include_in_schema=False)


@dataclass(frozen=True)
class _Shown:
    """Content of a session's page; None: the caller's scopes do not cover it."""

    row: AuthorizationSession
    view: SessionView
    events: Sequence[Event] | None
    evidence: Sequence[tuple[Evidence, bool]] | None
    timeline: Sequence[AttemptLine]


@router.get("")
async def show_session(
    request: Request, session_id: str, caller: SessionsReadCallerDep, context: ContextDep
) -> Response:
    return render(request, "session.html", shown=await _load(context, session_id, caller))


@router.get("/screenshot")
async def show_screenshot(
    session_id: str,
    caller: EvidenceCallerDep,
    db: ReadDbDep,
    attempt: Annotated[int, Query(ge=1, le=1_000_000)],
) -> Response:
    _, image = await evidence.screenshot(db, session_id, attempt=attempt, access=caller.access)
    return Response(image, media_type="image/jpeg")


async def _open_reader(
    request: Request, session_id: str, caller: SessionsReadCallerDep, context: ContextDep
) -> AsyncIterator[Reader]:
    """Open a reader of the session's events for as long as the answer is under way."""

    async def may_read() -> bool:
        try:
            now = await context.dashboard_sessions.authenticate(request.state.session_id, is_activity=False)
        except AuthenticationException:
            return False
        return (now.scopes, now.access) == (caller.scopes, caller.access)

    filters = EventFilter(session_id=session_id, access=caller.access)
    reader = Reader(key_name=caller.name, filters=filters, may_read=may_read)
    async with context.events.streams.open(reader, last=None):
        try:
            yield reader
        finally:
            reader.was_cut_off = getattr(request.state, STALLED, False)


@live_router.get("/live")
async def follow_session(
    request: Request, session_id: str, context: ContextDep, reader: Annotated[Reader, Depends(_open_reader)]
) -> EventSourceResponse:
    """Send the session's part of the page after each of its events, until it has ended."""
    await _load(context, session_id, request.state.caller)  # refused before the stream begins
    return EventSourceResponse(_parts(request, context, session_id, reader), headers=UNBUFFERED)


async def _parts(request: Request, context: Context, session_id: str, reader: Reader) -> AsyncIterator[bytes]:
    pages: Pages = request.app.state.pages
    yield format_sse_event(retry=_RETRY_MS, comment="connected")
    async with aclosing(_changes(context, reader)) as changes:
        async for has_changed in changes:
            if not has_changed:
                yield format_sse_event(comment="heartbeat")
                continue
            try:
                shown = await _load(context, session_id, request.state.caller)
            except SessionNotFoundException:
                break
            text = pages.text(request, "_session.html", shown=shown)
            yield format_sse_event(event="session", data_str=text)
            if shown.row.status.is_final:
                break
    if reader.ended in (None, "access"):  # else the browser comes again
        yield format_sse_event(event="end", data_str="")


async def _changes(context: Context, reader: Reader) -> AsyncGenerator[bool]:
    """Yield whether there is something new; first of all True: it may have changed since the page was made."""
    yield True
    async for batch in context.events.streams.tell(reader):
        yield bool(batch)


async def _load(context: Context, session_id: str, caller: Caller) -> _Shown:
    """Raises `SessionNotFoundException`."""
    async with context.database.reading() as db:
        view = await context.sessions.authorizations.view(db, session_id, access=caller.access)
        events = seen = None
        if caller.may(Scope.EVENTS):
            filters = EventFilter(session_id=session_id, access=caller.access)
            events = (await event_queries.fetch_page(db, filters, PageRequest(size=_EVENTS))).rows
        if caller.may(Scope.EVIDENCE):
            seen = await evidence.fetch_all(db, session_id, access=caller.access)
    return _Shown(view.row, view, events, seen, build_timeline(view, events or ()))


@router.post("/retry")
async def retry(
    request: Request, session_id: str, caller: AuthorizeCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    await context.sessions.authorizations.retry(db, session_id, actor=caller.name, access=caller.access)
    return _back(request, session_id, "The session waits for its next attempt.")


@router.post("/resume")
async def resume(
    request: Request, session_id: str, caller: AuthorizeCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    await context.sessions.authorizations.resume(db, session_id, actor=caller.name, access=caller.access)
    return _back(
        request, session_id, "The profile opens at the page that needs a person; act in its window now."
    )


@router.get("/cancel")
async def confirm_cancel(
    request: Request, session_id: str, caller: AuthorizeCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    row = (await context.sessions.authorizations.view(db, session_id, access=caller.access)).row
    return render(
        request,
        "confirm.html",
        title=f"Cancel the session of @{row.account_id}?",
        text=f"The session in {row.api_app} ends now, and a running browser is stopped. No tokens are stored.",
        label="Cancel the session",
        back=f"/ui/sessions/{row.session_id}",
        fields={},
    )


@router.post("/cancel")
async def cancel(
    request: Request, session_id: str, caller: AuthorizeCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    await context.sessions.authorizations.cancel(db, session_id, actor=caller.name, access=caller.access)
    return _back(request, session_id, "The session is cancelled.")


def _back(request: Request, session_id: str, notice: str) -> RedirectResponse:
    form: dict[str, Any] = request.state.form
    return redirect(request, own_path(form.get("next"), f"/ui/sessions/{session_id}"), notice)


router.routes.extend(live_router.routes)
