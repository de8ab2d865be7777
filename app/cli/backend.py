"""Backend of commands: a running service (`--url`), or the same API in this process on the settings' database."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

import httpx
import typer

from app.cli.shared import echo_err, settings
from app.client import AsyncClient, ServiceUnreachable
from app.client.exchange import Answer, Request, segment

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.context import Context

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


class LocalClient(AsyncClient):
    """The client of an API in this process: the caller is `cli`, with all rights and without rate limits.

    Where the service raises an `AppException`, so do the calls. What is no valid request is a `ServiceError`, as it is
    at a running service.
    """

    def __init__(self, context: "Context") -> None:
        transport = httpx.ASGITransport(_local_app(context))
        super().__init__("http://localhost", "not-asked-for", transport=transport)
        self.context = context

    async def _do(self, step: Request | float) -> Answer | None:
        """Send without a time limit: no network can lose the answer, and the service has limits of its own."""
        return await super()._do(replace(step, seconds=math.inf) if isinstance(step, Request) else step)


@asynccontextmanager
async def open_backend(url: str | None, key: str | None) -> AsyncIterator[AsyncClient]:
    """Yield a client of the service at `url`; without one a `LocalClient`. Raises `typer.BadParameter`."""
    if url is None:
        from app.context import open_context  # noqa: PLC0415  # a command at a service needs none of it

        async with open_context(settings()) as context, LocalClient(context) as local:
            yield local
        return
    if not key:
        raise typer.BadParameter("--url needs a key: set SERVICE_KEY")
    try:
        client = AsyncClient(url, key, timeout=_TIMEOUT)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    async with client:
        try:
            yield client
        except ServiceUnreachable:
            echo_err(f"No answer from {client!r}")
            raise
        except UnicodeError as error:  # of a header or an address
            raise typer.BadParameter(f"a value cannot be sent: {error}") from None


def check_id(value: str | None) -> str | None:
    """Refuse an id that cannot be part of an address. Raises `typer.BadParameter`."""
    try:
        if value == "":
            raise ValueError("an id cannot be empty")
        Request("GET", f"/{segment(value or '')}")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return value


def _local_app(context: "Context") -> "FastAPI":
    """Return the routes that commands call, as an application that is never served."""
    # A command at a service needs none of it, and all of it takes half a second.
    from fastapi import FastAPI  # noqa: PLC0415

    from app.api.endpoints import accounts, batches, events, fleet, keys, webhooks  # noqa: PLC0415
    from app.api.errors import install_error_handlers  # noqa: PLC0415
    from app.services.keys.service import COMMAND_LINE  # noqa: PLC0415
    from app.utils.exceptions import AppException  # noqa: PLC0415

    routers = (accounts.router, batches.router, events.router, fleet.router, keys.router, webhooks.router)
    app = FastAPI(
        openapi_url=None,
        redirect_slashes=False,
        # `include_router()` would build every route a second time, which takes a command 0.2 seconds.
        routes=[route for each in routers for route in each.routes],
    )
    install_error_handlers(app)
    del app.exception_handlers[AppException]  # it reaches the command as it was raised
    app.state.context = context
    app.state.local_caller = COMMAND_LINE
    return app
