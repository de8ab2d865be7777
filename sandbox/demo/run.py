"""The demo: sandbox and service in processes of their own, authorizations over HTTP, and the proof that they hold."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import httpx
from rich.console import Console

from app.config import load_settings
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from sandbox.demo.proof import prove
from sandbox.demo.report import Health, LiveProgress, print_report
from sandbox.demo.service_process import ServiceProcess, settings_for
from sandbox.process import SandboxProcess

_READY_TIMEOUT: Final = 60.0
_SECONDS_PER_ACCOUNT: Final = 30.0
_POLL_RUNNING, _POLL_WAITING = 0.5, 2.0
_HEALTH_EVERY: Final = 0.1
_SYNC_POLL: Final = 0.25

console = Console(width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class DemoOptions:
    accounts: int = 5
    keep: bool = False
    """Go on serving afterwards."""
    folder: Path = Path(".demo")
    """Each run makes a folder of its own in it."""
    sandbox_url: str | None = None
    """Admin URL of a sandbox that runs already."""


async def run_demo(options: DemoOptions) -> bool:
    """Run the demo; return whether every account was authorised and every proof held."""
    folder = _new_folder(options.folder)
    async with _sandbox(options, folder) as (info, admin):
        console.print(f"Sandbox: GoLogin at {info.gologin_api_url}, provider at {info.provider_url}")
        # The demo asks far more often than a caller would: it shows the stages live.
        settings = settings_for(
            info,
            folder=folder,
            rate_limit_per_minute=100_000,
            loop_tick=0.01,
            webhook_allow_private_addresses=True,
        )
        service = ServiceProcess(folder, settings)
        async with service:
            key = await service.run("keys", "create", "demo", "--scope", "admin")
            console.print(f"Service: {service.url}, SQLite and log in {folder}")
            accounts = info.accounts[: options.accounts]
            sessions, health, ready = await _authorize(service.url, key, accounts)
            proof = await prove(
                _settings(settings), folder, accounts, secrets=_known_secrets(settings, info, key)
            )
            if options.keep:
                link = await service.run("ui-link", "--as", "demo", "--address", service.url)
                await _keep_serving(service, key, accounts[0], link)
        leftovers = len(await admin.browsers())
    print_report(console, sessions, proof, health=health, ready=ready, leftovers=leftovers)
    completed = sum(session["status"] == "completed" for session in sessions)
    return completed == options.accounts and proof.holds and leftovers == 0 and health.failures == 0


def _new_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="run-", dir=parent)).resolve()


@asynccontextmanager
async def _sandbox(options: DemoOptions, folder: Path) -> AsyncIterator[tuple[SandboxInfo, SandboxAdmin]]:
    if options.sandbox_url is None:
        profiles = folder / "profiles"
        async with SandboxProcess(accounts=options.accounts, data_dir=profiles) as sandbox:
            yield sandbox.info, sandbox.admin
        await asyncio.to_thread(shutil.rmtree, profiles, ignore_errors=True)
        return
    async with httpx.AsyncClient(base_url=options.sandbox_url, timeout=10, trust_env=False) as http:
        info = SandboxInfo.model_validate((await http.get("/info")).raise_for_status().json())
    async with SandboxAdmin(info) as admin:
        yield info, admin


async def _authorize(
    url: str, key: str, accounts: list[str]
) -> tuple[list[dict[str, Any]], Health, dict[str, Any]]:
    """All accounts at once; the sessions in their order, what `/health` did meanwhile, and `/health/ready` after."""
    async with AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=len(accounts) + 10)
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=url, headers={"X-API-Key": key}, timeout=30, limits=limits, trust_env=False
            )
        )
        await _until_synced(http)
        health = Health()
        watcher = asyncio.create_task(_watch_health(url, health))
        with LiveProgress(console, accounts) as progress:
            async with asyncio.timeout(_READY_TIMEOUT + _SECONDS_PER_ACCOUNT * len(accounts)):
                sessions = await asyncio.gather(*(_one(http, account, progress) for account in accounts))
        watcher.cancel()
        await asyncio.wait([watcher])
        ready = (await http.get("/health/ready")).json()["data"]
    return list(sessions), health, ready


async def _until_synced(http: httpx.AsyncClient) -> None:
    """The workers run and the first sync has brought the profiles."""
    async with asyncio.timeout(_READY_TIMEOUT):
        while True:
            report = (await http.get("/health/ready")).json()["data"]
            synced = any(worker["name"] == "sync" and worker["last_success"] for worker in report["workers"])
            if report["ready"] and synced:
                return
            await asyncio.sleep(_SYNC_POLL)


async def _one(http: httpx.AsyncClient, account: str, progress: LiveProgress) -> dict[str, Any]:
    """POST, then look until the session has ended."""
    body = {"account_id": account, "api_app": "AIOTT1"}
    session = _data(await http.post("/authorize", json=body))
    while session["status"] in ("pending", "in_progress"):
        progress.show(account, session)
        await asyncio.sleep(_POLL_WAITING if session["status"] == "pending" else _POLL_RUNNING)
        session = _data(await http.get(f"/authorize/{session['session_id']}"))
    progress.show(account, session)
    return session


def _data(response: httpx.Response) -> dict[str, Any]:
    answer = response.json()
    if not answer["success"]:
        raise RuntimeError(f"{answer['error_code']}: {answer['error']} (request {answer['request_id']})")
    data: dict[str, Any] = answer["data"]
    return data


async def _watch_health(url: str, health: Health) -> None:
    """Over a connection of its own, as a load balancer would."""
    async with httpx.AsyncClient(base_url=url, timeout=5, trust_env=False) as http:
        while True:
            began = monotonic()
            try:
                (await http.get("/health")).raise_for_status()
                health.answers += 1
                health.slowest_ms = max(health.slowest_ms, round((monotonic() - began) * 1000, 1))
            except httpx.HTTPError:
                health.failures += 1
            await asyncio.sleep(_HEALTH_EVERY)


def _settings(environment: Mapping[str, str]) -> Any:
    return load_settings(env_file=None, **{name.lower(): value for name, value in environment.items()})


def _known_secrets(settings: Mapping[str, str], info: SandboxInfo, key: str) -> dict[str, str]:
    """Return the secrets that must be found nowhere, by kind."""
    apps = {
        f"client secret of {name}": app.client_secret for name, app in info.apps.items() if app.client_secret
    }
    return {
        "API key": key,
        "bootstrap key": settings["API_KEY"],
        "encryption key": settings["ENCRYPTION_KEYS"].partition(":")[2],
        "GoLogin token": info.gologin_api_token,
        **apps,
    }


async def _keep_serving(service: ServiceProcess, key: str, account: str, link: str) -> None:
    console.print("\n[bold]Serving until Ctrl-C.[/bold]")
    console.print(f"  URL  {service.url}  (routes: {service.url}/docs)\n  key  {key}")
    console.print(f"  page {service.url}/ui  signs in with the key, or once within 5 minutes by this link:")
    console.print(f"  {link}\n", soft_wrap=True, highlight=False)
    command = (
        f"curl -s -X POST {service.url}/authorize -H 'X-API-Key: {key}' -H 'Content-Type: application/json' "
        f'-H \'Prefer: wait=30\' -d \'{{"account_id": "{account}", "api_app": "AIOTT1"}}\''
    )
    console.print(f"  {command}\n", soft_wrap=True, highlight=False)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        console.print("Stopping.")
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
