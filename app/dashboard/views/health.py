"""Health: readiness, processes, versions and settings; closes the breaker of GoLogin's cloud API."""

import platform

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.dependencies import ContextDep, DbDep, FleetAdminCallerDep, FleetReadCallerDep
from app.api.endpoints.health import readiness_report
from app.dashboard.notices import redirect
from app.dashboard.page_route import SignedInRoute
from app.dashboard.pages import render
from app.dashboard.settings_list import list_settings
from app.services.keys.service import Scope
from app.services.operations import processes
from app.services.operations.connections import count_connections

router = APIRouter(prefix="/ui/health", route_class=SignedInRoute, include_in_schema=False)


@router.get("")
async def show_health(request: Request, caller: FleetReadCallerDep, context: ContextDep) -> Response:
    report = await readiness_report(context)
    settings, database = context.settings, context.database
    async with database.reading() as db:
        runs = await processes.list_worker_runs(db)
        holders = await processes.list_lease_holders(db, runs, lease_seconds=settings.lease_seconds)
        revision = await processes.read_schema_revision(db)
    return render(
        request,
        "health.html",
        report=report,
        runs=runs,
        holders=holders,
        connections=None if database.is_sqlite else await count_connections(database),
        versions={
            "Python": platform.python_version(),
            "kind of database": database.engine.dialect.name,
            "schema": revision,
        },
        # No answer of the API has them, so they are for those who may do everything.
        settings=list(list_settings(settings)) if caller.may(Scope.ADMIN) else None,
    )


@router.get("/breaker")
async def confirm_close(request: Request, _caller: FleetAdminCallerDep, context: ContextDep) -> Response:
    state = await context.fleet.gate.state()
    reason = f" It opened because of: {state.reason}." if state.reason else ""
    return render(
        request,
        "confirm.html",
        title="Close the breaker of GoLogin's cloud API?",
        text=f"Calls are made again at once.{reason} Check first that the API token of the settings works: GoLogin "
        "revokes it for good on one call too many.",
        label="The token works: close the breaker",
        back="/ui/health",
        fields={},
    )


@router.post("/breaker")
async def close_breaker(
    request: Request, caller: FleetAdminCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    was_open = await context.fleet.gate.close(db, actor=caller.name)
    text = "The breaker is closed; calls are made again." if was_open else "The breaker was closed already."
    return redirect(request, "/ui/health", text)
