"""`/apps`: OAuth apps that are paused because they failed by their own fault, or whose calls the provider limits."""

from fastapi import APIRouter

from app.api.dependencies import (
    AdminCallerDep,
    AppsReadCallerDep,
    ContextDep,
    DbDep,
    KeyFirstRoute,
    ReadDbDep,
)
from app.api.errors import errors
from app.api.responses import APIResponse, success_response
from app.api.schemas.app import PausedAppResponse, ResumedAppResponse

router = APIRouter(prefix="/apps", tags=["apps"], route_class=KeyFirstRoute)


@router.get("/paused", operation_id="listPausedApps", responses=errors())
async def list_paused_apps(
    caller: AppsReadCallerDep, context: ContextDep, db: ReadDbDep
) -> APIResponse[list[PausedAppResponse]]:
    """List apps whose sessions do not start: paused ones with time and reason, limited ones with the end and name of
    the limit.
    """
    rows = await context.tokens.apps.list_stopped(db, access=caller.access)
    return success_response([PausedAppResponse.from_row(row) for row in rows])


@router.post("/{api_app}/resume", operation_id="resumeApp", responses=errors())
async def resume_app(
    api_app: str, caller: AdminCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[ResumedAppResponse]:
    """Let the app's sessions start again, and lift its limits in all processes. Correct its settings first."""
    resumed = await context.tokens.apps.resume(db, api_app, actor=caller.name, access=caller.access)
    return success_response(
        ResumedAppResponse(api_app=api_app, was_paused=resumed.was_paused, was_limited=resumed.was_limited)
    )
