"""The API: one router file per resource."""

from typing import Final

from app.api.endpoints import (
    accounts,
    apps,
    authorize,
    batches,
    events,
    evidence,
    fleet,
    gologin,
    health,
    keys,
    profiles,
    webhooks,
)

_ROUTERS: Final = (
    health.router,
    batches.router,  # before the sessions: `batch` is no session's id
    authorize.router,
    evidence.router,
    profiles.router,
    gologin.router,
    apps.router,
    accounts.router,
    fleet.router,
    keys.router,
    events.router,
    webhooks.router,
)
ROUTES: Final = [route for each in _ROUTERS for route in each.routes]
"""Given to an application as they are: `include_router()` would build each a second time, which takes 0.1 seconds."""
