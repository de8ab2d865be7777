"""What all commands share: the settings with their logging, the two consoles, and `async def` commands."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final, ParamSpec, TextIO

from rich.console import Console

from app.config import Settings, load_settings
from app.utils.logger import setup_logging

OUT: Final = Console()
ERR: Final = Console(stderr=True)

P = ParamSpec("P")


def asynchronous(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """typer accepts `async def` commands and never runs them."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(command(*args, **kwargs))

    return run


def settings(log_stream: TextIO = sys.stderr) -> Settings:
    """A command's own output is on standard output; logs go there only where they are the output."""
    loaded = load_settings()
    setup_logging(level=loaded.log_level, environment=loaded.environment, stream=log_stream)
    return loaded


def tell(line: str) -> None:
    """On standard error, as it is."""
    ERR.print(line, markup=False, highlight=False, soft_wrap=True)
