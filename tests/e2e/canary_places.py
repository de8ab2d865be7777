"""Where secrets could show but in answers: the event stream, processes, tables, files."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import psutil
from sqlalchemy import Connection, MetaData, select

from app.database import Database
from sandbox.oauth import IssuedSecrets
from tests.e2e.canary import Canaries, LeakLog
from tests.e2e.canary_sweep import COMMANDS, RouteSweep
from tests.e2e.harness import WAIT

_IN_COLUMNS: Final = {"webhook_endpoints.url": {"webhook URL"}}
_IN_FILES: Final = {
    "service.db": {"webhook URL"},
    "service.db-wal": {"webhook URL"},
    "output": set().union(*COMMANDS.values()),  # of the last command
}


@asynccontextmanager
async def listening(sweep: RouteSweep) -> AsyncIterator[None]:
    """The event stream of all that happens meanwhile."""

    async def read() -> None:
        headers = {"X-API-Key": sweep.harness.key}
        async with (
            httpx.AsyncClient(base_url=sweep.harness.service.url, trust_env=False, timeout=WAIT) as http,
            http.stream("GET", "/events/stream", headers=headers) as answer,
        ):
            async for line in answer.aiter_lines():
                sweep.leak_log.write("the event stream", line)
                told.append(line)

    told: list[str] = []
    task = asyncio.create_task(read())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert any("authorization.completed" in line for line in told)


@asynccontextmanager
async def watching_children(sweep: RouteSweep) -> AsyncIterator[None]:
    """The command lines of the service and all its children, and the children's environments."""

    async def watch() -> None:
        service = psutil.Process(sweep.harness.service.pid)
        while True:
            sweep.leak_log.write("the service's command line", "\0".join(service.cmdline()))
            for child in service.children(recursive=True):
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    seen.add(child.name())
                    line = child.cmdline()
                    sweep.leak_log.write(f"the command line of {child.name()}", line)
                    if "--port=0" in line:  # not a fork that is still to become the driver
                        sweep.leak_log.write(f"the environment of {child.name()}", child.environ())
            await asyncio.sleep(0.3)

    seen: set[str] = set()
    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert "chromedriver" in seen


def plant_issued(canaries: Canaries, before: IssuedSecrets, after: IssuedSecrets) -> None:
    """All that the provider has made or seen meanwhile."""
    names = {
        "codes": "authorization code",
        "access_tokens": "access token",
        "refresh_tokens": "refresh token",
        "verifiers": "PKCE verifier",
        "states": "state",
        "request_tokens": "request token",
        "token_secrets": "token secret",
    }
    for field, values in after.model_dump().items():
        new = values[len(getattr(before, field)) :]
        assert new, field
        canaries.plant(names[field], *filter(None, new))


async def look_at_tables(sweep: RouteSweep) -> None:
    """Every column of every table, those of the job queue included; a webhook's address is where it belongs."""
    database = Database(sweep.harness.environment["DATABASE_URL"], pool_size=1)
    metadata = MetaData()

    def look(connection: Connection) -> None:
        metadata.reflect(connection)
        for table in metadata.sorted_tables:
            for row in connection.execute(select(table)).mappings():
                for column, value in row.items():
                    place = f"{table.name}.{column}"
                    shown = value if isinstance(value, bytes) else json.dumps(value, default=str)
                    sweep.leak_log.write(place, shown, allowed=_IN_COLUMNS.get(place, ()))

    try:
        async with database.engine.connect() as connection:
            await connection.run_sync(look)
    finally:
        await database.close()
    assert {"credentials", "events", "webhook_attempts", "evidence"} <= metadata.tables.keys()


def look_at_files(leak_log: LeakLog, *folders: Path) -> None:
    """Their bytes and their names: logs, temporary files, exports, spilled tokens; the database as it lies on disk."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert {"service.log", "accounts.csv", "profiles.csv"} <= {path.name for path in paths}
    for path in paths:
        leak_log.write("the name of a file", path.name)
        leak_log.write(path.name, path.read_bytes(), allowed=_IN_FILES.get(path.name, ()))
