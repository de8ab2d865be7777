"""`python -m sandbox.demo`."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.config import SettingsError
from sandbox.demo.run import DemoOptions, run_demo


def demo(
    accounts: Annotated[int, typer.Option(min=1, max=1000, help="Accounts to authorise.")] = 5,
    keep: Annotated[bool, typer.Option(help="Go on serving afterwards, until Ctrl-C.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the runs keep their database and logs.")] = Path(
        ".demo"
    ),
    sandbox: Annotated[
        str | None, typer.Option(help="Admin URL of a sandbox that runs already; by default one is started.")
    ] = None,
) -> None:
    """Run the main job against the sandbox: a real service, real browsers, nothing but loopback."""
    options = DemoOptions(accounts=accounts, keep=keep, folder=folder, sandbox_url=sandbox)
    try:
        has_succeeded = asyncio.run(run_demo(options))
    except SettingsError as error:
        typer.echo(f"Wrong settings:\n{error}", err=True)
        raise typer.Exit(2) from error
    raise typer.Exit(0 if has_succeeded else 1)


if __name__ == "__main__":
    cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    cli.command()(demo)
    try:
        cli(prog_name="python -m sandbox.demo")
    except KeyboardInterrupt:
        sys.exit(130)
