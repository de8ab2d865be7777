"""The command line: `python -m app --help`."""

import sys
import traceback
from typing import Annotated, Final

import typer
from sqlalchemy.exc import DBAPIError

from app import __version__
from app.cli import (
    accounts,
    batches,
    doctor,
    events,
    gologin,
    keys,
    profiles,
    secrets,
    service,
    token,
    webhooks,
    worker,
)
from app.cli.shared import echo, echo_err
from app.client import ServiceError
from app.config import SettingsError
from app.utils.exceptions import AppException

_USAGE_ERROR: Final = 2
_EPILOG: Final = (
    "Settings come from environment variables and from the file .env in the current folder; a variable wins over the "
    "file. The project's .env.example describes every setting. A command with --url and --key calls a running service "
    "and needs no settings.\n\n"
    "Exit codes: 0 success; 1 the command failed or found a problem; 2 wrong usage or wrong settings; 130 interrupted."
)

cli = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, epilog=_EPILOG)
cli.add_typer(service.commands)
cli.add_typer(batches.authorizing)
cli.add_typer(token.commands)
cli.add_typer(events.commands)
cli.add_typer(doctor.commands)
for _name, _module in {
    "keys": keys,
    "secrets": secrets,
    "accounts": accounts,
    "profiles": profiles,
    "gologin": gologin,
    "worker": worker,
    "batches": batches,
    "webhooks": webhooks,
}.items():
    cli.add_typer(_module.commands, name=_name)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        echo(f"gologin-automation {__version__}")
        raise typer.Exit


@cli.callback()
def describe(
    version: Annotated[  # its callback acts
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Obtain OAuth tokens of a team's own accounts inside their GoLogin browser profiles, and keep them valid."""


def main() -> None:
    """Run the command; a mistake that the user can fix ends in one readable line, without a trace."""
    try:
        cli()
    except SettingsError as error:
        echo_err(f"Wrong settings:\n{error}")
        sys.exit(_USAGE_ERROR)
    except AppException as error:
        echo_err(error.message)
        sys.exit(1)
    except ServiceError as error:
        echo_err(str(error))
        sys.exit(1)
    except DBAPIError as error:
        echo_err(f"The database cannot be used: {' '.join(str(error.orig).split())}")
        sys.exit(1)
    except Exception:  # its sentence may hold terminal controls of others, which Python prints as they are
        echo_err(traceback.format_exc())
        sys.exit(1)
