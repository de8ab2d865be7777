"""Health: readiness, diagnosis, machines, versions and settings; closes the breaker of GoLogin's cloud API."""

import platform

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.dependencies import ContextDep, DbDep, FleetAdminCallerDep, FleetReadCallerDep
from app.api.endpoints.health import readiness_report
from app.api.schemas.fleet import FleetResponse
from app.dashboard.notices import redirect
from app.dashboard.page_route import SignedInRoute
from app.dashboard.pages import render
from app.dashboard.settings_list import list_settings
from app.services.fleet.diagnosis import check_oldest_tokens, diagnose
from app.services.keys.service import Scope
from app.services.operations import processes
from app.services.operations.connections import count_connections

router = APIRouter(prefix="/ui/health", route_class=SignedInRoute, include_in_schema=False)


@router.get("")
async def show_health(request: Request, caller: FleetReadCallerDep, context: ContextDep) -> Response:
    report = await readiness_report(context)
    settings, database = context.settings, context.database
    async with database.reading() as db:
        overview = await context.accounts.overview.read(db)
        holders = await processes.list_lease_holders(db, overview.runs, lease_seconds=settings.lease_seconds)
        revision = await processes.read_schema_revision(db)
    # No answer of the API has settings and paths, so they are for those who may do everything.
    findings = None
    if is_admin := caller.may(Scope.ADMIN):
        checks = diagnose(settings, database, check_tokens=check_oldest_tokens)
        findings = [finding async for finding in checks]
    return render(
        request,
        "health.html",
        report=report,
        machines=FleetResponse.from_overview(overview, fleet_limit=None).machines,
        runs=overview.runs,
        holders=holders,
        connections=None if database.is_sqlite else await count_connections(database),
        versions={
            "Python": platform.python_version(),
            "kind of database": database.engine.dialect.name,
            "schema": revision,
        },
        findings=findings,
        settings=list(list_settings(settings)) if is_admin else None,
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
