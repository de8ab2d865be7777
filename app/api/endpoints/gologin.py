"""`/gologin`: the breaker that guards the cloud API."""

from fastapi import APIRouter

from app.api.dependencies import ContextDep, DbDep, FleetAdminCallerDep, FleetReadCallerDep, KeyFirstRoute
from app.api.errors import errors
from app.api.responses import APIResponse, success_response
from app.api.schemas.health import BreakerResponse

router = APIRouter(prefix="/gologin", tags=["gologin"], route_class=KeyFirstRoute)


@router.get("/breaker", operation_id="getBreaker", responses=errors())
async def get_breaker(_caller: FleetReadCallerDep, context: ContextDep) -> APIResponse[BreakerResponse]:
    """Return whether calls to GoLogin's cloud API are stopped, since when and why."""
    return success_response(BreakerResponse.from_state(await context.fleet.gate.state()))


@router.post("/breaker/close", operation_id="closeBreaker", responses=errors())
async def close_breaker(
    caller: FleetAdminCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[BreakerResponse]:
    """Allow calls again. Check first that the API token of the settings works."""
    await context.fleet.gate.close(db, actor=caller.name)
    return success_response(BreakerResponse(is_open=False, opened_at=None, reason=None))
