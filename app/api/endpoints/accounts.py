"""`/accounts`: the tokens of authorised accounts, handed out fresh; never in a list or a view."""

from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response, status

from app.api.dependencies import (
    AnyCallerDep,
    ContextDep,
    KeyFirstRoute,
    ReadDbDep,
    SessionsReadCallerDep,
    TokensCallerDep,
    TokensManageCallerDep,
)
from app.api.errors import errors
from app.api.openapi import LOCATION
from app.api.responses import APIResponse, PaginatedResponse, success_response
from app.api.schemas.account import (
    AccountListQuery,
    AccountResponse,
    ApiAppQuery,
    RevokedResponse,
    TokenQuery,
    TokenResponse,
    VerifiedResponse,
)
from app.api.schemas.account_action import AccountActionRequest, AccountActionResponse, ActionAccount
from app.api.schemas.common import AccountId
from app.api.schemas.paging import Pager
from app.services.batches.account_actions import MAX_LISTED, AccountAction
from app.services.keys.service import Scope
from app.services.shared.paging import Page
from app.services.tokens import accounts
from app.utils.exceptions import (
    AccountCountException,
    AccountRefusedException,
    AppLimitedException,
    AppPausedException,
    BatchEmptyException,
    CreditsDepletedException,
    InvalidClientException,
    InvalidCursorException,
    PermissionDeniedException,
    ReauthorizationRequiredException,
    TokenExpiredException,
    TokenNotFoundException,
    TokenNotRefreshableException,
    TokenRevokedException,
    TooManyWaitingException,
    TwitterAPIException,
)

router = APIRouter(prefix="/accounts", tags=["accounts"], route_class=KeyFirstRoute)

_NO_TOKEN = (
    TokenNotFoundException,
    TokenExpiredException,
    TokenRevokedException,
    ReauthorizationRequiredException,
)
_NOT_REFRESHED = (
    AppPausedException,
    AppLimitedException,
    TwitterAPIException,
    InvalidClientException,
    CreditsDepletedException,
    AccountRefusedException,
)

_ACTION_SCOPES: Final = {
    AccountAction.REFRESH: Scope.TOKENS_MANAGE,
    AccountAction.REVOKE: Scope.TOKENS_MANAGE,
    AccountAction.AUTHORIZE: Scope.AUTHORIZE,
}
"""Scope of an action: the one that the same action on one account needs."""


@router.get("", operation_id="listAccounts", responses=errors(InvalidCursorException))
async def list_accounts(
    query: Annotated[AccountListQuery, Query()],
    caller: SessionsReadCallerDep,
    context: ContextDep,
    db: ReadDbDep,
) -> PaginatedResponse[AccountResponse]:
    """List accounts that have tokens, with state, problem, expiry, last refresh and failures; with `state` also those
    without tokens.
    """
    pager = Pager(query, context.cursors, caller, list_name="accounts")
    views = context.accounts.views
    if query.has_own_order:
        selected = await views.fetch_page(db, query.selection(), pager.request(), access=caller.access)
        return pager.answer(selected, AccountResponse.from_view)
    request = pager.request(sort=query.sort, descending=query.order == "desc")
    page = await accounts.fetch_page(db, query.filter(), request, access=caller.access)
    described = await views.describe(db, page.rows)
    return pager.answer(Page(described, page.total, page.number, page.end), AccountResponse.from_view)


@router.post(
    "/actions",
    operation_id="actOnAccounts",
    responses={
        status.HTTP_202_ACCEPTED: {
            "model": APIResponse[AccountActionResponse],
            "description": "The action is accepted; workers do it",
            "headers": LOCATION,
        },
        **errors(AccountCountException, BatchEmptyException, TooManyWaitingException),
    },
)
async def act_on_accounts(
    body: AccountActionRequest, response: Response, caller: AnyCallerDep, context: ContextDep
) -> APIResponse[AccountActionResponse]:
    """Refresh, authorize or revoke all accounts that a filter matches. A dry run, which is the default, counts them."""
    scope = _ACTION_SCOPES[body.action]
    if not caller.may(scope):
        raise PermissionDeniedException(scope)
    actions, selection = context.accounts.actions, body.filter.selection()
    if body.dry_run or body.expected_count is None:
        async with context.database.reading() as db:
            plan = await actions.plan(db, body.action, selection, caller=caller)
        return success_response(_action_response(body, plan.accounts, is_exact=plan.is_exact))
    async with context.database.transaction() as db:
        result = await actions.run(
            db, body.action, selection, expected_count=body.expected_count, caller=caller
        )
    response.status_code = status.HTTP_202_ACCEPTED
    if result.batch_id is not None:
        response.headers["Location"] = f"/batches/{result.batch_id}"
    answer = _action_response(body, result.accounts, changed=result.changed, batch_id=result.batch_id)
    return success_response(answer)


@router.get("/{account_id}", operation_id="getAccount", responses=errors(TokenNotFoundException))
async def get_account(
    account_id: AccountId, caller: SessionsReadCallerDep, context: ContextDep, db: ReadDbDep
) -> APIResponse[list[AccountResponse]]:
    """List the account's token sets, one for each app."""
    rows = await accounts.list_for_account(db, account_id, access=caller.access)
    if not rows:
        raise TokenNotFoundException(account_id, "any app")
    views = await context.accounts.views.describe(db, rows)
    return success_response([AccountResponse.from_view(view) for view in views])


@router.get(
    "/{account_id}/token",
    operation_id="getToken",
    responses=errors(*_NO_TOKEN),
)
async def get_token(
    account_id: AccountId,
    query: Annotated[TokenQuery, Query()],
    caller: TokensCallerDep,
    context: ContextDep,
) -> APIResponse[TokenResponse]:
    """Return an access token that works now. A token that would not live for `min_ttl` seconds is refreshed first."""
    token = await context.tokens.credentials.get_access_token(
        account_id, query.api_app, min_ttl=query.min_ttl, actor=caller.name, access=caller.access
    )
    return success_response(TokenResponse.from_token(token))


@router.post(
    "/{account_id}/refresh",
    operation_id="refreshToken",
    responses=errors(*_NO_TOKEN, *_NOT_REFRESHED, TokenNotRefreshableException),
)
async def refresh_token(
    account_id: AccountId,
    query: Annotated[ApiAppQuery, Query()],
    caller: TokensManageCallerDep,
    context: ContextDep,
) -> APIResponse[AccountResponse]:
    """Refresh the account's tokens now, however long they live."""
    token = await context.tokens.credentials.get_access_token(
        account_id, query.api_app, min_ttl=0, actor=caller.name, access=caller.access, force=True
    )
    async with context.database.reading() as db:
        (view,) = await context.accounts.views.describe(db, [token.row])
    return success_response(AccountResponse.from_view(view))


@router.post(
    "/{account_id}/verify", operation_id="verifyToken", responses=errors(*_NO_TOKEN, *_NOT_REFRESHED)
)
async def verify_token(
    account_id: AccountId,
    query: Annotated[ApiAppQuery, Query()],
    caller: TokensManageCallerDep,
    context: ContextDep,
) -> APIResponse[VerifiedResponse]:
    """Ask the provider which account the token belongs to. A token that the provider refuses is refreshed, and
    verified again.
    """
    user = await context.tokens.credentials.verify(
        account_id, query.api_app, actor=caller.name, access=caller.access
    )
    is_same = user.username == account_id
    return success_response(
        VerifiedResponse(provider_user_id=user.id, username=user.username, is_same_account=is_same)
    )


@router.delete("/{account_id}/token", operation_id="revokeToken", responses=errors(TokenNotFoundException))
async def revoke_token(
    account_id: AccountId,
    query: Annotated[ApiAppQuery, Query()],
    caller: TokensManageCallerDep,
    context: ContextDep,
) -> APIResponse[RevokedResponse]:
    """Revoke the tokens at the provider, then delete them. While the provider does not answer, the service asks
    again.
    """
    revoked = await context.tokens.credentials.revoke(
        account_id, query.api_app, actor=caller.name, access=caller.access
    )
    return success_response(RevokedResponse(status="revoked" if revoked else "revoking"))


def _action_response(
    body: AccountActionRequest,
    selected: Sequence[tuple[str, str]],
    *,
    is_exact: bool = True,
    changed: int | None = None,
    batch_id: str | None = None,
) -> AccountActionResponse:
    return AccountActionResponse(
        action=body.action,
        dry_run=body.dry_run,
        count=len(selected),
        count_is_exact=is_exact,
        accounts=[
            ActionAccount(account_id=account_id, api_app=api_app)
            for account_id, api_app in selected[:MAX_LISTED]
        ],
        changed=changed,
        batch_id=batch_id,
    )
