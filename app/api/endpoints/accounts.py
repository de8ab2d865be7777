"""`/accounts`: the tokens of authorised accounts, handed out fresh; never in a list or a view."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api.dependencies import (
    ContextDep,
    KeyFirstRoute,
    ReadDbDep,
    SessionsReadCallerDep,
    TokensCallerDep,
    TokensManageCallerDep,
)
from app.api.errors import errors
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
from app.api.schemas.common import AccountId
from app.api.schemas.paging import Pager
from app.services.tokens import accounts
from app.utils.exceptions import (
    AccountRefusedException,
    AppLimitedException,
    AppPausedException,
    CreditsDepletedException,
    InvalidClientException,
    InvalidCursorException,
    ReauthorizationRequiredException,
    TokenExpiredException,
    TokenNotFoundException,
    TokenNotRefreshableException,
    TokenRevokedException,
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


@router.get("", operation_id="listAccounts", responses=errors(InvalidCursorException))
async def list_accounts(
    query: Annotated[AccountListQuery, Query()],
    caller: SessionsReadCallerDep,
    context: ContextDep,
    db: ReadDbDep,
) -> PaginatedResponse[AccountResponse]:
    """List accounts that have tokens, with status, expiry, last refresh and failures."""
    pager = Pager(query, context.cursors, caller, list_name="accounts")
    request = pager.request(sort=query.sort, descending=query.order == "desc")
    page = await accounts.fetch_page(db, query.filter(), request, access=caller.access)
    return pager.answer(page, AccountResponse.from_row)


@router.get("/{account_id}", operation_id="getAccount", responses=errors(TokenNotFoundException))
async def get_account(
    account_id: AccountId, caller: SessionsReadCallerDep, db: ReadDbDep
) -> APIResponse[list[AccountResponse]]:
    """List the account's token sets, one for each app."""
    rows = await accounts.list_for_account(db, account_id, access=caller.access)
    if not rows:
        raise TokenNotFoundException(account_id, "any app")
    return success_response([AccountResponse.from_row(row) for row in rows])


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
    return success_response(AccountResponse.from_row(token.row))


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
