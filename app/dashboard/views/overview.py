"""Overview: the state of the fleet in numbers, each with the list behind it, and its history in charts; live."""

from collections.abc import AsyncIterator
from datetime import timedelta
from time import monotonic
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event

from app.api.dependencies import ContextDep, FleetReadCallerDep
from app.api.endpoints.events import UNBUFFERED
from app.api.schemas.fleet import FleetResponse
from app.context import Context
from app.dashboard.overview_parts import OverviewParts, Parts, read_charts
from app.dashboard.page_route import LiveRoute, SignedInRoute
from app.dashboard.pages import Pages, render
from app.models import utc_now
from app.services.keys.service import Caller, Scope
from app.services.shared.access import EVERYTHING
from app.utils.exceptions import (
    AuthenticationException,
    DatabaseUnavailableException,
    TooManyStreamsException,
)
from app.utils.tasks import wait_for_event

_INTERVAL: Final = 5.0
"""Seconds between two looks for what has changed."""
_RETRY_MS: Final = 5_000

router = APIRouter(prefix="/ui", route_class=SignedInRoute, include_in_schema=False)
live_router = APIRouter(prefix="/ui", route_class=LiveRoute, include_in_schema=False)


@router.get("")
async def show_overview(request: Request, context: ContextDep) -> Response:
    caller: Caller = request.state.caller
    if not _may_see(caller):
        return render(request, "overview_restricted.html")
    return render(request, "overview.html", **await _read(context))


@live_router.get("/overview/live")
async def follow_overview(
    request: Request, context: ContextDep, _caller: FleetReadCallerDep
) -> EventSourceResponse:
    """Send the parts of the page that have changed, for as long as the caller may see them."""
    parts: OverviewParts = request.app.state.overview_parts
    limit = context.settings.event_stream_readers
    if parts.readers >= limit:
        raise TooManyStreamsException("The service", limit)
    return EventSourceResponse(_tell(request, context, parts), headers=UNBUFFERED)


async def _tell(request: Request, context: Context, parts: OverviewParts) -> AsyncIterator[bytes]:
    settings, sent = context.settings, Parts()
    ends_at = monotonic() + settings.event_stream_lifetime
    check_at = beat_at = monotonic() + settings.event_stream_heartbeat
    yield format_sse_event(retry=_RETRY_MS, comment="connected")
    with parts.reading():
        # At the end of its time, and when the process stops, the browser comes again by itself.
        while monotonic() < ends_at and not context.shutdown.is_set():
            try:
                if monotonic() >= check_at:
                    check_at = monotonic() + settings.event_stream_heartbeat
                    if not await _may_still_see(request, context):
                        yield format_sse_event(event="end", data_str="")
                        return
                now = await parts.read(lambda: _render(request, context))
            except DatabaseUnavailableException:  # which has logged it
                now = sent
            for name in (name for name, text in now.items() if sent.get(name) != text):
                yield format_sse_event(event=name, data_str=now[name])
                beat_at = monotonic() + settings.event_stream_heartbeat
            if monotonic() >= beat_at:
                yield format_sse_event(comment="heartbeat")
                beat_at = monotonic() + settings.event_stream_heartbeat
            sent = now
            pause = min(_INTERVAL, settings.event_stream_heartbeat, ends_at - monotonic())
            await wait_for_event(context.shutdown, max(0.0, pause))


async def _may_still_see(request: Request, context: Context) -> bool:
    try:
        caller = await context.dashboard_sessions.authenticate(request.state.session_id, is_activity=False)
    except AuthenticationException:
        return False
    return _may_see(caller)


def _may_see(caller: Caller) -> bool:
    return caller.may(Scope.FLEET_READ) and caller.access == EVERYTHING


async def _render(request: Request, context: Context) -> Parts:
    """Return the parts, which are the same for all who may see them."""
    pages: Pages = request.app.state.pages
    values = await _read(context)
    names = ("numbers", "charts", "state")
    return {name: pages.text(request, f"_overview_{name}.html", **values) for name in names}


async def _read(context: Context) -> dict[str, Any]:
    """Eleven statements, however large the fleet is."""
    now = utc_now()
    async with context.database.reading() as db:
        overview = await context.accounts.overview.read(db)
        charts = await read_charts(db, now)
    fleet = FleetResponse.from_overview(overview, fleet_limit=context.settings.fleet_max_running_profiles)
    counted_at = fleet.counted_at or now
    hour_ago = (counted_at - timedelta(hours=1)).isoformat(timespec="seconds")
    return {"fleet": fleet, "charts": charts, "counted_at": counted_at, "hour_ago": hour_ago}


router.routes.extend(live_router.routes)
