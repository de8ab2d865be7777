"""`/fleet`: the whole fleet in numbers."""

from fastapi import APIRouter

from app.api.dependencies import ContextDep, FleetReadCallerDep, KeyFirstRoute, ReadDbDep
from app.api.errors import errors
from app.api.responses import APIResponse, success_response
from app.api.schemas.fleet import FleetResponse

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
