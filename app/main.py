"""`create_app(settings)` with its lifespan, the server that runs it, and the workers without a server."""

import asyncio
import errno
import fcntl
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from sqlalchemy import make_url

from app import __version__
from app.api.endpoints.batches import BATCH_PATH
from app.api.errors import install_error_handlers
from app.api.http.middleware import (
    REQUEST_ID_HEADER,
    BodyLimitMiddleware,
    CrashMiddleware,
    EnvelopeCORSMiddleware,
    HeadMiddleware,
    NulMiddleware,
    RequestIDMiddleware,
    SecurityHeadersMiddleware,
    SingleHeadersMiddleware,
)
from app.api.http.presented_key import KEY_HEADER
from app.api.http.rate_limit import QUOTA_HEADERS, FailedAuthentications, QuotaHeadersMiddleware, RateLimiter
from app.api.http.stalled_clients import connections_cut_off_after
from app.api.http.websockets import MAX_WEBSOCKET_MESSAGE, websockets_cut_off_after
from app.api.openapi import describe
from app.api.routes import ROUTES
from app.config import ProcessRole, Settings, SettingsError
from app.context import Context, open_context
from app.dashboard.routes import ROUTES as DASHBOARD_ROUTES
from app.dashboard.routes import WEBSOCKETS, install_dashboard
from app.dashboard.uploads import body_limits
from app.database import Database, make_private_folder
from app.services.keys.people import People
from app.services.oauth.provider_file import load_providers
from app.utils.exceptions import WorkerDiedException
from app.utils.logger import get_logger
from app.utils.tasks import run_until

_CONNECTIONS_SHARE: Final = 0.1
"""Share of the grace period for answers that are under way."""

_BACKLOG: Final = 2048
"""Connections that wait to be accepted, as uvicorn has it."""

log = get_logger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The web application; its lifespan opens the context, starts the workers, and undoes both."""
    settings.know_secrets()
    rate_limiter = RateLimiter(
        per_minute=settings.rate_limit_per_minute,
        storage_uri=settings.rate_limit_storage.get_secret_value(),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_context(settings, role=settings.serving_role) as context:
            app.state.context = context
            if settings.serve_workers:
                context.workers.start()
            log.info("service.started", version=__version__, database=context.database.engine.dialect.name)
            try:
                yield
            finally:
                await context.stop_workers()
                await rate_limiter.close()
                log.info("service.stopped")

    make_app = FastAPIOffline if settings.shows_docs else FastAPI
    app = make_app(
        title="GoLogin automation",
        version=__version__,
        lifespan=lifespan,
        routes=[*ROUTES, *DASHBOARD_ROUTES] if settings.dashboard_enabled else ROUTES,
        openapi_url="/openapi.json" if settings.shows_docs else None,  # without it there are no pages, either
        redirect_slashes=False,  # an address has one spelling, and no answer is made of the Host header
    )
    if settings.dashboard_enabled:
        install_dashboard(app, settings)
    app.state.rate_limiter = rate_limiter
    describe(app)
    app.state.trusted_proxies = settings.trusted_proxies
    app.state.failed_authentications = FailedAuthentications(per_minute=settings.auth_failures_per_minute)
    app.add_middleware(
        BodyLimitMiddleware,
        max_bytes=settings.max_body_bytes,
        by_path={BATCH_PATH: settings.max_batch_bytes} | body_limits(settings),
    )
    app.add_middleware(NulMiddleware)
    app.add_middleware(SingleHeadersMiddleware)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(CrashMiddleware)  # within those that add headers: a crash has them, too
    app.add_middleware(QuotaHeadersMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            EnvelopeCORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                KEY_HEADER,
                "Authorization",
                REQUEST_ID_HEADER,
                "Idempotency-Key",
                "Prefer",
                "Last-Event-ID",
            ],
            expose_headers=[REQUEST_ID_HEADER, "Location", "Retry-After", *QUOTA_HEADERS],
        )
    app.add_middleware(RequestIDMiddleware)
    app.add_middleware(SecurityHeadersMiddleware)
    install_error_handlers(app)
    return app


class Server(uvicorn.Server):
    """Tells where it listens, and stops in the right order."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if hasattr(self._app.state, "local_caller"):
            raise RuntimeError("an application with a local caller asks for no key: it must not be served")
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            log.info("service.listening", host=host, port=port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Callers who wait are answered and the workers take no more, before connections are waited for."""
        context: Context = self._app.state.context
        context.begin_shutdown()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then stop within the grace period; a stop that was asked for exits with 0.

    Raises `SchemaOutOfDateException`, `SettingsError`.
    """
    # Before uvicorn listens to them, and after it has stopped: it then raises the signal again.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        # First of all: a service that cannot serve calls nobody and cleans nothing up.
        sockets = [stack.enter_context(each) for each in bound_sockets(settings.host, settings.port)]
        if settings.is_sqlite:
            stack.enter_context(only_service(settings.database_url.get_secret_value()))
        # The lifespan does this too, but what it raises is lost in uvicorn's own trace.
        load_providers(settings)
        People.from_settings(settings)
        asyncio.run(_check_schema(settings))
        new_server(create_app(settings), settings).run(sockets)


def bound_sockets(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on each address of `host`. Raises `SettingsError`."""
    bound: list[socket.socket] = []
    with ExitStack() as stack:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, address in dict.fromkeys((family, address) for family, *_, address in entries):
                listening = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listening.bind(address)
                # Until one listens, the kernel gives the address to a second process, too.
                listening.listen(_BACKLOG)
                bound.append(listening)
        except (OSError, UnicodeError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                raise SettingsError(
                    f"PORT: another process listens on port {port} of {host}; stop it, or set another PORT"
                ) from None
            reason = error.strerror if isinstance(error, OSError) else "no host has such a name"
            raise SettingsError(
                f"HOST, PORT: the service cannot listen on port {port} of {host}: {reason}"
            ) from None
        stack.pop_all()
    return bound


@contextmanager
def only_service(url: str) -> Iterator[None]:
    """Hold the SQLite file for one service; the kernel frees it with the process, however that ends.

    Raises `SettingsError` when another service has it: slots and the queue are each process's own.
    """
    name = make_url(url).database
    if not name or name == ":memory:" or name.startswith("file:"):
        yield
        return
    path = Path(f"{Path(name).resolve()}.lock")
    try:
        make_private_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SettingsError(f"DATABASE_URL: {path} cannot be opened: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"DATABASE_URL: another service runs on {name}; stop it, or use PostgreSQL for several processes"
            ) from None
        yield
    finally:
        os.close(descriptor)


def new_server(app: FastAPI, settings: Settings) -> Server:
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=connections_cut_off_after(
            settings.client_stall_timeout, WEBSOCKETS if settings.dashboard_enabled else None
        ),
        ws=websockets_cut_off_after(settings.client_stall_timeout),
        ws_max_size=MAX_WEBSOCKET_MESSAGE,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        proxy_headers=False,  # `client_address` reads them, from trusted proxies only
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace * _CONNECTIONS_SHARE)),
    )
    return Server(config, app)


async def work(settings: Settings) -> None:
    """Run the workers alone until SIGTERM or SIGINT, then stop within the grace period. PostgreSQL only.

    Raises `WorkerDiedException`, `SchemaOutOfDateException`, and `SettingsError` with SQLite: its queue is this
    process's own, so that a session would come to a second process late, and to both.
    """
    if settings.is_sqlite:
        raise SettingsError(
            "DATABASE_URL: separate workers need PostgreSQL; with SQLite `python -m app serve` runs them itself"
        )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_context(settings, role=ProcessRole.WORKER) as context:
        context.workers.start()
        log.info("worker.started", version=__version__, slots=settings.max_concurrent_profiles)
        try:
            await run_until(context.workers.died, stop.wait())
            if not stop.is_set():
                raise WorkerDiedException
        finally:
            await context.stop_workers()
            log.info("worker.stopped")


async def _check_schema(settings: Settings) -> None:
    database = Database.from_settings(settings, settings.serving_role, pool_size=1)
    try:
        await database.check_schema()
    finally:
        await database.close()
