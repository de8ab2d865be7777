"""`serve` and `migrate`."""

import sys

import typer

from app.cli.shared import OUT, asynchronous, settings
from app.config import ProcessRole
from app.database import Database

commands = typer.Typer()


@commands.command()
def serve() -> None:
    """Serve the API and run the workers (unless SERVE_WORKERS=false), until SIGTERM or Ctrl-C."""
    from app import main as web  # noqa: PLC0415  # `migrate` needs none of it

    web.serve(settings(sys.stdout))


@commands.command()
@asynchronous
async def migrate() -> None:
    """Apply the missing migrations to the database; it may be run at any time."""
    database = Database.from_settings(settings(), ProcessRole.COMMAND, pool_size=1)
    try:
        await database.migrate()
    finally:
        await database.close()
    OUT.print("The database schema is up to date.")
