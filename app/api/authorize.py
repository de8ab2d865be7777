"""`/authorize`: ask for an authorization and see what became of it."""

from fastapi import APIRouter, Response, status

from app.api.dependencies import AuthorizeCallerDep, ContextDep, WaitDep
from app.api.errors import errors
from app.api.responses import APIResponse, success_response
from app.api.schemas import AuthorizeRequest, SessionResponse
from app.utils.exceptions import (
    BodyTooLargeException,
    ProfileConflictException,
    ProfileNotFoundException,
    ProfileQuarantinedException,
    SessionNotFoundException,
    UnknownApiAppException,
)

router = APIRouter(prefix="/authorize", tags=["authorization"])


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    operation_id="authorize",
    responses=errors(
        UnknownApiAppException,
        ProfileNotFoundException,
        ProfileConflictException,
        ProfileQuarantinedException,
        BodyTooLargeException,
    ),
)
async def authorize(
    body: AuthorizeRequest, caller: AuthorizeCallerDep, context: ContextDep, wait: WaitDep, response: Response
) -> APIResponse[SessionResponse]:
    """Start the account's authorization. The answer comes at once; `Prefer: wait=30` waits for the end."""
    async with context.database.transaction() as session:
        row = await context.authorizations.request(
            session, account_id=body.account_id, api_app=body.api_app, caller=caller
        )
    response.headers["Location"] = f"/authorize/{row.session_id}"
    view = await context.authorizations.wait_for_end(row.session_id, seconds=wait)
    return success_response(SessionResponse.from_view(view))


@router.get("/{session_id}", operation_id="getAuthorization", responses=errors(SessionNotFoundException))
async def get_authorization(
    session_id: str, _caller: AuthorizeCallerDep, context: ContextDep, wait: WaitDep
) -> APIResponse[SessionResponse]:
    """The session's status, stage, timings and error; `Prefer: wait=30` waits for its end."""
    view = await context.authorizations.wait_for_end(session_id, seconds=wait)
    return success_response(SessionResponse.from_view(view))
