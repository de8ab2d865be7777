"""`serve`, `migrate`, `demo`, `sandbox`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from app import main as web
from app.cli.shared import OUT, asynchronous, settings
from app.database import Database
from app.demo import DemoOptions, run_demo
from app.sandbox.config import SandboxConfig
from app.sandbox.server import main as run_sandbox

commands = typer.Typer()


@commands.command()
def serve() -> None:
    """Serve the API and run the workers (unless SERVE_WORKERS=false), until SIGTERM or Ctrl-C."""
    web.serve(settings(sys.stdout))


@commands.command()
@asynchronous
async def migrate() -> None:
    """Bring the database schema up to date."""
    database = Database(settings().database_url.get_secret_value(), pool_size=1)
    try:
        await database.migrate()
    finally:
        await database.close()
    OUT.print("The database schema is up to date.")


@commands.command()
@asynchronous
async def demo(
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
    raise typer.Exit(0 if await run_demo(options) else 1)


@commands.command()
def sandbox(
    accounts: Annotated[int, typer.Option(min=0, help="Accounts, each with a profile.")] = 5,
    data_dir: Annotated[
        Path | None, typer.Option(help="Profile folders; a temporary one by default.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    public_host: Annotated[str | None, typer.Option(help="Host name in the announced URLs.")] = None,
    gologin_api_port: Annotated[int, typer.Option(help="0: a free one; so the others.")] = 0,
    gologin_local_port: Annotated[int, typer.Option()] = 0,
    adspower_port: Annotated[int, typer.Option()] = 0,
    provider_port: Annotated[int, typer.Option()] = 0,
    admin_port: Annotated[int, typer.Option()] = 0,
) -> None:
    """Serve local stand-ins for GoLogin's APIs, AdsPower's and the OAuth provider; prints their addresses as JSON."""
    run_sandbox(
        SandboxConfig(
            accounts=accounts,
            data_dir=data_dir,
            host=host,
            public_host=public_host,
            gologin_api_port=gologin_api_port,
            gologin_local_port=gologin_local_port,
            adspower_port=adspower_port,
            provider_port=provider_port,
            admin_port=admin_port,
        )
    )
