"""The command line: `python -m app --help`."""

import sys
import traceback
from typing import Final

import typer
from sqlalchemy.exc import DBAPIError

from app.cli import (
    accounts,
    batches,
    doctor,
    gologin,
    keys,
    profiles,
    reading,
    secrets,
    service,
    webhooks,
    worker,
)
from app.cli.shared import tell
from app.client import ServiceError
from app.config import SettingsError
from app.utils.exceptions import AppException

_USAGE_ERROR: Final = 2

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
cli.add_typer(service.commands)
cli.add_typer(batches.authorizing)
cli.add_typer(reading.commands)
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


def main() -> None:
    """Run the command; what the user can mend ends in one readable line per mistake, without a trace."""
    try:
        cli()
    except SettingsError as error:
        tell(f"Wrong settings:\n{error}")
        sys.exit(_USAGE_ERROR)
    except AppException as error:
        tell(error.message)
        sys.exit(1)
    except ServiceError as error:
        tell(str(error))
        sys.exit(1)
    except DBAPIError as error:
        tell(f"The database cannot be used: {' '.join(str(error.orig).split())}")
        sys.exit(1)
    except Exception:  # its sentence may hold terminal controls of others, which Python prints as they are
        tell(traceback.format_exc())
        sys.exit(1)
