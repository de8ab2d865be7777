"""`/authorize/batch` and `/batches`: many accounts at once, at a pace, and what became of each."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response, status

from app.api.dependencies import (
    AuthorizeCallerDep,
    ContextDep,
    IdempotencyKeyDep,
    KeyFirstRoute,
    ReadDbDep,
    SessionsReadCallerDep,
)
from app.api.errors import errors
from app.api.openapi import LOCATION
from app.api.responses import APIResponse, PaginatedResponse, paginated_response, success_response
from app.api.schemas.batch import (
    REQUEST_BODY,
    BatchResponse,
    BatchSummary,
    PlacedBatchResponse,
    ResultListQuery,
    RetriedBatchResponse,
    RetryBatchRequest,
    RowResponse,
    read_batch,
)
from app.api.schemas.paging import PageQuery, Pager
from app.services.batches import queries
from app.services.shared.paging import PageRequest
from app.utils.exceptions import (
    AppPausedException,
    BatchEmptyException,
    BatchEndedException,
    BatchNotFoundException,
    BodyTooLargeException,
    IdempotencyConflictException,
    InvalidCursorException,
    NothingToRetryException,
    TooManyWaitingException,
)

BATCH_PATH = "/authorize/batch"

router = APIRouter(tags=["batches"], route_class=KeyFirstRoute)


@router.post(
    BATCH_PATH,
    status_code=status.HTTP_202_ACCEPTED,
    operation_id="authorizeBatch",
    openapi_extra={"requestBody": REQUEST_BODY},
    responses={
        status.HTTP_200_OK: {
            "model": APIResponse[PlacedBatchResponse],
            "description": "The batch of an earlier request",
            "headers": LOCATION,
        },
        status.HTTP_202_ACCEPTED: {"headers": LOCATION},
        **errors(
            BatchEmptyException, IdempotencyConflictException, TooManyWaitingException, BodyTooLargeException
        ),
    },
)
async def authorize_batch(
    request: Request,
    response: Response,
    caller: AuthorizeCallerDep,
    context: ContextDep,
    idempotency_key: IdempotencyKeyDep = None,
) -> APIResponse[PlacedBatchResponse]:
    """Start the authorization of many accounts: a JSON list, or a CSV whose options are in the query."""
    # In a thread: whoever waits for another answer does not wait for these rows.
    command = await asyncio.to_thread(
        read_batch,
        request.headers.get("Content-Type", ""),
        request.query_params,
        await request.body(),
        max_rows=context.settings.max_batch_rows,
    )
    async with context.database.transaction() as db:
        result = await context.sessions.batches.request(
            db, command, caller=caller, idempotency_key=idempotency_key
        )
    response.headers["Location"] = f"/batches/{result.batch_id}"
    if not result.is_new:
        response.status_code = status.HTTP_200_OK
    async with context.database.reading() as db:
        view = await queries.view_batch(db, result.batch_id, caller=caller)
        page = await queries.fetch_results(
            db, result.batch_id, PageRequest(size=len(command.rows)), caller=caller
        )
    results = [RowResponse.from_result(row) for row in page.rows]
    summary = BatchResponse.from_view(view)
    return success_response(PlacedBatchResponse(**vars(summary), rows=results, existing=not result.is_new))


@router.get("/batches", operation_id="listBatches", responses=errors(InvalidCursorException))
async def list_batches(
    query: Annotated[PageQuery, Query()],
    caller: SessionsReadCallerDep,
    context: ContextDep,
    db: ReadDbDep,
) -> PaginatedResponse[BatchSummary]:
    """List batches, newest first."""
    pager = Pager(query, context.cursors, caller, list_name="batches")
    page = await queries.fetch_batches(db, pager.request(descending=True), caller=caller)
    return pager.answer(page, BatchSummary.from_row)


@router.get("/batches/{batch_id}", operation_id="getBatch", responses=errors(BatchNotFoundException))
async def get_batch(
    batch_id: str, caller: SessionsReadCallerDep, db: ReadDbDep
) -> APIResponse[BatchResponse]:
    """Return a batch's status, counts and the time it still needs."""
    return success_response(BatchResponse.from_view(await queries.view_batch(db, batch_id, caller=caller)))


@router.get(
    "/batches/{batch_id}/results", operation_id="listBatchResults", responses=errors(BatchNotFoundException)
)
async def list_batch_results(
    batch_id: str,
    query: Annotated[ResultListQuery, Query()],
    caller: SessionsReadCallerDep,
    db: ReadDbDep,
) -> PaginatedResponse[RowResponse]:
    """List the result of each row, in the order of the rows."""
    page = await queries.fetch_results(db, batch_id, PageRequest(query.page, query.page_size), caller=caller)
    rows = [RowResponse.from_result(row) for row in page.rows]
    return paginated_response(rows, total=page.total.number, page=page.number, page_size=query.page_size)


@router.post(
    "/batches/{batch_id}/cancel",
    operation_id="cancelBatch",
    responses=errors(BatchNotFoundException, BatchEndedException),
)
async def cancel_batch(
    batch_id: str, caller: AuthorizeCallerDep, context: ContextDep
) -> APIResponse[BatchResponse]:
    """End all sessions of the batch now. Running browsers stop within two seconds."""
    async with context.database.transaction() as db:
        await context.sessions.batches.cancel(db, batch_id, caller=caller)
    await context.sessions.pacing.pace(batch_id)
    async with context.database.reading() as db:
        view = await queries.view_batch(db, batch_id, caller=caller)
    return success_response(BatchResponse.from_view(view))


@router.post(
    "/batches/{batch_id}/retry",
    status_code=status.HTTP_202_ACCEPTED,
    operation_id="retryBatch",
    responses=errors(
        BatchNotFoundException, NothingToRetryException, AppPausedException, TooManyWaitingException
    ),
)
async def retry_batch(
    batch_id: str, caller: AuthorizeCallerDep, context: ContextDep, body: RetryBatchRequest | None = None
) -> APIResponse[RetriedBatchResponse]:
    """Start the sessions of the batch again that ended without tokens."""
    options = body or RetryBatchRequest()
    async with context.database.transaction() as db:
        put_back = await context.sessions.batches.retry(
            db, batch_id, needs_attention=options.needs_attention, caller=caller
        )
    async with context.database.reading() as db:
        view = await queries.view_batch(db, batch_id, caller=caller)
    summary = BatchResponse.from_view(view)
    return success_response(RetriedBatchResponse(**vars(summary), put_back=put_back))
