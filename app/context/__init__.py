"""The one place where process-wide objects are built and closed; the app, the CLI and the tests open the same.

A module here builds the objects of one area; `open_context` puts them together.
"""

import asyncio
import functools
import os
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import httpx

from app.clients.bounded import BoundedTransport
from app.clients.connections import StackedTransport
from app.clients.webhooks import new_transport
from app.config import ProcessRole, Settings
from app.context.accounts import Accounts, build_accounts
from app.context.events import Events, build_events
from app.context.fleet import Fleet, build_fleet
from app.context.live import Live, build_live
from app.context.sessions import Sessions, build_sessions
from app.context.single_sign_on import build_single_sign_on
from app.context.tokens import Tokens, build_tokens
from app.context.workers import WORKERS_SHARE, build_workers
from app.database import Database
from app.services.browser.live_tabs import LiveTabs
from app.services.events.tail import check_order
from app.services.keys.dashboard_sessions import DashboardSessions, SignInLimits
from app.services.keys.people import People
from app.services.keys.service import KeyService
from app.services.operations.alarms import AlarmService
from app.services.operations.worker_runs import PeriodicRuns
from app.services.workers.base import WorkerGroup
from app.services.workers.sync_worker import ProfileSyncWorker
from app.utils.cursors import Cursors
from app.utils.loop_lag import LoopLag

if TYPE_CHECKING:
    from app.services.keys.single_sign_on import SingleSignOn

_IDLE_CONNECTION: Final = 2.0
"""Seconds; less than any server's own, often 5: a POST into a connection that it is just closing has no known end."""


@dataclass(frozen=True)
class Context:
    """Everything that lives as long as the process."""

    settings: Settings
    database: Database
    cursors: Cursors
    keys: KeyService
    dashboard_sessions: DashboardSessions
    single_sign_on: "SingleSignOn | None"
    """Single sign-on; None when the settings have no provider."""
    fleet: Fleet
    tokens: Tokens
    sessions: Sessions
    live: Live
    accounts: Accounts
    events: Events
    alarms: AlarmService
    loop_lag: LoopLag
    workers: WorkerGroup
    sync_worker: ProfileSyncWorker
    shutdown: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process takes no new work."""

    def begin_shutdown(self) -> None:
        """Take no new work, and answer those who wait for a session's end or follow events so that they can go."""
        self.shutdown.set()
        self.workers.signal_stop()
        self.sessions.authorizations.release_waiters()
        self.events.streams.close()

    async def stop_workers(self) -> None:
        await self.workers.stop(grace=self.settings.shutdown_grace * WORKERS_SHARE)


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """One for all connections of the process: it takes 20 ms to make."""
    return httpx.create_ssl_context(trust_env=False)


@asynccontextmanager
async def open_context(
    settings: Settings, *, role: ProcessRole = ProcessRole.COMMAND
) -> AsyncIterator[Context]:
    """Build everything, check the schema, and close all in reverse order at the end.

    `role`: work of this process, which decides how many connections it opens.

    Raises `SchemaOutOfDateException`, `SettingsError`. Workers are not started here: `Context.workers.start()` does.
    """
    async with AsyncExitStack() as stack:
        database = Database.from_settings(settings, role)
        stack.push_async_callback(database.close)
        await database.check_schema()
        await check_order(database)
        tls = _tls_context()
        # No environment proxies: every address is one of ours or of the settings.
        # Every running profile may hold a connection to GoLogin, its browser and the provider at once.
        max_connections = 20 + settings.refresh_concurrency + 4 * settings.max_concurrent_profiles
        connections = StackedTransport(tls=tls, max_connections=max_connections, keep_idle=_IDLE_CONNECTION)
        bounded = BoundedTransport(connections)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=bounded, trust_env=False))
        transport = await stack.enter_async_context(new_transport(tls))
        context = _build(settings, database, http, transport, stack)
        context.loop_lag.start()
        stack.push_async_callback(context.loop_lag.stop)
        yield context


def _build(
    settings: Settings,
    database: Database,
    http: httpx.AsyncClient,
    webhook_transport: httpx.AsyncBaseTransport,
    stack: AsyncExitStack,
) -> Context:
    # Containers of one machine may all have the same process id.
    owner = f"{settings.machine_name}:{os.getpid()}:{secrets.token_hex(3)}"
    keys = KeyService(
        database=database,
        bootstrap_key=settings.api_key,
        api_apps=settings.oauth_apps,
        rate_limit_per_minute=settings.rate_limit_per_minute,
    )
    stack.push_async_callback(keys.close)
    people = People.from_settings(settings)
    dashboard_sessions = DashboardSessions(
        database=database,
        keys=keys,
        bootstrap_key=settings.api_key,
        people=people,
        limits=SignInLimits(
            idle=settings.dashboard_idle_timeout, lifetime=settings.dashboard_session_lifetime
        ),
    )
    runs = PeriodicRuns(database=database, owner=owner, lease_seconds=settings.lease_seconds)
    tokens = build_tokens(settings, database, http, owner, stack)
    loop_lag = LoopLag(tick=settings.loop_tick)
    fleet = build_fleet(settings, database, http, loop_lag, owner)
    tabs = LiveTabs()
    sessions = build_sessions(settings, database, fleet, tokens, tabs, owner, stack)
    live = build_live(settings, database, tabs, owner)
    events = build_events(settings, database, webhook_transport, owner)
    accounts = build_accounts(settings, database, fleet, tokens, sessions)
    alarms = AlarmService(database=database)
    workers = build_workers(
        settings, database, fleet, tokens, sessions, live, accounts, events, alarms, loop_lag, runs
    )
    return Context(
        settings=settings,
        database=database,
        cursors=settings.cursors,
        keys=keys,
        dashboard_sessions=dashboard_sessions,
        single_sign_on=build_single_sign_on(settings, database, http, people),
        fleet=fleet,
        tokens=tokens,
        sessions=sessions,
        live=live,
        accounts=accounts,
        events=events,
        alarms=alarms,
        loop_lag=loop_lag,
        workers=workers.group,
        sync_worker=workers.sync,
    )
