"""`serve`, `migrate`, `ui-link` and `ui-end`."""

import sys
from typing import Annotated, Final

import typer

from app.cli.shared import OUT, asynchronous, echo, settings
from app.config import ProcessRole, Settings
from app.database import Database

commands = typer.Typer()

_ANY_ADDRESS: Final = ("0.0.0.0", "::", "")  # noqa: S104  # compared, not bound


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


@commands.command("ui-link")
@asynchronous
async def create_ui_link(
    key_name: Annotated[
        str | None,
        typer.Option(
            "--as", help="Name of the API key that the link signs in; the bootstrap key by default."
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Address of the service as the browser reaches it; HOST and PORT by default."),
    ] = None,
) -> None:
    """Print a link that signs in to the operators' page once, within five minutes."""
    from app.context import open_context  # noqa: PLC0415  # `migrate` needs none of it

    loaded = settings()
    if not loaded.dashboard_enabled:
        raise typer.BadParameter("DASHBOARD_ENABLED is false: the service has no operators' page")
    base = (address or _own_address(loaded)).rstrip("/")
    async with open_context(loaded) as context, context.database.transaction() as db:
        ticket = await context.dashboard_sessions.issue_ticket(db, key_name=key_name)
    # Behind the #, which browsers send to nobody: no log and no Referer has it.
    echo(f"{base}/ui/enter#{ticket.get_secret_value()}")


@commands.command("ui-end")
@asynchronous
async def end_sign_ins(
    person: Annotated[
        str,
        typer.Argument(help="Name of the person as events show it (oidc:…), or the id at the provider."),
    ],
) -> None:
    """End all sign-ins to the operators' page that a person has begun by single sign-on."""
    from app.context import open_context  # noqa: PLC0415  # `migrate` needs none of it

    async with open_context(settings()) as context, context.database.transaction() as db:
        number = await context.dashboard_sessions.end_all(db, person)
    echo(f"{number} sign-ins of {person} are ended.")


def _own_address(loaded: Settings) -> str:
    """Raises `typer.BadParameter` when the settings do not tell it."""
    if loaded.port == 0:
        raise typer.BadParameter("PORT is 0, a free one: give the service's --address")
    host = "127.0.0.1" if loaded.host in _ANY_ADDRESS else loaded.host
    return f"http://{f'[{host}]' if ':' in host else host}:{loaded.port}"
