"""`/keys`: the callers' API keys, shown once, rotated and revoked."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, status

from app.api.dependencies import AdminCallerDep, ContextDep, DbDep, KeyFirstRoute, ReadDbDep
from app.api.errors import errors
from app.api.responses import APIResponse, PaginatedResponse, success_response
from app.api.schemas.key import CreateKeyRequest, KeyListQuery, KeyResponse, MadeKeyResponse, RotateKeyRequest
from app.api.schemas.paging import Pager
from app.services.shared.access import AccessScope
from app.utils.exceptions import (
    InvalidCursorException,
    KeyEndedException,
    KeyEscalationException,
    KeyNameTakenException,
    KeyNotFoundException,
    RotationUnderWayException,
    UnknownApiAppException,
)

router = APIRouter(prefix="/keys", tags=["keys"], route_class=KeyFirstRoute)


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    operation_id="createKey",
    responses=errors(KeyNameTakenException, KeyEscalationException, UnknownApiAppException),
)
async def create_key(
    body: CreateKeyRequest, caller: AdminCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[MadeKeyResponse]:
    """Create a key. No other answer shows it."""
    new_key = await context.keys.create(
        db,
        name=body.name,
        scopes=frozenset(body.scopes),
        access=AccessScope.from_lists(body.api_apps, body.account_patterns),
        expires_at=body.expires_at,
        rate_limit_per_minute=body.rate_limit_per_minute,
        caller=caller,
    )
    return success_response(MadeKeyResponse.from_key(new_key))


@router.get("", operation_id="listKeys", responses=errors(InvalidCursorException))
async def list_keys(
    query: Annotated[KeyListQuery, Query()],
    caller: AdminCallerDep,
    context: ContextDep,
    db: ReadDbDep,
) -> PaginatedResponse[KeyResponse]:
    """List keys by name, revoked ones included. A restricted key sees itself and the keys that it created."""
    pager = Pager(query, context.cursors, caller, list_name="keys")
    page = await context.keys.fetch_page(db, query.filter(), pager.request(sort="name"), caller=caller)
    return pager.answer(page, KeyResponse.from_row)


@router.get("/{key_id}", operation_id="getKey", responses=errors(KeyNotFoundException))
async def get_key(
    key_id: str, caller: AdminCallerDep, context: ContextDep, db: ReadDbDep
) -> APIResponse[KeyResponse]:
    """Return a key's scopes, access, expiry and last use."""
    return success_response(KeyResponse.from_row(await context.keys.get(db, key_id, caller=caller)))


@router.post(
    "/{key_id}/rotate",
    operation_id="rotateKey",
    responses=errors(
        KeyNotFoundException, KeyEndedException, RotationUnderWayException, KeyEscalationException
    ),
)
async def rotate_key(
    key_id: str,
    caller: AdminCallerDep,
    context: ContextDep,
    db: DbDep,
    body: RotateKeyRequest | None = None,
) -> APIResponse[MadeKeyResponse]:
    """Create a successor of the key, shown once. The old key works for `overlap` more seconds, by default a day."""
    options = body or RotateKeyRequest()
    overlap = timedelta(seconds=options.overlap)
    new_key = await context.keys.rotate(db, key_id, overlap=overlap, force=options.force, caller=caller)
    return success_response(MadeKeyResponse.from_key(new_key))


@router.delete("/{key_id}", operation_id="revokeKey", responses=errors(KeyNotFoundException))
async def revoke_key(
    key_id: str, caller: AdminCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[KeyResponse]:
    """Revoke a key for good, at once. It stays in the list, and its name stays taken."""
    return success_response(KeyResponse.from_row(await context.keys.revoke(db, key_id, caller=caller)))
