"""`worker`: the background workers."""

import asyncio
import sys
from typing import Annotated

import typer

from app.cli.shared import asynchronous, echo_err, settings
from app.context import open_context
from app.services.workers.base import PeriodicWorker

commands = typer.Typer()


@commands.callback(invoke_without_command=True)
def work(invoked: typer.Context) -> None:
    """Run the workers without the API until SIGTERM or Ctrl-C; many processes may share one PostgreSQL."""
    if invoked.invoked_subcommand is None:
        from app import main as web  # noqa: PLC0415  # `run-once` needs none of it

        asyncio.run(web.work(settings(sys.stdout)))


@commands.command("run-once")
@asynchronous
async def run_worker_once(
    name: Annotated[
        str, typer.Argument(help="Name of a periodic worker; a wrong name is answered with all names.")
    ],
) -> None:
    """Run one iteration of a periodic worker now, due or not. Exit code 1 when another process is running it."""
    async with open_context(settings()) as context:
        worker = context.workers.get(name)
        if not isinstance(worker, PeriodicWorker):
            names = [each.name for each in context.workers.workers if isinstance(each, PeriodicWorker)]
            raise typer.BadParameter(f"there is no such worker; there are: {', '.join(names)}")
        if not await worker.run_once():
            echo_err(f"Another process runs '{name}' now; try again when it has ended.")
            raise typer.Exit(1)
