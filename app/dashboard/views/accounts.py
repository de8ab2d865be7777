"""Accounts: their token sets, never a token, and what can be done about them."""

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.ext.asyncio import AsyncSession

from app.api.dependencies import (
    AuthorizeCallerDep,
    ContextDep,
    ReadDbDep,
    SessionsReadCallerDep,
    TokensManageCallerDep,
)
from app.api.schemas.account import AccountListQuery, ApiAppQuery
from app.api.schemas.authorization import AuthorizeRequest
from app.context import Context
from app.dashboard.listing import app_names, render_list
from app.dashboard.notices import redirect
from app.dashboard.page_route import SignedInRoute, own_path, parse, read_query
from app.dashboard.pages import account_path, query_string, render
from app.models import Profile
from app.services.keys.service import Caller, Scope
from app.services.shared.paging import Page, PageRequest
from app.services.tokens import accounts
from app.services.tokens.account_states import AccountState
from app.services.tokens.account_views import AccountSelection, AccountView
from app.utils.exceptions import TokenNotFoundException

_PATH: Final = "/ui/accounts"
_NOT_IN_OWN_ORDER: Final = frozenset({"status", "sort", "order"})
"""Filters and orders that a list by state or expiry does not have."""
_OWN_ORDERS: Final = frozenset({"state", "expires_since", "expires_until"})
_WITHOUT_TOKENS: Final = (AccountState.NEEDS_PERSON, AccountState.NEVER_AUTHORIZED)

router = APIRouter(prefix=_PATH, route_class=SignedInRoute, include_in_schema=False)


@router.get("")
async def list_accounts(
    request: Request, caller: SessionsReadCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    given = {name: value for name, value in request.query_params.items() if value.strip()}
    if _OWN_ORDERS & given.keys() and _NOT_IN_OWN_ORDER & given.keys():
        kept = {name: value for name, value in given.items() if name not in _NOT_IN_OWN_ORDER}
        return RedirectResponse(f"{_PATH}{query_string(kept)}", 303)
    query = read_query(request, AccountListQuery)
    views = context.accounts.views
    profiles: dict[tuple[str, str | None], Profile] = {}

    async def fetch(page_request: PageRequest) -> Page[AccountView]:
        if query.has_own_order:
            page = await views.fetch_page(db, query.selection(), page_request, access=caller.access)
        else:
            found = await accounts.fetch_page(db, query.filter(), page_request, access=caller.access)
            page = Page(await views.describe(db, found.rows), found.total, found.number, found.end)
        profiles.update(await _profiles(context, db, caller, page.rows))
        return page

    return await render_list(
        request,
        "accounts.html",
        query,
        list_name="ui accounts",
        fetch=fetch,
        sort="id" if query.has_own_order else query.sort,
        descending=query.order == "desc",
        apps=app_names(context, caller),
        account_states=list(AccountState),
        has_own_order=query.has_own_order,
        profiles=profiles,
    )


async def _profiles(
    context: Context, db: AsyncSession, caller: Caller, rows: Sequence[AccountView]
) -> dict[tuple[str, str | None], Profile]:
    """Return the profiles of accounts, as far as the caller may see profiles."""
    if not rows or not caller.may(Scope.PROFILES):
        return {}
    keys = [(row.account_id, row.api_app or "") for row in rows]
    found = await context.fleet.directory.get_for_accounts(db, keys)
    return {
        (account_id, api_app or None): profile
        for (account_id, api_app), profile in found.items()
        if isinstance(profile, Profile) and caller.access.covers(profile.account_id, profile.api_app)
    }


@router.get("/{account_id}")
async def show_account(
    request: Request, account_id: str, caller: SessionsReadCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    rows = await accounts.list_for_account(db, account_id, access=caller.access)
    profiles: Sequence[Profile] | None = None
    if caller.may(Scope.PROFILES):
        profiles = await context.fleet.directory.list_for_account(db, account_id, access=caller.access)
    views = await context.accounts.views.describe(db, rows)
    for state in () if rows else _WITHOUT_TOKENS:
        selection = AccountSelection(state=state, account_ids=[account_id])
        page = await context.accounts.views.fetch_page(db, selection, PageRequest(), access=caller.access)
        views += page.rows
    if not views and not profiles:
        raise TokenNotFoundException(account_id, "any app")
    return render(
        request,
        "account.html",
        account_id=account_id,
        views=views,
        profiles=profiles,
        apps=app_names(context, caller),
    )


@router.post("/{account_id}/refresh")
async def refresh(
    request: Request, account_id: str, caller: TokensManageCallerDep, context: ContextDep
) -> RedirectResponse:
    api_app = _app(request)
    await context.tokens.credentials.get_access_token(
        account_id, api_app, min_ttl=0, actor=caller.name, access=caller.access, force=True
    )
    return _back(request, account_id, f"The tokens of @{account_id} in {api_app} are refreshed.")


@router.post("/{account_id}/verify")
async def verify(
    request: Request, account_id: str, caller: TokensManageCallerDep, context: ContextDep
) -> RedirectResponse:
    api_app = _app(request)
    user = await context.tokens.credentials.verify(
        account_id, api_app, actor=caller.name, access=caller.access
    )
    is_same = user.username == account_id
    verdict = "as it should" if is_same else f"and not to @{account_id}: authorize the account again"
    return _back(request, account_id, f"The token in {api_app} belongs to @{user.username}, {verdict}.")


@router.post("/{account_id}/authorize")
async def authorize(
    request: Request, account_id: str, caller: AuthorizeCallerDep, context: ContextDep
) -> RedirectResponse:
    body = parse(AuthorizeRequest, {"account_id": account_id, "api_app": _app(request)})
    result = await context.sessions.authorizations.submit(
        body.to_command(), caller=caller, idempotency_key=None
    )
    text = "The session is requested." if result.is_new else "This session of the account is open already."
    return redirect(request, f"/ui/sessions/{result.session_id}", text)


@router.get("/{account_id}/revoke")
async def confirm_revoke(
    request: Request, account_id: str, caller: TokensManageCallerDep, db: ReadDbDep
) -> Response:
    api_app = parse(ApiAppQuery, dict(request.query_params)).api_app
    rows = await accounts.list_for_account(db, account_id, access=caller.access)
    if api_app not in {row.api_app for row in rows}:
        raise TokenNotFoundException(account_id, api_app)
    return render(
        request,
        "confirm.html",
        title=f"Revoke the tokens of @{account_id} in {api_app}?",
        text="The provider revokes them and the service deletes them: whoever uses them is refused from then on. "
        "Only a new authorization brings tokens again.",
        label="Revoke the tokens",
        back=account_path(account_id),
        fields={"api_app": api_app},
    )


@router.post("/{account_id}/revoke")
async def revoke(
    request: Request, account_id: str, caller: TokensManageCallerDep, context: ContextDep
) -> RedirectResponse:
    api_app = _app(request)
    is_done = await context.tokens.credentials.revoke(
        account_id, api_app, actor=caller.name, access=caller.access
    )
    return redirect(
        request,
        "/ui/accounts",
        f"The tokens of @{account_id} in {api_app} are revoked and deleted."
        if is_done
        else f"The provider did not answer; the service goes on asking it to revoke those of @{account_id}.",
    )


def _app(request: Request) -> str:
    return parse(ApiAppQuery, {"api_app": request.state.form.get("api_app", "")}).api_app


def _back(request: Request, account_id: str, notice: str) -> RedirectResponse:
    return redirect(request, own_path(request.state.form.get("next"), account_path(account_id)), notice)
