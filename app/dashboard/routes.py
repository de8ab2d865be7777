"""All routes of the page, and what they need of the application."""

import re
from typing import Final

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from app.config import Settings
from app.dashboard.assets import STATIC_PATH, serve_asset
from app.dashboard.overview_parts import OverviewParts
from app.dashboard.pages import Pages
from app.dashboard.views import (
    accounts,
    batches,
    error_codes,
    live,
    missing,
    overview,
    profiles,
    session,
    session_actions,
    sessions,
    sign_in,
    single_sign_on,
)
from app.dashboard.views.administration import apps, encryption_keys, events, health, keys, webhooks

_ROUTERS: Final = (
    sign_in.router,
    single_sign_on.router,
    overview.router,
    sessions.router,
    session.router,
    session_actions.router,
    live.router,
    accounts.router,
    profiles.router,
    batches.router,
    webhooks.router,
    keys.router,
    apps.router,
    events.router,
    encryption_keys.router,
    health.router,
    error_codes.router,
    missing.router,  # the last one: it takes every address below /ui
)
ROUTES: Final[list[BaseRoute]] = [
    Route(f"{STATIC_PATH}/{{digest}}/{{name:path}}", serve_asset),
    *(route for each in _ROUTERS for route in each.routes),
]
WEBSOCKETS: Final = re.compile(r"/ui/sessions/[\w-]+/live/socket", re.ASCII)
"""Paths of WebSockets."""


def install_dashboard(app: FastAPI, settings: Settings) -> None:
    """Prepare the templates and files that `ROUTES` use."""
    app.state.pages = Pages(settings)
    app.state.overview_parts = OverviewParts()
    app.state.live_viewers = set()
