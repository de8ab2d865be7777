"""Overview: the state of the fleet in numbers, each with the list behind it."""

from datetime import timedelta

from fastapi import APIRouter, Request, Response

from app.api.dependencies import ContextDep
from app.dashboard.page_route import LiveRoute, SignedInRoute
from app.dashboard.pages import render
from app.models import utc_now
from app.services.keys.service import Caller, Scope
from app.services.operations.counts import count_fleet
from app.services.shared.access import EVERYTHING

router = APIRouter(prefix="/ui", route_class=SignedInRoute, include_in_schema=False)
live_router = APIRouter(prefix="/ui", route_class=LiveRoute, include_in_schema=False)


@router.get("")
@live_router.get("/overview/live")
async def show_overview(request: Request, context: ContextDep) -> Response:
    caller: Caller = request.state.caller
    if not caller.may(Scope.FLEET_READ) or caller.access != EVERYTHING:
        return render(request, "overview_restricted.html")
    return render(
        request,
        "overview.html",
        counts=await count_fleet(context.database),
        gologin=context.fleet.gologin,
        breaker=await context.fleet.gate.state(),
        alarms=await context.alarms.active(),
        workers=context.workers.started,
        an_hour_ago=(utc_now() - timedelta(hours=1)).isoformat(timespec="seconds"),
    )


router.routes.extend(live_router.routes)
