"""`secrets`: the keys that encrypt what is stored."""

from typing import Annotated

import typer

from app.cli.shared import asynchronous, echo_accounts, echo_err, settings, show_progress
from app.context import open_context
from app.services.tokens import key_rotation
from app.services.webhooks import key_rotation as webhook_secrets
from app.services.webhooks.vault import WebhookVault
from app.utils.crypto import generate_key

commands = typer.Typer(no_args_is_help=True, help="Manage the keys that encrypt stored tokens and secrets.")


@commands.command("generate")
def generate(
    key_id: Annotated[str, typer.Argument(help="Id of the key, which stored values name.")] = "k1",
) -> None:
    """Generate an encryption key and print it as an entry of ENCRYPTION_KEYS."""
    print(f"{key_id}:{generate_key()}")


@commands.command("rotate")
@asynchronous
async def rotate() -> None:
    """Encrypt all stored tokens and secrets anew with the first key of ENCRYPTION_KEYS, while the service runs.

    An interrupted run can be started again. Exit code 1 when some values are left: no key decrypts them, or another
    process writes with another key.
    """
    async with open_context(settings()) as context:
        total = await key_rotation.count_outdated(context.database, context.tokens.vault)
        with show_progress("Rotating", total) as progress:
            report = await key_rotation.rotate(
                context.database, context.tokens.vault, actor="cli", progress=progress
            )
        webhooks = await webhook_secrets.rotate(
            context.database, WebhookVault(key_ring=context.settings.key_ring)
        )
    echo_accounts("opened by no key, left as it is", report.unreadable)
    for webhook_id in webhooks.unreadable:
        echo_err(f"webhook {webhook_id}: its secret is opened by no key, left as it is")
    if report.left:
        echo_err(
            "Another process writes by another key; give all the same first of ENCRYPTION_KEYS, then run again."
        )
    print(
        f"{report.rotated} accounts and {webhooks.rotated} webhooks rotated to {report.key_id}, "
        f"{len(report.unreadable) + len(webhooks.unreadable)} opened by no key, {report.left} left"
    )
    raise typer.Exit(0 if report.is_complete and not webhooks.unreadable else 1)
