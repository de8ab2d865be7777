"""Webhooks: where events go, what became of each delivery, and what can be done about it."""

from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse

from app.api.dependencies import ContextDep, DbDep, ReadDbDep, WebhooksCallerDep
from app.api.schemas.webhook import (
    CreateWebhookRequest,
    DeliveryListQuery,
    ReplayWebhookRequest,
    RotateWebhookRequest,
)
from app.dashboard.fields import OVERLAPS, split_values
from app.dashboard.listing import app_names, render_list
from app.dashboard.notices import redirect
from app.dashboard.page_route import SignedInRoute, parse, read_query
from app.dashboard.pages import render
from app.models import DeliveryStatus, EventType, WebhookStatus
from app.services.webhooks import queries
from app.services.webhooks.service import WebhookChange

_PATH: Final = "/ui/webhooks"

router = APIRouter(prefix=_PATH, route_class=SignedInRoute, include_in_schema=False)


@router.get("")
async def list_webhooks(request: Request, caller: WebhooksCallerDep, db: ReadDbDep) -> Response:
    return render(request, "webhooks.html", views=await queries.fetch_all(db, caller.access))


@router.get("/new")
async def show_new(request: Request, caller: WebhooksCallerDep, context: ContextDep) -> Response:
    return render(request, "webhook_new.html", apps=app_names(context, caller), event_types=sorted(EventType))


@router.post("")
async def create(request: Request, caller: WebhooksCallerDep, context: ContextDep) -> Response:
    """Create a webhook; the answer is the only page that shows its secret."""
    form: dict[str, str] = request.state.form
    values: dict[str, object] = {name: form.get(name, "").strip() for name in ("url", "name")}
    values["event_types"] = split_values(form.get("event_types", ""))
    # Left empty: the restriction of the key.
    values |= {
        name: given
        for name in ("api_apps", "account_patterns")
        if (given := split_values(form.get(name, "")))
    }
    body = parse(CreateWebhookRequest, values)
    row, secret = await context.events.webhooks.create(WebhookChange(**body.model_dump()), caller)
    return render(
        request,
        "secret.html",
        status=201,
        title=f"The webhook {row.name or row.url} is created",
        label="Secret",
        secret=secret.get_secret_value(),
        text="Receivers check signatures with it. It is shown this once.",
        next_page=f"{_PATH}/{row.endpoint_id}",
        next_label="To the webhook",
    )


@router.get("/{webhook_id}")
async def show_webhook(
    request: Request, webhook_id: str, caller: WebhooksCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    query = read_query(request, DeliveryListQuery)
    row = await context.events.webhooks.get(db, webhook_id, caller)
    return await render_list(
        request,
        "webhook.html",
        query,
        list_name=f"ui deliveries of {row.endpoint_id}",
        fetch=lambda page: queries.fetch_deliveries(db, row, caller.access, page, status=query.status),
        sort="event_id",
        descending=True,
        view=await queries.view(db, row),
        delivery_statuses=list(DeliveryStatus),
    )


@router.get("/{webhook_id}/deliveries/{delivery_id}")
async def show_delivery(
    request: Request,
    webhook_id: str,
    delivery_id: Annotated[int, Path(ge=1, le=2**63 - 1)],
    caller: WebhooksCallerDep,
    context: ContextDep,
    db: ReadDbDep,
) -> Response:
    endpoint = await context.events.webhooks.get(db, webhook_id, caller)
    row, attempts = await queries.delivery(db, endpoint, caller.access, delivery_id)
    return render(request, "delivery.html", endpoint=endpoint, row=row, attempts=attempts)


@router.post("/{webhook_id}/pause")
async def pause(
    request: Request, webhook_id: str, caller: WebhooksCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    await context.events.webhooks.pause(db, webhook_id, caller)
    return _back(
        request, webhook_id, "The webhook is paused. Events that are kept until it resumes are delivered."
    )


@router.post("/{webhook_id}/resume")
async def resume(
    request: Request, webhook_id: str, caller: WebhooksCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    await context.events.webhooks.resume(db, webhook_id, caller)
    return _back(request, webhook_id, "Deliveries continue; those that wait are tried at once.")


@router.post("/{webhook_id}/test")
async def send_test(
    request: Request, webhook_id: str, caller: WebhooksCallerDep, context: ContextDep
) -> RedirectResponse:
    answer = await context.events.webhooks.test(webhook_id, caller)
    told = f"answered {answer.status_code}" if answer.status_code else f"did not answer: {answer.error}"
    verdict = "The test is delivered" if answer.succeeded else "The test is not delivered"
    return _back(request, webhook_id, f"{verdict}: the receiver {told}, after {answer.milliseconds} ms.")


@router.post("/{webhook_id}/replay")
async def replay(
    request: Request, webhook_id: str, caller: WebhooksCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    form: dict[str, str] = request.state.form
    given = {name: value for name in ("since", "event_id") if (value := form.get(name, "").strip())}
    body = parse(ReplayWebhookRequest, given)
    result = await context.events.webhooks.replay(db, webhook_id, caller, since=body.begin)
    if result.from_event_id is None:
        text = "No event is kept from there on: nothing is sent again."
    elif result.status is WebhookStatus.PAUSED:
        text = f"Events from {result.from_event_id} on are sent again once the webhook is resumed."
    else:
        text = f"Events from {result.from_event_id} on are sent again."
    return _back(request, webhook_id, text)


@router.get("/{webhook_id}/rotate")
async def confirm_rotate(
    request: Request, webhook_id: str, caller: WebhooksCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    row = await context.events.webhooks.get(db, webhook_id, caller)
    return render(
        request,
        "rotate.html",
        title=f"Rotate the secret of {row.name or row.url}?",
        text="The new secret is shown once. Deliveries are signed with the old one as well for the time below.",
        overlaps=OVERLAPS,
        field="overlap_seconds",
        previous_ends=row.previous_secret_expires_at,
        back=f"{_PATH}/{row.endpoint_id}",
    )


@router.post("/{webhook_id}/rotate")
async def rotate(
    request: Request, webhook_id: str, caller: WebhooksCallerDep, context: ContextDep
) -> Response:
    form: dict[str, str] = request.state.form
    given = {name: form[name] for name in ("overlap_seconds", "force") if form.get(name)}
    options = parse(RotateWebhookRequest, given)
    secret = await context.events.webhooks.rotate(
        webhook_id, caller, overlap=timedelta(seconds=options.overlap_seconds), force=options.force
    )
    return render(
        request,
        "secret.html",
        title="The secret is rotated",
        label="New secret",
        secret=secret.get_secret_value(),
        text="Give it to the receiver. It is shown this once.",
        next_page=f"{_PATH}/{webhook_id}",
        next_label="To the webhook",
    )


@router.get("/{webhook_id}/delete")
async def confirm_delete(
    request: Request, webhook_id: str, caller: WebhooksCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    row = await context.events.webhooks.get(db, webhook_id, caller)
    return render(
        request,
        "confirm.html",
        title=f"Delete the webhook {row.name or row.url}?",
        text=f"Nothing more is sent to {row.url}, and its deliveries are deleted.",
        label="Delete the webhook",
        back=f"{_PATH}/{row.endpoint_id}",
        fields={},
    )


@router.post("/{webhook_id}/delete")
async def delete(
    request: Request, webhook_id: str, caller: WebhooksCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    await context.events.webhooks.delete(db, webhook_id, caller)
    return redirect(request, _PATH, "The webhook is deleted.")


def _back(request: Request, webhook_id: str, notice: str) -> RedirectResponse:
    return redirect(request, f"{_PATH}/{webhook_id}", notice)
