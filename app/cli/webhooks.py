"""`webhooks`: the addresses that receive events."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import ValidationError

from app.api.schemas.webhook import (
    CreateWebhookRequest,
    ReplayedWebhookResponse,
    ReplayWebhookRequest,
    TestedWebhookResponse,
    WebhookResponse,
)
from app.cli.backend import KeyOption, UrlOption, check_id, open_backend
from app.cli.shared import asynchronous, echo
from app.client.exchange import segment
from app.models import WebhookStatus

commands = typer.Typer(no_args_is_help=True, help="Manage webhooks, the addresses that receive events.")

WebhookId = Annotated[
    str, typer.Argument(help="Id of the webhook, as `webhooks list` shows it.", callback=check_id)
]


@commands.command("create")
@asynchronous
async def create_webhook(
    url: Annotated[str, typer.Argument(help="Address that receives the events, with https.")],
    name: Annotated[str, typer.Option(help="Name for people to recognise the webhook.")] = "",
    event_type: Annotated[
        list[str] | None,
        typer.Option(
            help="Type of event to send, such as `authorization.*`, all by default; repeat the option for several."
        ),
    ] = None,
    account: Annotated[
        list[str] | None,
        typer.Option(
            help="Account whose events to send, such as `team_*`, as the API key by default; may be repeated."
        ),
    ] = None,
    api_app: Annotated[
        list[str] | None,
        typer.Option(help="OAuth app whose events to send, as the API key by default; may be repeated."),
    ] = None,
    service_url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Create a webhook and print its id and its secret. The secret cannot be shown again."""
    try:
        request = CreateWebhookRequest(
            url=url,
            name=name,
            event_types=event_type or [],
            api_apps=api_app or None,
            account_patterns=account or None,
        )
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"]) from None
    async with open_backend(service_url, key) as backend:
        data = await backend.call("POST", "/webhooks", json=request.model_dump(mode="json"))
    echo(data["id"])
    echo(data["secret"])


@commands.command("list")
@asynchronous
async def list_webhooks(url: UrlOption = None, key: KeyOption = None) -> None:
    """List the webhooks with their number of pending and parked deliveries."""
    async with open_backend(url, key) as backend:
        rows = await backend.call("GET", "/webhooks")
    for each in map(WebhookResponse.model_validate, rows):
        counts = f"{each.pending} pending, {each.parked} parked"
        echo(f"{each.id}  {each.status}  {counts}  {each.url}  {each.name}".rstrip())


@commands.command("show")
@asynchronous
async def show_webhook(webhook_id: WebhookId, url: UrlOption = None, key: KeyOption = None) -> None:
    """Show one webhook, a line for each field."""
    async with open_backend(url, key) as backend:
        row = await backend.call("GET", _path(webhook_id))
    webhook = WebhookResponse.model_validate(row)
    fields = {
        "id": webhook.id,
        "name": webhook.name,
        "url": webhook.url,
        "event types": ", ".join(webhook.event_types) or "all",
        "apps": ", ".join(webhook.api_apps) or "all",
        "accounts": ", ".join(webhook.account_patterns) or "all",
        "status": f"{webhook.status} {webhook.pause_reason or ''}".strip(),
        "failing since": webhook.failing_since or "-",
        "pending": webhook.pending,
        "parked": webhook.parked,
        "made by": webhook.created_by,
    }
    for name, value in fields.items():
        echo(f"{name}: {value}")


@commands.command("rotate")
@asynchronous
async def rotate_webhook(
    webhook_id: WebhookId,
    hours: Annotated[
        float, typer.Option(min=0, max=168, help="Hours for which the old secret stays valid.")
    ] = 24,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Rotate even while the secret that the last rotation replaced is still valid."
        ),
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Replace the secret by a new one and print it. It cannot be shown again."""
    async with open_backend(url, key) as backend:
        body = {"overlap_seconds": round(hours * 3600), "force": force}
        data = await backend.call("POST", _path(webhook_id, "/rotate"), json=body)
    echo(data["secret"])


@commands.command("pause")
@asynchronous
async def pause_webhook(webhook_id: WebhookId, url: UrlOption = None, key: KeyOption = None) -> None:
    """Send nothing until the webhook is resumed. Its events wait, and are lost only when retention deletes them."""
    async with open_backend(url, key) as backend:
        await backend.call("POST", _path(webhook_id, "/pause"))
    echo(f"The webhook {webhook_id} is paused.")


@commands.command("resume")
@asynchronous
async def resume_webhook(webhook_id: WebhookId, url: UrlOption = None, key: KeyOption = None) -> None:
    """Resume a paused webhook, and send at once all deliveries that wait for another attempt."""
    async with open_backend(url, key) as backend:
        await backend.call("POST", _path(webhook_id, "/resume"))
    echo(f"The webhook {webhook_id} is active.")


@commands.command("test")
@asynchronous
async def try_webhook(webhook_id: WebhookId, url: UrlOption = None, key: KeyOption = None) -> None:
    """Send the event `webhook.test` now. Exit code 1 when the receiver does not accept it."""
    async with open_backend(url, key) as backend:
        data = await backend.call("POST", _path(webhook_id, "/test"))
    answer = TestedWebhookResponse.model_validate(data)
    echo(f"{answer.status_code or answer.error} in {answer.milliseconds} ms")
    raise typer.Exit(0 if answer.delivered else 1)


@commands.command("replay")
@asynchronous
async def replay_webhook(
    webhook_id: WebhookId,
    since: Annotated[
        datetime | None, typer.Option(help="Send events from this time on again, in UTC.")
    ] = None,
    event_id: Annotated[int | None, typer.Option(min=1, help="Id of the first event to send again.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Send past events again, delivered or not: all since a time, or all from one event on."""
    if (since is None) == (event_id is None):
        raise typer.BadParameter("needs one of --since and --event-id")
    request = ReplayWebhookRequest(since=since and since.replace(tzinfo=UTC), event_id=event_id)
    async with open_backend(url, key) as backend:
        body = request.model_dump(mode="json")
        data = await backend.call("POST", _path(webhook_id, "/replay"), json=body)
    replay = ReplayedWebhookResponse.model_validate(data)
    suffix = " once it is resumed" if replay.status is WebhookStatus.PAUSED else ""
    first = replay.from_event_id
    echo(f"Sending from event {first} on{suffix}." if first else "Nothing to send again.")


@commands.command("delete")
@asynchronous
async def delete_webhook(webhook_id: WebhookId, url: UrlOption = None, key: KeyOption = None) -> None:
    """Delete a webhook with its secret and its deliveries."""
    async with open_backend(url, key) as backend:
        await backend.call("DELETE", _path(webhook_id))
    echo(f"The webhook {webhook_id} is deleted.")


def _path(webhook_id: str, action: str = "") -> str:
    return f"/webhooks/{segment(webhook_id)}{action}"
