"""API keys: who has which rights and used them when; created and rotated ones are shown once."""

from datetime import timedelta
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.dependencies import AdminCallerDep, ContextDep, DbDep, ReadDbDep
from app.api.schemas.key import CreateKeyRequest, KeyListQuery, RotateKeyRequest
from app.dashboard.fields import OVERLAPS, split_values
from app.dashboard.listing import app_names, render_list
from app.dashboard.notices import redirect
from app.dashboard.page_route import SignedInRoute, parse, read_query
from app.dashboard.pages import render
from app.services.keys.service import Caller, MadeKey, Scope
from app.services.keys.status import KeyStatus, key_status
from app.services.shared.access import AccessScope

_PATH: Final = "/ui/keys"

router = APIRouter(prefix=_PATH, route_class=SignedInRoute, include_in_schema=False)


@router.get("")
async def list_keys(request: Request, caller: AdminCallerDep, context: ContextDep, db: ReadDbDep) -> Response:
    query = read_query(request, KeyListQuery)
    return await render_list(
        request,
        "keys.html",
        query,
        list_name="ui keys",
        fetch=lambda page: context.keys.fetch_page(db, query.filter(), page, caller=caller),
        sort="name",
        key_statuses=list(KeyStatus),
        key_status=key_status,
    )


@router.get("/new")
async def show_new(request: Request, caller: AdminCallerDep, context: ContextDep) -> Response:
    return render(request, "key_new.html", apps=app_names(context, caller), scopes=_scopes(caller))


@router.post("")
async def create(request: Request, caller: AdminCallerDep, context: ContextDep, db: DbDep) -> Response:
    """Create a key; the answer is the only page that shows it."""
    form: dict[str, str] = request.state.form
    values: dict[str, Any] = {
        "name": form.get("name", "").strip(),
        "scopes": [scope for scope in Scope if form.get(f"scope {scope}")],
        "api_apps": split_values(form.get("api_apps", "")),
        "account_patterns": split_values(form.get("account_patterns", "")),
    }
    optional = ("expires_at", "rate_limit_per_minute")
    values |= {name: given for name in optional if (given := form.get(name, "").strip())}
    body = parse(CreateKeyRequest, values)
    new_key = await context.keys.create(
        db,
        name=body.name,
        scopes=frozenset(body.scopes),
        access=AccessScope.from_lists(body.api_apps, body.account_patterns),
        expires_at=body.expires_at,
        rate_limit_per_minute=body.rate_limit_per_minute,
        caller=caller,
    )
    return _shown_once(request, new_key, title=f"The key {new_key.row.name} is created", status=201)


@router.get("/{key_id}")
async def show_key(
    request: Request, key_id: str, caller: AdminCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    row = await context.keys.get(db, key_id, caller=caller)
    return render(
        request,
        "key.html",
        row=row,
        state=key_status(row),
        default_rate=context.settings.rate_limit_per_minute,
    )


@router.get("/{key_id}/rotate")
async def confirm_rotate(
    request: Request, key_id: str, caller: AdminCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    row = await context.keys.get(db, key_id, caller=caller)
    return render(
        request,
        "rotate.html",
        title=f"Rotate the key {row.name}?",
        text="The new key is shown once. The key in use works on for the time below.",
        overlaps=OVERLAPS,
        field="overlap",
        previous_ends=row.previous_expires_at,
        back=f"{_PATH}/{row.key_id}",
    )


@router.post("/{key_id}/rotate")
async def rotate(
    request: Request, key_id: str, caller: AdminCallerDep, context: ContextDep, db: DbDep
) -> Response:
    form: dict[str, str] = request.state.form
    options = parse(RotateKeyRequest, {name: form[name] for name in ("overlap", "force") if form.get(name)})
    new_key = await context.keys.rotate(
        db, key_id, overlap=timedelta(seconds=options.overlap), force=options.force, caller=caller
    )
    return _shown_once(request, new_key, title=f"The key {new_key.row.name} is rotated")


@router.get("/{key_id}/revoke")
async def confirm_revoke(
    request: Request, key_id: str, caller: AdminCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    row = await context.keys.get(db, key_id, caller=caller)
    return render(
        request,
        "confirm.html",
        title=f"Revoke the key {row.name}?",
        text="Its requests are refused from now on, and its sign-ins to this page end. It cannot be undone, and the "
        "name stays taken.",
        label="Revoke the key",
        back=f"{_PATH}/{row.key_id}",
        fields={},
    )


@router.post("/{key_id}/revoke")
async def revoke(
    request: Request, key_id: str, caller: AdminCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    row = await context.keys.revoke(db, key_id, caller=caller)
    return redirect(request, f"{_PATH}/{row.key_id}", f"The key {row.name} is revoked.")


def _scopes(caller: Caller) -> list[Scope]:
    """Return the scopes that the caller may give."""
    return [scope for scope in Scope if caller.may(scope)]


def _shown_once(request: Request, new_key: MadeKey, *, title: str, status: int = 200) -> Response:
    return render(
        request,
        "secret.html",
        status=status,
        title=title,
        label="API key",
        secret=new_key.key.get_secret_value(),
        text="Its owner sends it as X-API-Key, or as Authorization: Bearer.",
        next_page=f"{_PATH}/{new_key.row.key_id}",
        next_label="To the key",
    )
