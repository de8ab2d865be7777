"""Profiles: whose they are, which run, which are quarantined, and syncs with GoLogin's list."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.dependencies import ContextDep, DbDep, FleetProfilesCallerDep, ProfilesCallerDep, ReadDbDep
from app.api.schemas.profile import LinkRequest, ProfileListQuery
from app.dashboard.listing import app_names, render_list
from app.dashboard.notices import redirect
from app.dashboard.page_route import SignedInRoute, parse, read_query
from app.dashboard.pages import profile_path, render
from app.models import ProfileSync
from app.services.shared.access import EVERYTHING

router = APIRouter(prefix="/ui/profiles", route_class=SignedInRoute, include_in_schema=False)


@router.get("")
async def list_profiles(
    request: Request, caller: ProfilesCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    query = read_query(request, ProfileListQuery)
    last_sync: ProfileSync | None = None
    is_fleet = caller.access == EVERYTHING  # syncs concern all accounts
    if is_fleet:
        last_sync = await context.fleet.syncs.latest(db)
    return await render_list(
        request,
        "profiles.html",
        query,
        list_name="ui profiles",
        fetch=lambda page: context.fleet.directory.fetch_page(db, query.filter(), page, access=caller.access),
        sort=query.sort,
        descending=query.order == "desc",
        apps=app_names(context, caller),
        is_fleet=is_fleet,
        last_sync=last_sync,
    )


@router.post("/sync")
async def sync(
    request: Request, caller: FleetProfilesCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    await context.sync_worker.request(db, requested_by=caller.name)
    return redirect(
        request, "/ui/profiles", "The sync is requested; it starts now, or after the running one."
    )


@router.get("/{profile_id}")
async def show_profile(
    request: Request, profile_id: str, caller: ProfilesCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    row = await context.fleet.directory.get(db, profile_id, access=caller.access)
    return render(request, "profile.html", row=row, apps=app_names(context, caller))


@router.post("/{profile_id}/link")
async def link(
    request: Request, profile_id: str, caller: ProfilesCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    form: dict[str, str] = request.state.form
    body = parse(
        LinkRequest,
        {"twitter_username": form.get("twitter_username", ""), "api_app": form.get("api_app") or None},
    )
    await context.fleet.directory.link(
        db,
        profile_id,
        account_id=body.twitter_username,
        api_app=body.api_app,
        actor=caller.name,
        access=caller.access,
    )
    return redirect(request, profile_path(profile_id), f"The profile is linked to @{body.twitter_username}.")


@router.get("/{profile_id}/unlink")
async def confirm_unlink(
    request: Request, profile_id: str, caller: ProfilesCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    row = await context.fleet.directory.get(db, profile_id, access=caller.access)
    return render(
        request,
        "confirm.html",
        title=f"Unlink {row.profile_name} from @{row.account_id}?",
        text="The rule of the settings decides the profile's account again.",
        label="Unlink the profile",
        back=profile_path(profile_id),
        fields={},
    )


@router.post("/{profile_id}/unlink")
async def unlink(
    request: Request, profile_id: str, caller: ProfilesCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    row = await context.fleet.directory.unlink(db, profile_id, actor=caller.name, access=caller.access)
    is_covered = caller.access.covers(row.account_id, row.api_app)
    back = profile_path(profile_id) if is_covered else "/ui/profiles"
    return redirect(request, back, "The profile is unlinked.")


@router.get("/{profile_id}/release")
async def confirm_release(
    request: Request, profile_id: str, caller: ProfilesCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    row = await context.fleet.directory.get(db, profile_id, access=caller.access)
    owner = f" of @{row.account_id}" if row.account_id else ""
    return render(
        request,
        "confirm.html",
        title=f"Release the profile {row.profile_name}{owner}?",
        text="Its browser could not be stopped. Look at the machine first: the profile may run only once at a time.",
        label="No browser runs: release it",
        back=profile_path(profile_id),
        fields={},
    )


@router.post("/{profile_id}/release")
async def release(
    request: Request, profile_id: str, caller: ProfilesCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    await context.fleet.directory.release(db, profile_id, actor=caller.name, access=caller.access)
    return redirect(request, profile_path(profile_id), "The profile is released.")
