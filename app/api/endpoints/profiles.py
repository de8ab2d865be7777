"""`/profiles`: which there are, whose they are, and bringing them up to date with GoLogin."""

from typing import Annotated

from fastapi import APIRouter, Query, status

from app.api.dependencies import (
    ContextDep,
    DbDep,
    FleetProfilesCallerDep,
    KeyFirstRoute,
    ProfilesCallerDep,
    ReadDbDep,
)
from app.api.errors import errors
from app.api.responses import APIResponse, PaginatedResponse, success_response
from app.api.schemas.common import AccountId
from app.api.schemas.paging import PageQuery, Pager
from app.api.schemas.profile import LinkRequest, ProfileListQuery, ProfileResponse, SyncRequest, SyncResponse
from app.utils.exceptions import (
    InvalidCursorException,
    ProfileConflictException,
    SyncNotFoundException,
    UnknownProfileException,
)

router = APIRouter(prefix="/profiles", tags=["profiles"], route_class=KeyFirstRoute)


@router.get("", operation_id="listProfiles", responses=errors(InvalidCursorException))
async def list_profiles(
    query: Annotated[ProfileListQuery, Query()],
    caller: ProfilesCallerDep,
    context: ContextDep,
    db: ReadDbDep,
) -> PaginatedResponse[ProfileResponse]:
    """List profiles as of the last sync."""
    pager = Pager(query, context.cursors, caller, list_name="profiles")
    request = pager.request(sort=query.sort, descending=query.order == "desc")
    page = await context.fleet.directory.fetch_page(db, query.filter(), request, access=caller.access)
    return pager.answer(page, ProfileResponse.from_row)


@router.post("/sync", status_code=status.HTTP_202_ACCEPTED, operation_id="syncProfiles", responses=errors())
async def sync_profiles(
    caller: FleetProfilesCallerDep, context: ContextDep, db: DbDep, body: SyncRequest | None = None
) -> APIResponse[SyncResponse]:
    """Start a sync with GoLogin's list now, or when the running one has ended."""
    allow_mass_removal = body.allow_mass_removal if body else False
    sync = await context.sync_worker.request(
        db, requested_by=caller.name, allow_mass_removal=allow_mass_removal
    )
    return success_response(SyncResponse.from_row(sync))


@router.get("/sync", operation_id="listSyncs", responses=errors(InvalidCursorException))
async def list_syncs(
    query: Annotated[PageQuery, Query()],
    caller: FleetProfilesCallerDep,
    context: ContextDep,
    db: ReadDbDep,
) -> PaginatedResponse[SyncResponse]:
    """List syncs with GoLogin's list, newest first."""
    pager = Pager(query, context.cursors, caller, list_name="syncs")
    page = await context.fleet.syncs.fetch_page(db, pager.request(descending=True))
    return pager.answer(page, SyncResponse.from_row)


@router.get("/sync/{sync_id}", operation_id="getSync", responses=errors(SyncNotFoundException))
async def get_sync(
    sync_id: str, _caller: FleetProfilesCallerDep, context: ContextDep, db: ReadDbDep
) -> APIResponse[SyncResponse]:
    """Return a sync's progress and result."""
    return success_response(SyncResponse.from_row(await context.fleet.syncs.get(db, sync_id)))


@router.get("/by-account/{account_id}", operation_id="listProfilesOfAccount", responses=errors())
async def list_profiles_of_account(
    account_id: AccountId,
    caller: ProfilesCallerDep,
    context: ContextDep,
    db: ReadDbDep,
    api_app: Annotated[str | None, Query(description="Only profiles for this app, or for any app")] = None,
) -> APIResponse[list[ProfileResponse]]:
    """List the account's active profiles. An authorization uses the first one."""
    rows = await context.fleet.directory.list_for_account(
        db, account_id, api_app=api_app, access=caller.access
    )
    return success_response([ProfileResponse.from_row(row) for row in rows])


@router.get("/{profile_id}", operation_id="getProfile", responses=errors(UnknownProfileException))
async def get_profile(
    profile_id: str, caller: ProfilesCallerDep, context: ContextDep, db: ReadDbDep
) -> APIResponse[ProfileResponse]:
    """Return a profile, also one that GoLogin no longer lists."""
    return success_response(
        ProfileResponse.from_row(await context.fleet.directory.get(db, profile_id, access=caller.access))
    )


@router.put(
    "/{profile_id}/account",
    operation_id="linkProfile",
    responses=errors(UnknownProfileException, ProfileConflictException),
)
async def link_profile(
    profile_id: str, body: LinkRequest, caller: ProfilesCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[ProfileResponse]:
    """Link a profile to an account. A link takes precedence over the rule of the settings."""
    row = await context.fleet.directory.link(
        db,
        profile_id,
        account_id=body.twitter_username,
        api_app=body.api_app,
        actor=caller.name,
        access=caller.access,
    )
    return success_response(ProfileResponse.from_row(row))


@router.delete(
    "/{profile_id}/account", operation_id="unlinkProfile", responses=errors(UnknownProfileException)
)
async def unlink_profile(
    profile_id: str, caller: ProfilesCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[ProfileResponse]:
    """Unlink a profile: the rule of the settings decides its account again."""
    row = await context.fleet.directory.unlink(db, profile_id, actor=caller.name, access=caller.access)
    return success_response(ProfileResponse.from_row(row))


@router.post(
    "/{profile_id}/release", operation_id="releaseProfile", responses=errors(UnknownProfileException)
)
async def release_profile(
    profile_id: str, caller: ProfilesCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[ProfileResponse]:
    """End the profile's quarantine. Check first that no browser of the profile runs."""
    row = await context.fleet.directory.release(db, profile_id, actor=caller.name, access=caller.access)
    return success_response(ProfileResponse.from_row(row))
