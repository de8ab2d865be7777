"""OAuth apps: which ones work, which are paused or limited and why, and their resume."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.dependencies import AdminCallerDep, AppsReadCallerDep, ContextDep, DbDep, ReadDbDep
from app.api.schemas.app import PausedAppResponse
from app.dashboard.listing import app_names
from app.dashboard.notices import redirect
from app.dashboard.page_route import SignedInRoute
from app.dashboard.pages import render

router = APIRouter(prefix="/ui/apps", route_class=SignedInRoute, include_in_schema=False)


@router.get("")
async def list_apps(
    request: Request, caller: AppsReadCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    rows = await context.tokens.apps.list_stopped(db, access=caller.access)
    return render(
        request,
        "apps.html",
        names=app_names(context, caller),
        apps=context.settings.oauth_apps,
        # Also of those that have left the settings.
        stopped={row.api_app: PausedAppResponse.from_row(row) for row in rows},
        consent_mode=context.settings.consent_mode,
    )


@router.post("/{api_app}/resume")
async def resume(
    request: Request, api_app: str, caller: AdminCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    resumed = await context.tokens.apps.resume(db, api_app, actor=caller.name, access=caller.access)
    is_changed = resumed.was_paused or resumed.was_limited
    text = "starts its sessions again" if is_changed else "was neither paused nor limited"
    return redirect(request, "/ui/apps", f"{api_app} {text}.")
