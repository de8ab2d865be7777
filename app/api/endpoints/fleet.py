"""`/fleet`: the whole fleet in numbers."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api.dependencies import ContextDep, FleetReadCallerDep, KeyFirstRoute, ReadDbDep
from app.api.errors import errors
from app.api.responses import APIResponse, success_response
from app.api.schemas.fleet import FleetResponse
from app.api.schemas.fleet_history import FleetHistoryQuery, FleetHistoryResponse
from app.models import utc_now
from app.services.fleet.history import HistoryRange, fetch_points

router = APIRouter(prefix="/fleet", tags=["fleet"], route_class=KeyFirstRoute)


@router.get("", operation_id="getFleet", responses=errors())
async def get_fleet(
    _caller: FleetReadCallerDep, context: ContextDep, db: ReadDbDep
) -> APIResponse[FleetResponse]:
    """Return accounts by state and reason, the queue, slots, budgets, apps, webhooks, alarms and workers.

    Large tables are counted by the monitor: `counted_at` says when.
    """
    overview = await context.accounts.overview.read(db)
    limit = context.settings.fleet_max_running_profiles
    return success_response(FleetResponse.from_overview(overview, fleet_limit=limit))


@router.get("/history", operation_id="getFleetHistory", responses=errors())
async def get_fleet_history(
    _caller: FleetReadCallerDep, db: ReadDbDep, query: Annotated[FleetHistoryQuery, Query()]
) -> APIResponse[FleetHistoryResponse]:
    """Return the numbers of each minute, hour or longer step: sessions that ended, queue, accounts by state.

    The monitor stores them once a minute. Minutes are kept for `FLEET_HISTORY_MINUTE_DAYS`, then hours for
    `FLEET_HISTORY_HOUR_DAYS`.
    """
    wanted = HistoryRange.resolve(query.since, query.until, query.step, now=utc_now())
    return success_response(FleetHistoryResponse.from_points(wanted, await fetch_points(db, wanted)))
