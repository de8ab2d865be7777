"""`authorize`, `batches`: many accounts authorised together."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.batch_desk import LocalBatches, RemoteBatches
from app.cli.desk import KeyOption, UrlOption, desk
from app.cli.following import AuthorizeOptions, authorize_file
from app.cli.shared import ERR, OUT, asynchronous, say

authorizing = typer.Typer()
commands = typer.Typer(no_args_is_help=True, help="Many accounts authorised together.")


@authorizing.command()
@asynchronous
async def authorize(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV: account_id,api_app,priority")
    ],
    api_app: Annotated[str | None, typer.Option(help="For rows that do not say.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="CSV to write; by default beside the file, as NAME.results.csv.")
    ] = None,
    max_running: Annotated[int | None, typer.Option(min=1, help="At once; as in the settings.")] = None,
    stop_percent: Annotated[
        int | None,
        typer.Option(min=0, max=100, help="Stop above this share of failures; as in the settings."),
    ] = None,
    work: Annotated[bool, typer.Option("--work", help="Do the work in this process, too.")] = False,
    again: Annotated[bool, typer.Option("--again", help="A new batch even if this file made one.")] = False,
    batch: Annotated[str | None, typer.Option(help="Make none, and follow this one: its id.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Authorise the accounts of a CSV together; run again it goes on. Exit code 0 when all are authorised."""
    target = results or file.with_suffix(".results.csv")
    if not target.parent.is_dir():
        raise typer.BadParameter(f"{target.parent} is no folder")
    if work and url:
        raise typer.BadParameter("--work is for the database of the settings; a service has its own workers")
    if again and batch:
        raise typer.BadParameter("--again makes a new batch, --batch follows an old one")
    options = AuthorizeOptions(
        file=file,
        results=target,
        api_app=api_app,
        max_running=max_running,
        stop_percent=stop_percent,
        work=work,
        again=again,
        batch_id=batch,
    )
    async with desk(url, key, LocalBatches, RemoteBatches) as batches:
        is_done = await authorize_file(batches, options, out=OUT, err=ERR)
    raise typer.Exit(0 if is_done else 1)


@commands.command("cancel")
@asynchronous
async def cancel_batch(
    batch_id: Annotated[str, typer.Argument(help="As `authorize` showed it.")],
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """End a batch: what waits at once, what runs within two seconds."""
    async with desk(url, key, LocalBatches, RemoteBatches) as batches:
        await batches.cancel_batch(batch_id)
    say(f"The batch {batch_id} is cancelled.")
