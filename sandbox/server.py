"""Assembles the sandbox: five servers on one event loop, one line on stdout, a clean stop."""

import asyncio
import contextlib
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp

from sandbox import adspower_local, gologin_cloud, gologin_local, plainbook, provider_oauth1, provider_pages
from sandbox.admin import create_admin
from sandbox.browsers import Browsers, CookieParam
from sandbox.config import SCOPES, AppInfo, SandboxConfig, SandboxInfo
from sandbox.faults import Call
from sandbox.interceptor import Interceptor
from sandbox.oauth import OAuthState
from sandbox.oauth1 import OAuth1State
from sandbox.sandbox_state import SandboxState
from sandbox.state import SESSION_COOKIE, Profiles, Sessions

GRACE = 2  # seconds that requests under way get at the end; those that hang on purpose are released at once
KEEP_ALIVE = 75  # seconds; longer than any client keeps an idle connection
BACKLOG = 1024
COOKIE_LIFETIME = 365 * 24 * 3600  # seconds; a session cookie would not outlive the browser


@dataclass(frozen=True, slots=True)
class _Sockets:
    """Bound before anything else is built, so that every URL is known; `closed` never listens."""

    gologin_api: socket.socket
    gologin_local: socket.socket
    adspower: socket.socket
    provider: socket.socket
    admin: socket.socket
    closed: socket.socket


class _Server(uvicorn.Server):
    """A uvicorn server among several on one loop: it leaves the signals alone, and tells when it serves."""

    def __init__(self, app: ASGIApp) -> None:
        settings = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
        )
        super().__init__(settings)
        self.serving = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()


def main(config: SandboxConfig) -> None:
    """Runs the sandbox until SIGTERM or SIGINT."""
    asyncio.run(run(config))


async def run(config: SandboxConfig) -> None:
    """Serves until SIGTERM or SIGINT, then stops every browser and server within a few seconds.

    Prints `SandboxInfo` as one line of JSON on stdout as soon as everything listens.
    Raises `OSError` if a port is taken.
    """
    stop = _stop_on_signals()
    with _sockets(config) as sockets, _data_dir(config) as data_dir:
        info = _describe(config, sockets)
        sandbox = _build_world(config, info, data_dir)
        async with _serving(_apps(sandbox), sockets):
            print(info.model_dump_json(), flush=True)
            await stop.wait()
            sandbox.stopping.set()
            await sandbox.browsers.close()


def _stop_on_signals() -> asyncio.Event:
    """Set by SIGTERM and SIGINT from now on: one that comes before the line on stdout is not lost."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


@contextlib.contextmanager
def _sockets(config: SandboxConfig) -> Iterator[_Sockets]:
    ports = (
        config.gologin_api_port,
        config.gologin_local_port,
        config.adspower_port,
        config.provider_port,
        config.admin_port,
    )
    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(_bind(config.host, port)) for port in (*ports, 0)]
        for listening in bound[:-1]:
            listening.listen(BACKLOG)
        yield _Sockets(*bound)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off (40 ms an answer) only on sockets that say that they are TCP.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if port:  # with SO_REUSEADDR the kernel may hand out the same free port twice while nobody listens on it
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


@contextlib.contextmanager
def _data_dir(config: SandboxConfig) -> Iterator[Path]:
    if config.data_dir is not None:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        yield config.data_dir.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _describe(config: SandboxConfig, sockets: _Sockets) -> SandboxInfo:
    provider_url = _url(config.url_host, sockets.provider)
    return SandboxInfo(
        gologin_api_url=_url(config.url_host, sockets.gologin_api),
        gologin_local_url=_url(config.url_host, sockets.gologin_local),
        adspower_url=_url(config.url_host, sockets.adspower),
        provider_url=provider_url,
        admin_url=_url(config.url_host, sockets.admin),
        gologin_api_token=config.gologin_token or secrets.token_urlsafe(32),
        apps=_oauth_apps(config, provider_url, _url("127.0.0.1", sockets.closed)),
        plainbook_url=f"{provider_url}{plainbook.MOUNTED_AT}",
        plainbook_app=AppInfo(
            client_id="PLAIN1-client",
            client_secret=secrets.token_urlsafe(32),
            redirect_uri=f"{_url('127.0.0.1', sockets.closed)}/plain",
            scopes=list(plainbook.SCOPES),
        ),
        accounts=[profile.account for profile in Profiles(config.accounts).all()],
    )


def _url(host: str, bound: socket.socket) -> str:
    return f"http://{host}:{bound.getsockname()[1]}"


def _oauth_apps(config: SandboxConfig, provider_url: str, closed_url: str) -> dict[str, AppInfo]:
    """Three kinds of callback: a dead address, a page, and one that never answers; and an app of OAuth 1.0a."""
    redirects: dict[str, tuple[str | None, str]] = {
        "AIOTT1": (
            config.aiott1_client_secret or secrets.token_urlsafe(32),
            config.aiott1_redirect_uri or f"{closed_url}/callback",
        ),
        "AIOTT2": (None, f"{provider_url}{provider_pages.CALLBACK}"),
        "AIOTT3": (secrets.token_urlsafe(32), f"{provider_url}{provider_pages.HANGING_CALLBACK}"),
    }
    apps = {
        name: AppInfo(client_id=f"{name}-client", client_secret=secret, redirect_uri=uri, scopes=list(SCOPES))
        for name, (secret, uri) in redirects.items()
    }
    apps["AIOTT4"] = AppInfo(
        kind="oauth1",
        client_id="AIOTT4-client",
        client_secret=secrets.token_urlsafe(32),
        redirect_uri=f"{closed_url}/callback?kind=oauth1",
        scopes=[],
    )
    return apps


def _build_world(config: SandboxConfig, info: SandboxInfo, data_dir: Path) -> SandboxState:
    sessions = Sessions()
    oauth = OAuthState(_apps_of_kind("oauth2", info))

    def cookies_for(account: str) -> Sequence[CookieParam]:
        return [_cookie(info.provider_url, sessions.cookie_value(account))]

    return SandboxState(
        info=info,
        gologin_token=info.gologin_api_token,
        proxy_secret=f"proxy-password-{secrets.token_hex(8)}",
        profiles=Profiles(config.accounts),
        sessions=sessions,
        oauth=oauth,
        oauth1=OAuth1State(_apps_of_kind("oauth1", info), issued=oauth.issued),
        plainbook=OAuthState(
            {"PLAIN1": info.plainbook_app},
            rotates=False,
            offline_scope="offline",
            secret_in_body=True,
            issued=oauth.issued,
        ),
        browsers=Browsers(
            data_dir=data_dir,
            cookies_for=cookies_for,
            chromium=config.chromium,
            extra_flags=config.chromium_args,
        ),
    )


def _apps_of_kind(kind: str, info: SandboxInfo) -> dict[str, AppInfo]:
    return {name: app for name, app in info.apps.items() if app.kind == kind}


def _cookie(provider_url: str, value: str) -> CookieParam:
    """CDP `Network.CookieParam`; with an expiry, so that the profile keeps it over restarts."""
    expires = time.time() + COOKIE_LIFETIME
    return {"name": SESSION_COOKIE, "value": value, "url": provider_url, "httpOnly": True, "expires": expires}


def _apps(sandbox: SandboxState) -> list[ASGIApp]:
    """Return the apps in the order of the fields of `_Sockets`."""
    return [
        Interceptor(
            gologin_cloud.create_gologin_cloud(sandbox), sandbox=sandbox, identify=gologin_cloud.identify
        ),
        Interceptor(
            gologin_local.create_gologin_local(sandbox), sandbox=sandbox, identify=gologin_local.identify
        ),
        Interceptor(
            adspower_local.create_adspower_local(sandbox), sandbox=sandbox, identify=adspower_local.identify
        ),
        Interceptor(_providers(sandbox), sandbox=sandbox, identify=_identify_provider_call),
        create_admin(sandbox),
    ]


def _providers(sandbox: SandboxState) -> ASGIApp:
    app = provider_pages.create_provider(sandbox)
    provider_oauth1.add_oauth1(app)
    app.mount(plainbook.MOUNTED_AT, plainbook.create_plainbook(sandbox))
    return app


def _identify_provider_call(request: Request, body: bytes, sandbox: SandboxState) -> Call | None:
    identifiers = (plainbook.identify, provider_oauth1.identify, provider_pages.identify)
    return next(filter(None, (identify(request, body, sandbox) for identify in identifiers)), None)


@contextlib.asynccontextmanager
async def _serving(apps: Sequence[ASGIApp], sockets: _Sockets) -> AsyncIterator[None]:
    listening = (
        sockets.gologin_api,
        sockets.gologin_local,
        sockets.adspower,
        sockets.provider,
        sockets.admin,
    )
    servers = [_Server(app) for app in apps]
    async with asyncio.TaskGroup() as group:
        for server, bound in zip(servers, listening, strict=True):
            group.create_task(server.serve(sockets=[bound]))
        for server in servers:
            await server.serving.wait()
        try:
            yield
        finally:
            for server in servers:
                server.should_exit = True
