"""Parts that commands share: the settings with their logging, the consoles, checks, and `async def` commands."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TextIO

import typer
from rich.console import Console
from rich.progress import Progress

from app.config import Settings, load_settings
from app.utils.foreign_text import visible
from app.utils.handles import normalize_handle
from app.utils.logger import setup_logging

OUT: Final = Console(markup=False, emoji=False)
ERR: Final = Console(stderr=True, markup=False, emoji=False)
"""Both consoles take no text for markup: much of what they print was named by others."""

_MAX_LISTED: Final = 100

P = ParamSpec("P")


def asynchronous(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an `async def` command, which Typer accepts and never runs."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(command(*args, **kwargs))

    return run


def settings(log_stream: TextIO = sys.stderr) -> Settings:
    """Load the settings and set up logging: on standard error, as standard output is for the command's own output."""
    loaded = load_settings()
    loaded.know_secrets()
    setup_logging(level=loaded.log_level, environment=loaded.environment, stream=log_stream)
    return loaded


def echo_err(line: str) -> None:
    """Print to standard error, without markup; terminal controls in it are escaped."""
    ERR.print(visible(line), markup=False, highlight=False, soft_wrap=True)


def echo(line: str) -> None:
    """Print to standard output, plain for scripts; terminal controls in it are escaped."""
    print(visible(line), flush=True)


def echo_accounts(problem: str, accounts: Sequence[tuple[str, str]]) -> None:
    """Print a line to standard error for each account and app, up to a hundred."""
    for account_id, api_app in accounts[:_MAX_LISTED]:
        echo_err(f"{account_id} in {api_app}: {problem}")
    if len(accounts) > _MAX_LISTED:
        echo_err(f"... and {len(accounts) - _MAX_LISTED} more")


def check_handle(value: str | None) -> str | None:
    """Return a handle as it is stored. Raises `typer.BadParameter`."""
    try:
        return normalize_handle(value) if value is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@contextmanager
def show_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error; yield the function that sets the number done."""
    with Progress(console=ERR, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)


def new_file(path: Path) -> TextIO:
    """Open a CSV to write. Raises `typer.BadParameter`."""
    try:
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error.strerror}") from None
