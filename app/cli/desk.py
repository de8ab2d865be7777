"""Backends of commands: this process with the settings' database, or a service (`--url`)."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Final, TypeVar

import typer

from app.cli.shared import settings, tell
from app.client import AsyncClient, ServiceUnreachable
from app.context import Context, open_context

L = TypeVar("L")
R = TypeVar("R", bound=AsyncClient)

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="SERVICE_URL",
        help="Address of a running service to call; without it the command uses the database of the settings.",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="SERVICE_KEY",
        help="API key for the service. Every user of the machine can see a command line: prefer the variable.",
    ),
]

_TIMEOUT: Final = 15.0


@asynccontextmanager
async def desk(
    url: str | None, key: str | None, local: Callable[[Context], L], remote: type[R]
) -> AsyncIterator[L | R]:
    """The one of both that can do it; they have the same methods. Raises `typer.BadParameter`."""
    if url is None:
        async with open_context(settings()) as context:
            yield local(context)
        return
    if not key:
        raise typer.BadParameter("--url needs a key: set SERVICE_KEY")
    try:
        client = remote(url, key, timeout=_TIMEOUT)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    async with client:
        try:
            yield client
        except ServiceUnreachable:
            tell(f"No answer from {client!r}")
            raise
        except ValueError as error:  # what can be no part of an address
            raise typer.BadParameter(str(error)) from None
