"""`/webhooks`: who is told of events, and what became of each delivery."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, status

from app.api.dependencies import (
    ContextDep,
    DbDep,
    KeyFirstRoute,
    ReadDbDep,
    WebhooksCallerDep,
)
from app.api.errors import errors
from app.api.responses import APIResponse, PaginatedResponse, success_response
from app.api.schemas.paging import Pager
from app.api.schemas.webhook import (
    CreatedWebhookResponse,
    CreateWebhookRequest,
    DeliveryAttemptResponse,
    DeliveryDetailResponse,
    DeliveryListQuery,
    DeliveryResponse,
    ReplayedWebhookResponse,
    ReplayWebhookRequest,
    RotatedWebhookResponse,
    RotateWebhookRequest,
    TestedWebhookResponse,
    UpdateWebhookRequest,
    WebhookResponse,
)
from app.services.webhooks import queries
from app.services.webhooks.service import WebhookChange
from app.utils.exceptions import (
    DeliveryNotFoundException,
    InvalidCursorException,
    RotationUnderWayException,
    TooManyWebhooksException,
    WebhookNotFoundException,
    WebhookUrlRefusedException,
)

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=KeyFirstRoute)


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    operation_id="createWebhook",
    responses=errors(WebhookUrlRefusedException, TooManyWebhooksException),
)
async def create_webhook(
    body: CreateWebhookRequest, caller: WebhooksCallerDep, context: ContextDep
) -> APIResponse[CreatedWebhookResponse]:
    """Create a webhook for events from now on. No other answer shows its secret."""
    row, secret = await context.events.webhooks.create(WebhookChange(**body.model_dump()), caller)
    view = WebhookResponse.from_view(queries.WebhookView(row, pending=0, parked=0))
    return success_response(CreatedWebhookResponse(**vars(view), secret=secret.get_secret_value()))


@router.get("", operation_id="listWebhooks", responses=errors())
async def list_webhooks(caller: WebhooksCallerDep, db: ReadDbDep) -> APIResponse[list[WebhookResponse]]:
    """List the webhooks that cover no more than the API key, oldest first."""
    views = await queries.fetch_all(db, caller.access)
    return success_response([WebhookResponse.from_view(view) for view in views])


@router.get("/{webhook_id}", operation_id="getWebhook", responses=errors(WebhookNotFoundException))
async def get_webhook(
    webhook_id: str, caller: WebhooksCallerDep, context: ContextDep, db: ReadDbDep
) -> APIResponse[WebhookResponse]:
    """Return a webhook with the numbers of pending and parked deliveries."""
    row = await context.events.webhooks.get(db, webhook_id, caller)
    return success_response(WebhookResponse.from_view(await queries.view(db, row)))


@router.patch(
    "/{webhook_id}",
    operation_id="updateWebhook",
    responses=errors(WebhookNotFoundException, WebhookUrlRefusedException),
)
async def update_webhook(
    webhook_id: str, body: UpdateWebhookRequest, caller: WebhooksCallerDep, context: ContextDep
) -> APIResponse[WebhookResponse]:
    """Change a webhook. Waiting deliveries go to the new URL; those of removed types, apps or accounts are parked."""
    row = await context.events.webhooks.update(webhook_id, WebhookChange(**body.model_dump()), caller)
    async with context.database.reading() as db:
        view = await queries.view(db, row)
    return success_response(WebhookResponse.from_view(view))


@router.delete("/{webhook_id}", operation_id="deleteWebhook", responses=errors(WebhookNotFoundException))
async def delete_webhook(
    webhook_id: str, caller: WebhooksCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[None]:
    """Delete a webhook and its deliveries."""
    await context.events.webhooks.delete(db, webhook_id, caller)
    return success_response(None)


@router.post(
    "/{webhook_id}/rotate",
    operation_id="rotateWebhook",
    responses=errors(WebhookNotFoundException, RotationUnderWayException),
)
async def rotate_webhook(
    webhook_id: str, caller: WebhooksCallerDep, context: ContextDep, body: RotateWebhookRequest | None = None
) -> APIResponse[RotatedWebhookResponse]:
    """Create a new secret. For `overlap_seconds`, by default a day, deliveries are signed with the old one as well."""
    options = body or RotateWebhookRequest()
    overlap = timedelta(seconds=options.overlap_seconds)
    secret = await context.events.webhooks.rotate(webhook_id, caller, overlap=overlap, force=options.force)
    return success_response(RotatedWebhookResponse(secret=secret.get_secret_value()))


@router.post("/{webhook_id}/pause", operation_id="pauseWebhook", responses=errors(WebhookNotFoundException))
async def pause_webhook(
    webhook_id: str, caller: WebhooksCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[WebhookResponse]:
    """Stop deliveries until the webhook is resumed. Events that are kept until then are delivered."""
    row = await context.events.webhooks.pause(db, webhook_id, caller)
    return success_response(WebhookResponse.from_view(await queries.view(db, row)))


@router.post("/{webhook_id}/resume", operation_id="resumeWebhook", responses=errors(WebhookNotFoundException))
async def resume_webhook(
    webhook_id: str, caller: WebhooksCallerDep, context: ContextDep, db: DbDep
) -> APIResponse[WebhookResponse]:
    """Continue deliveries. Those that wait for another attempt are tried at once, also when the webhook was not
    paused.
    """
    row = await context.events.webhooks.resume(db, webhook_id, caller)
    return success_response(WebhookResponse.from_view(await queries.view(db, row)))


@router.post("/{webhook_id}/test", operation_id="testWebhook", responses=errors(WebhookNotFoundException))
async def test_webhook(
    webhook_id: str, caller: WebhooksCallerDep, context: ContextDep
) -> APIResponse[TestedWebhookResponse]:
    """Send a `webhook.test` now, also to a paused webhook, and return the receiver's answer."""
    answer = await context.events.webhooks.test(webhook_id, caller)
    attempt = DeliveryAttemptResponse.from_attempt(answer)
    return success_response(TestedWebhookResponse(**vars(attempt), delivered=answer.succeeded))


@router.post(
    "/{webhook_id}/replay",
    status_code=status.HTTP_202_ACCEPTED,
    operation_id="replayWebhook",
    responses=errors(WebhookNotFoundException),
)
async def replay_webhook(
    webhook_id: str,
    body: ReplayWebhookRequest,
    caller: WebhooksCallerDep,
    context: ContextDep,
    db: DbDep,
) -> APIResponse[ReplayedWebhookResponse]:
    """Send all events since a time or an event again, with their old ids. A paused webhook receives them when it is
    resumed.
    """
    replay = await context.events.webhooks.replay(db, webhook_id, caller, since=body.begin)
    return success_response(ReplayedWebhookResponse(**vars(replay)))


@router.get(
    "/{webhook_id}/deliveries",
    operation_id="listDeliveries",
    responses=errors(WebhookNotFoundException, InvalidCursorException),
)
async def list_deliveries(
    webhook_id: str,
    query: Annotated[DeliveryListQuery, Query()],
    caller: WebhooksCallerDep,
    context: ContextDep,
    db: ReadDbDep,
) -> PaginatedResponse[DeliveryResponse]:
    """List deliveries, those of the newest events first."""
    endpoint = await context.events.webhooks.get(db, webhook_id, caller)
    pager = Pager(query, context.cursors, caller, list_name=f"deliveries of {endpoint.endpoint_id}")
    request = pager.request(sort="event_id", descending=True)
    page = await queries.fetch_deliveries(db, endpoint, caller.access, request, status=query.status)
    return pager.answer(page, DeliveryResponse.from_row)


@router.get(
    "/{webhook_id}/deliveries/{delivery_id}",
    operation_id="getDelivery",
    responses=errors(WebhookNotFoundException, DeliveryNotFoundException),
)
async def get_delivery(
    webhook_id: str,
    delivery_id: Annotated[int, Path(ge=1, le=2**63 - 1)],
    caller: WebhooksCallerDep,
    context: ContextDep,
    db: ReadDbDep,
) -> APIResponse[DeliveryDetailResponse]:
    """Return a delivery with each attempt and the receiver's answers."""
    endpoint = await context.events.webhooks.get(db, webhook_id, caller)
    row, attempts = await queries.delivery(db, endpoint, caller.access, delivery_id)
    view = DeliveryResponse.from_row(row)
    attempt_list = [DeliveryAttemptResponse.from_attempt(attempt) for attempt in attempts]
    return success_response(DeliveryDetailResponse(**vars(view), attempt_list=attempt_list))
