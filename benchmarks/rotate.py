"""Rows a second of `secrets rotate` beside hand-outs, and what those notice of it.

    make bench ARGS=rotate

With SQLite in a temporary folder and with PostgreSQL. The readers, in this process, hand out tokens of random accounts
all the time, each with its event; first beside the rotation, then alone for as long. The rotation is the
real command in a process of its own, killed when it is half-way and run again. A read counts as failed when it raises
or brings another token than was stored.
"""

import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from sqlalchemy import func, select

from app.config import load_settings
from app.context import Context, open_context
from app.database import Database
from app.models import Credential
from app.services.tokens import key_audit
from app.services.tokens.importer import TokenImport
from app.utils.crypto import generate_key
from app.utils.exceptions import AppException
from benchmarks.figures import Figure, at_most, compared
from benchmarks.pickup import postgresql_url

APP = "AIOTT1"
READERS = 8


@dataclass
class Reads:
    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def p99_ms(self) -> float:
        return 1000 * statistics.quantiles(self.seconds, n=100)[-1]


class Readers:
    """Concurrent readers, until they are stopped."""

    def __init__(self, context: Context, accounts: int, readers: int) -> None:
        self._context, self._accounts, self._readers = context, accounts, readers

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Reads]:
        reads, stop = Reads(), asyncio.Event()
        tasks = [asyncio.create_task(self._read(reads, stop)) for _ in range(self._readers)]
        try:
            yield reads
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def _read(self, reads: Reads, stop: asyncio.Event) -> None:
        while not stop.is_set():
            account = f"account_{random.randrange(self._accounts)}"
            began = perf_counter()
            try:
                handed = await self._context.tokens.credentials.get_access_token(
                    account, APP, min_ttl=0, actor="benchmark"
                )
                reads.failed += handed.access_token.get_secret_value() != f"token-of-{account}"
            except AppException:
                reads.failed += 1
            reads.seconds.append(perf_counter() - began)
            await asyncio.sleep(0)


@asynccontextmanager
async def opened(environment: dict[str, str]) -> AsyncIterator[Context]:
    settings = load_settings(env_file=None, **{name.lower(): value for name, value in environment.items()})
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    await database.migrate()
    await database.close()
    async with open_context(settings) as context:
        yield context


async def fill(context: Context, accounts: int) -> float:
    """Seconds."""
    began = perf_counter()
    store = TokenImport(
        database=context.database,
        credentials=context.tokens.credentials,
        api_apps=[APP],
        handle_problem=context.tokens.oauth.handle_problem,
        replace=False,
    )
    entries = (
        (
            number,
            {
                "account_id": f"account_{number}",
                "api_app": APP,
                "access_token": f"token-of-account_{number}",
                "refresh_token": "r" * 90,
                "expires_in": 86_400,
            },
        )
        for number in range(accounts)
    )
    report = await store.run(entries, actor="benchmark")
    assert report.stored == accounts, report.bad_lines[:3]
    return perf_counter() - began


async def rotate(environment: dict[str, str], context: Context, *, kill_at: int | None = None) -> str:
    """Return the command's output; nothing when it was killed, with `kill_at` rows rotated."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "secrets", "rotate", stdout=PIPE, env=os.environ | environment
    )
    while kill_at is not None and process.returncode is None:
        if await rotated(context) >= kill_at:
            process.send_signal(signal.SIGKILL)
            break
        await asyncio.sleep(0.02)
    output, _ = await process.communicate()
    return output.decode().strip()


async def rotated(context: Context) -> int:
    async with context.database.reading() as db:
        query = select(func.count()).where(Credential.access_token.startswith("new:"))
        return await db.scalar(query) or 0


async def measure(title: str, url: str, folder: Path, accounts: int) -> list[Figure]:
    old, new = f"old:{generate_key()}", f"new:{generate_key()}"
    environment = {
        "DATABASE_URL": url,
        "ENCRYPTION_KEYS": f"{new},{old}",
        "TOKEN_SPILL_FOLDER": str(folder / "spilled"),
        "OAUTH_APPS": json.dumps({APP: {"client_id": "id", "redirect_uri": "http://127.0.0.1/callback"}}),
    }
    async with opened(environment | {"ENCRYPTION_KEYS": f"{old},{new}"}) as context:
        imported = await fill(context, accounts)
        readings = Readers(context, accounts, READERS)
        async with readings.reading() as beside:
            began = perf_counter()
            await rotate(environment, context, kill_at=accounts // 2)
            await rotate(environment, context)
            seconds = perf_counter() - began
        async with readings.reading() as alone:
            await asyncio.sleep(seconds)
        found = await key_audit.audit(context.database, context.tokens.vault)
        old_values = sum(count for name, count in found.values.items() if name != "new")
    return [
        Figure(f"import, {title}", accounts / imported, "rows a second"),
        Figure(f"rotation killed half-way and run again, {title}", accounts / seconds, "rows a second"),
        Figure(f"rotation, {title}: values left with the old key", old_values, "", goal=at_most(0)),
        Figure(f"rotation, {title}: reads that failed", beside.failed, "", goal=at_most(0)),
        compared(
            f"rotation, {title}: p99 of reads",
            beside.p99_ms(),
            "ms",
            baseline="without it",
            to=alone.p99_ms(),
        ),
    ]


async def figures(*, is_long: bool) -> list[Figure]:
    accounts = 40_000 if is_long else 4_000
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder, server = Path(name), Path(name) / "server"
        server.mkdir(mode=0o700)
        found = await measure("SQLite", f"sqlite+aiosqlite:///{folder}/service.db", folder, accounts)
        async with postgresql_url(server) as url:
            return found + await measure("PostgreSQL", url, folder, accounts)
