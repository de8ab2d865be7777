"""The command line: `python -m app --help`."""

import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from app import __version__
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

_TOP_LEVEL: Final = {
    "serve": ("service", "commands"),
    "migrate": ("service", "commands"),
    "ui-link": ("service", "commands"),
    "ui-end": ("service", "commands"),
    "authorize": ("batches", "authorizing"),
    "token": ("token", "commands"),
    "events": ("events", "commands"),
    "fleet": ("accounts", "overview"),
    "doctor": ("doctor", "commands"),
}
"""Commands that are in no group: their modules, and the names there."""
_GROUPS: Final = ("keys", "secrets", "accounts", "profiles", "gologin", "worker", "batches", "webhooks")
"""Groups of commands, each in the module of its name."""


class _Commands(Mapping[str, Any]):
    """Commands by name. Their modules, which take up to two seconds, are imported when a command is taken."""

    def __getitem__(self, name: str) -> Any:
        if name not in _TOP_LEVEL and name not in _GROUPS:
            raise KeyError(name)
        one = typer.Typer()
        module, variable = _TOP_LEVEL.get(name, (name, "commands"))
        group = getattr(import_module(f"app.cli.{module}"), variable)
        one.add_typer(group, name=None if name in _TOP_LEVEL else name)
        return typer.main.get_group(one).commands[name]

    def __iter__(self) -> Iterator[str]:
        yield from _TOP_LEVEL
        yield from _GROUPS

    def __len__(self) -> int:
        return len(_TOP_LEVEL) + len(_GROUPS)


class _CommandLine(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()  # type: ignore[assignment]  # nothing is added to it


cli = typer.Typer(cls=_CommandLine, no_args_is_help=True, pretty_exceptions_enable=False, epilog=_EPILOG)


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
    except Exception as error:
        from sqlalchemy.exc import DBAPIError  # noqa: PLC0415  # not every command has imported it

        if isinstance(error, DBAPIError):
            echo_err(f"The database cannot be used: {' '.join(str(error.orig).split())}")
        else:  # its sentence may hold terminal controls of others, which Python prints as they are
            echo_err(traceback.format_exc())
        sys.exit(1)
