"""Events: the audit trail with its filters, and as a file."""

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from app.api.dependencies import ContextDep, EventsCallerDep, ReadDbDep
from app.api.endpoints.events import export_counted, export_response
from app.api.schemas.event import EventExportQuery, EventListQuery
from app.dashboard.listing import app_names, render_list
from app.dashboard.page_route import SignedInRoute, read_query
from app.models import EventType
from app.services.events import queries
from app.services.keys.service import Scope
from app.utils.exceptions import AuthenticationException

router = APIRouter(prefix="/ui/events", route_class=SignedInRoute, include_in_schema=False)


@router.get("")
async def list_events(
    request: Request, caller: EventsCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    """Show a page. Events are not counted: there are always more."""
    query = read_query(request, EventListQuery)
    filters = query.filter(caller.access)
    return await render_list(
        request,
        "events.html",
        query,
        list_name="ui events",
        fetch=lambda page: queries.fetch_page(db, filters, page),
        apps=app_names(context, caller),
        event_types=sorted(EventType),
    )


@router.get("/export", dependencies=[Depends(export_counted)])
async def export(request: Request, caller: EventsCallerDep, context: ContextDep) -> StreamingResponse:
    """Send all events that fit as CSV; the connection of an incomplete file is broken off."""
    query = read_query(request, EventExportQuery)

    async def may_read() -> bool:
        try:
            now = await context.dashboard_sessions.authenticate(request.state.session_id, is_activity=False)
        except AuthenticationException:
            return False
        return now.may(Scope.EVENTS) and now.access == caller.access

    return await export_response(context, caller, query, may_read)
