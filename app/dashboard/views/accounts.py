"""Accounts: their token sets, never a token, and what can be done about them."""

from collections.abc import Sequence

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
from app.dashboard.pages import account_path, render
from app.models import Credential, Profile
from app.services.keys.service import Caller, Scope
from app.services.shared.paging import Page, PageRequest
from app.services.tokens import accounts
from app.utils.exceptions import TokenNotFoundException

router = APIRouter(prefix="/ui/accounts", route_class=SignedInRoute, include_in_schema=False)


@router.get("")
async def list_accounts(
    request: Request, caller: SessionsReadCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    query = read_query(request, AccountListQuery)
    profiles: dict[tuple[str, str], Profile] = {}

    async def fetch(page_request: PageRequest) -> Page[Credential]:
        page = await accounts.fetch_page(db, query.filter(), page_request, access=caller.access)
        profiles.update(await _profiles(context, db, caller, page.rows))
        return page

    return await render_list(
        request,
        "accounts.html",
        query,
        list_name="ui accounts",
        fetch=fetch,
        sort=query.sort,
        descending=query.order == "desc",
        apps=app_names(context, caller),
        profiles=profiles,
    )


async def _profiles(
    context: Context, db: AsyncSession, caller: Caller, rows: Sequence[Credential]
) -> dict[tuple[str, str], Profile]:
    """Return the profiles of token sets, as far as the caller may see profiles."""
    if not rows or not caller.may(Scope.PROFILES):
        return {}
    keys = [(row.account_id, row.api_app) for row in rows]
    found = await context.fleet.directory.get_for_accounts(db, keys)
    return {
        key: profile
        for key, profile in found.items()
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
    if not rows and not profiles:
        raise TokenNotFoundException(account_id, "any app")
    return render(
        request,
        "account.html",
        account_id=account_id,
        rows=rows,
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
