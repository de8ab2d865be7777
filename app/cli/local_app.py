"""The API that commands call in their own process."""

from fastapi import FastAPI

from app.api.endpoints import accounts, batches, events, keys, webhooks
from app.api.errors import install_error_handlers
from app.context import Context
from app.services.keys.service import COMMAND_LINE
from app.utils.exceptions import AppException


def build_app(context: Context) -> FastAPI:
    """Return the routes that commands call, as an application that is never served."""
    routers = (accounts.router, batches.router, events.router, keys.router, webhooks.router)
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
