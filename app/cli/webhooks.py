"""`webhooks`: who is told of events."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from app.cli.shared import asynchronous, settings
from app.context import open_context
from app.services import webhook_views
from app.services.key_service import Caller, Scope
from app.services.webhook_service import WebhookOrder
from app.services.webhook_views import WebhookView

commands = typer.Typer(no_args_is_help=True, help="Webhooks: who is told of events.")

CALLER: Final = Caller("cli", frozenset({Scope.WEBHOOKS}))

WebhookId = Annotated[str, typer.Argument(help="As `webhooks list` shows it.")]


@commands.command("create")
@asynchronous
async def create_webhook(
    url: Annotated[str, typer.Argument(help="Where to send events; https.")],
    name: Annotated[str, typer.Option(help="For people.")] = "",
    event_type: Annotated[
        list[str] | None, typer.Option(help="Like `authorization.*`; repeat for several; by default all.")
    ] = None,
    account: Annotated[
        list[str] | None, typer.Option(help="Like `team_*`; repeat for several; by default all.")
    ] = None,
    api_app: Annotated[list[str] | None, typer.Option(help="Repeat for several; by default all.")] = None,
) -> None:
    """Make a webhook; prints its id and, once, its secret."""
    patterns = [pattern.removeprefix("@").lower() for pattern in account or []]
    order = WebhookOrder(
        name=name, url=url, event_types=event_type or [], api_apps=api_app or [], account_patterns=patterns
    )
    async with open_context(settings()) as context:
        row, secret = await context.webhooks.create(order, CALLER)
    print(row.endpoint_id)
    print(secret.get_secret_value())


@commands.command("list")
@asynchronous
async def list_webhooks() -> None:
    """All of them, with what waits and what was given up."""
    async with open_context(settings()) as context, context.database.reading() as session:
        views = await webhook_views.all_within(session, CALLER.reach)
    for view in views:
        row = view.row
        counts = f"{view.pending} pending, {view.parked} parked"
        print(f"{row.endpoint_id}  {row.status}  {counts}  {row.url}  {row.name}".rstrip())


@commands.command("show")
@asynchronous
async def show_webhook(webhook_id: WebhookId) -> None:
    """One of them, line by line."""
    async with open_context(settings()) as context, context.database.reading() as session:
        row = await context.webhooks.get(session, webhook_id, CALLER)
        view = await webhook_views.view(session, row)
    for name, value in _lines(view).items():
        print(f"{name}: {value}")


@commands.command("rotate")
@asynchronous
async def rotate_webhook(
    webhook_id: WebhookId,
    hours: Annotated[
        float, typer.Option(min=0, max=168, help="The old secret stays valid for so long.")
    ] = 24,
    force: Annotated[
        bool, typer.Option("--force", help="Also while the secret that the last rotation replaced is valid.")
    ] = False,
) -> None:
    """Make a new secret and show it, once."""
    async with open_context(settings()) as context:
        secret = await context.webhooks.rotate(
            webhook_id, CALLER, overlap=timedelta(hours=hours), force=force
        )
    print(secret.get_secret_value())


@commands.command("pause")
@asynchronous
async def pause_webhook(webhook_id: WebhookId) -> None:
    """Send nothing until it is resumed; no event is lost."""
    async with open_context(settings()) as context, context.database.transaction() as session:
        await context.webhooks.pause(session, webhook_id, CALLER)
    print(f"The webhook {webhook_id} is paused.")


@commands.command("resume")
@asynchronous
async def resume_webhook(webhook_id: WebhookId) -> None:
    """Go on, and try at once whatever waits for another attempt."""
    async with open_context(settings()) as context, context.database.transaction() as session:
        await context.webhooks.resume(session, webhook_id, CALLER)
    print(f"The webhook {webhook_id} is active.")


@commands.command("test")
@asynchronous
async def test_webhook(webhook_id: WebhookId) -> None:
    """Send a `webhook.test` now. Exit code 1 unless it was taken."""
    async with open_context(settings()) as context:
        answer = await context.webhooks.test(webhook_id, CALLER)
    print(f"{answer.status_code or answer.error} in {answer.milliseconds} ms")
    raise typer.Exit(0 if answer.succeeded else 1)


@commands.command("replay")
@asynchronous
async def replay_webhook(
    webhook_id: WebhookId,
    since: Annotated[datetime | None, typer.Option(help="UTC.")] = None,
    event_id: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Send all events since a time or an event again."""
    begin = since.replace(tzinfo=UTC) if since else event_id
    if begin is None or (since and event_id):
        raise typer.BadParameter("needs one of --since and --event-id")
    async with open_context(settings()) as context, context.database.transaction() as session:
        first = await context.webhooks.replay(session, webhook_id, CALLER, since=begin)
    print(f"Sending from event {first} on." if first else "Nothing to send again.")


@commands.command("delete")
@asynchronous
async def delete_webhook(webhook_id: WebhookId) -> None:
    """Send nothing to it any more, and forget it."""
    async with open_context(settings()) as context, context.database.transaction() as session:
        await context.webhooks.delete(session, webhook_id, CALLER)
    print(f"The webhook {webhook_id} is deleted.")


def _lines(view: WebhookView) -> dict[str, object]:
    row = view.row
    return {
        "id": row.endpoint_id,
        "name": row.name,
        "url": row.url,
        "event types": ", ".join(row.event_types) or "all",
        "apps": ", ".join(row.api_apps) or "all",
        "accounts": ", ".join(row.account_patterns) or "all",
        "status": f"{row.status} {row.pause_reason or ''}".strip(),
        "failing since": row.failing_since or "-",
        "pending": view.pending,
        "parked": view.parked,
        "made by": row.created_by,
    }
