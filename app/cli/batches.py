"""`authorize` and `batches`: create, follow and cancel a batch of authorizations."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.backend import KeyOption, UrlOption, check_id, open_backend
from app.cli.batch_watch import BatchFileOptions, authorize_file
from app.cli.shared import ERR, OUT, asynchronous, echo

authorizing = typer.Typer()
commands = typer.Typer(no_args_is_help=True, help="Manage batches of authorizations.")


@authorizing.command()
@asynchronous
async def authorize(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="CSV file to read, with the columns account_id, api_app and priority.",
        ),
    ],
    api_app: Annotated[str | None, typer.Option(help="OAuth app of the rows that name none.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="CSV file to write the results to; NAME.results.csv beside the input by default."),
    ] = None,
    max_running: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of accounts authorised at the same time; BATCH_MAX_RUNNING by default."
        ),
    ] = None,
    stop_percent: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=100,
            help="Stop when a larger share of the accounts fails, in percent; BATCH_STOP_PERCENT by default.",
        ),
    ] = None,
    work: Annotated[
        bool,
        typer.Option(
            "--work", help="Run the workers in this process, too; without it a running service does the work."
        ),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Create a new batch, even when this file already has one.")
    ] = False,
    batch: Annotated[
        str | None,
        typer.Option(help="Id of an existing batch to follow; no batch is created.", callback=check_id),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Authorise the accounts of a CSV file as one batch and follow it to its end.

    A second run with the same file continues the batch. Exit code 0 when all accounts are authorised, else 1.
    """
    target = results or file.with_suffix(".results.csv")
    if not target.parent.is_dir():
        raise typer.BadParameter(f"{target.parent} is no folder")
    if work and url:
        raise typer.BadParameter("--work is for the database of the settings; a service has its own workers")
    if again and batch:
        raise typer.BadParameter("--again makes a new batch, --batch follows an old one")
    options = BatchFileOptions(
        file=file,
        results=target,
        api_app=api_app,
        max_running=max_running,
        stop_percent=stop_percent,
        work=work,
        again=again,
        batch_id=batch,
    )
    async with open_backend(url, key) as backend:
        is_done = await authorize_file(backend, options, out=OUT, err=ERR)
    raise typer.Exit(0 if is_done else 1)


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
