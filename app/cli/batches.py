"""`batches`: cancel a batch of authorizations."""

from typing import Annotated

import typer

from app.cli.backend import KeyOption, UrlOption, check_id, open_backend
from app.cli.shared import asynchronous, echo

commands = typer.Typer(no_args_is_help=True, help="Manage batches of authorizations.")


@commands.command("cancel")
@asynchronous
async def cancel_batch(
    batch_id: Annotated[
        str, typer.Argument(help="Id of the batch, as `authorize` shows it.", callback=check_id)
    ],
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Cancel a batch: waiting sessions end at once, running ones within two seconds."""
    async with open_backend(url, key) as backend:
        await backend.cancel_batch(batch_id)
    echo(f"The batch {batch_id} is cancelled.")
