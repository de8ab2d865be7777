"""`/authorize`: ask for an authorization, see what became of it, cancel it, try it again."""

from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from app.api.dependencies import (
    AuthorizeCallerDep,
    ContextDep,
    DbDep,
    IdempotencyKeyDep,
    KeyFirstRoute,
    ReadDbDep,
    SessionsReadCallerDep,
    WaitDep,
)
from app.api.errors import errors
from app.api.openapi import LOCATION
from app.api.responses import APIResponse, PaginatedResponse, success_response
from app.api.schemas.authorization import AuthorizeRequest, SessionListQuery, SessionResponse, SessionSummary
from app.api.schemas.paging import Pager
from app.services.authorizations import queries
from app.utils.exceptions import (
    AppPausedException,
    AttentionNotNeededException,
    BatchEndingException,
    BodyTooLargeException,
    IdempotencyConflictException,
    InvalidCursorException,
    ProfileConflictException,
    ProfileNotFoundException,
    ProfileQuarantinedException,
    SessionEndedException,
    SessionNotEndedException,
    SessionNotFoundException,
    TooManyWaitingException,
    UnknownApiAppException,
)

router = APIRouter(prefix="/authorize", tags=["authorization"], route_class=KeyFirstRoute)


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    operation_id="authorize",
    responses={
        status.HTTP_200_OK: {
            "model": APIResponse[SessionResponse],
            "description": "The session of an earlier request",
            "headers": LOCATION,
        },
        status.HTTP_202_ACCEPTED: {"headers": LOCATION},
        **errors(
            UnknownApiAppException,
            ProfileNotFoundException,
            ProfileConflictException,
            ProfileQuarantinedException,
            IdempotencyConflictException,
            AppPausedException,
            TooManyWaitingException,
            BodyTooLargeException,
        ),
    },
)
async def authorize(
    body: AuthorizeRequest,
    caller: AuthorizeCallerDep,
    context: ContextDep,
    wait: WaitDep,
    response: Response,
    idempotency_key: IdempotencyKeyDep = None,
) -> APIResponse[SessionResponse]:
    """Start the account's authorization. The answer comes at once; `Prefer: wait=30` waits for the end."""
    authorizations = context.sessions.authorizations
    result = await authorizations.submit(body.to_command(), caller=caller, idempotency_key=idempotency_key)
    response.headers["Location"] = f"/authorize/{result.session_id}"
    if not result.is_new:
        response.status_code = status.HTTP_200_OK
    if wait:
        view = await authorizations.wait_for_end(result.session_id, seconds=wait)
    else:
        view = await authorizations.view_result(result)
    return success_response(SessionResponse.from_view(view, existing=not result.is_new))


@router.get("", operation_id="listAuthorizations", responses=errors(InvalidCursorException))
async def list_authorizations(
    query: Annotated[SessionListQuery, Query()],
    caller: SessionsReadCallerDep,
    context: ContextDep,
    db: ReadDbDep,
) -> PaginatedResponse[SessionSummary]:
    """List authorization sessions, newest first."""
    pager = Pager(query, context.cursors, caller, list_name="authorize")
    request = pager.request(descending=query.order == "desc")
    page = await queries.fetch_page(db, query.filter(), request, access=caller.access)
    return pager.answer(page, SessionSummary.from_row)


@router.get("/{session_id}", operation_id="getAuthorization", responses=errors(SessionNotFoundException))
async def get_authorization(
    session_id: str, caller: SessionsReadCallerDep, context: ContextDep, wait: WaitDep
) -> APIResponse[SessionResponse]:
    """Return the session's status, stage, timings, attempts and error. `Prefer: wait=30` waits for its end."""
    view = await context.sessions.authorizations.wait_for_end(session_id, seconds=wait, access=caller.access)
    return success_response(SessionResponse.from_view(view))


@router.post(
    "/{session_id}/cancel",
    operation_id="cancelAuthorization",
    responses=errors(SessionNotFoundException, SessionEndedException),
)
async def cancel_authorization(
    session_id: str, caller: AuthorizeCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[SessionResponse]:
    """End the session now. A running browser stops within two seconds."""
    await context.sessions.authorizations.cancel(db, session_id, actor=caller.name, access=caller.access)
    await db.flush()
    return success_response(
        SessionResponse.from_view(await context.sessions.authorizations.view(db, session_id))
    )


@router.post(
    "/{session_id}/retry",
    status_code=status.HTTP_202_ACCEPTED,
    operation_id="retryAuthorization",
    responses=errors(
        SessionNotFoundException, SessionNotEndedException, AppPausedException, BatchEndingException
    ),
)
async def retry_authorization(
    session_id: str, caller: AuthorizeCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[SessionResponse]:
    """Start a session again that ended without tokens."""
    await context.sessions.authorizations.retry(db, session_id, actor=caller.name, access=caller.access)
    await db.flush()
    return success_response(
        SessionResponse.from_view(await context.sessions.authorizations.view(db, session_id))
    )


@router.post(
    "/{session_id}/resume",
    status_code=status.HTTP_202_ACCEPTED,
    operation_id="resumeAuthorization",
    responses=errors(
        SessionNotFoundException, AttentionNotNeededException, AppPausedException, BatchEndingException
    ),
)
async def resume_authorization(
    session_id: str, caller: AuthorizeCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[SessionResponse]:
    """Open the profile at the page that needs attention, for a person who is at the machine. The session continues
    when the person is done.
    """
    await context.sessions.authorizations.resume(db, session_id, actor=caller.name, access=caller.access)
    await db.flush()
    return success_response(
        SessionResponse.from_view(await context.sessions.authorizations.view(db, session_id))
    )
