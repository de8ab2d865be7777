"""40,000 accounts kept fresh at real pace, while tokens are handed out all the time: is any of them expired?

    .venv/bin/python -m benchmarks.fleet [accounts] [seconds] [database-url]

Real are the number of accounts, the rates and the provider's 50 ms. Scaled is the stretch of time: a slice of the two
hours, in which as many come due a second as over all of it (accounts / 7,200), each 60 s before it expires; then a
burst, in which all that are left come due at once, 900 s before they expire (the default REFRESH_MARGIN). The database
must be empty; left out: SQLite in a temporary folder.
"""

import asyncio
import random
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from time import perf_counter

import psutil
from sqlalchemy import func, select, update

from app.context import Context
from app.models import Credential, utc_now
from app.services.workers.refresh_worker import TokenRefreshWorker
from app.utils.logger import setup_logging
from benchmarks.tokens import APP, granted, opened, store
from sandbox.process import SandboxProcess

TWO_HOURS = 7200
LATENCY_MS = 50
LIVES_ON = 60.0
"""Seconds that a token lives after it has come due."""
CALLERS = 10
BURST_SECONDS = 900
"""The same in the burst."""


class HandOuts:
    """Random accounts, one after the other, by each of some callers."""

    def __init__(self, context: Context, accounts: list[str]) -> None:
        self._context = context
        self._accounts = accounts
        self.seconds: list[float] = []
        self.remaining: list[float] = []

    async def run(self) -> None:
        while True:
            account, began = random.choice(self._accounts), perf_counter()
            handed = await self._context.tokens.credentials.get_access_token(
                account, APP, min_ttl=0, actor="benchmark"
            )
            self.seconds.append(perf_counter() - began)
            assert handed.row.token_expires_at is not None
            self.remaining.append((handed.row.token_expires_at - utc_now()).total_seconds())
            await asyncio.sleep(0.05)

    def report(self) -> str:
        percentiles = statistics.quantiles(self.seconds, n=100)
        return (
            f"{len(self.remaining)} hand-outs, {sum(left <= 0 for left in self.remaining)} expired, "
            f"the shortest lived {min(self.remaining):.0f} s more; "
            f"p50 {percentiles[49] * 1000:.0f} ms, p99 {percentiles[98] * 1000:.0f} ms"
        )


@asynccontextmanager
async def measured(context: Context, title: str, accounts: list[str]) -> AsyncIterator[None]:
    worker = context.workers.get("refresh")
    assert isinstance(worker, TokenRefreshWorker)
    hand_outs, memory = HandOuts(context, accounts), psutil.Process().memory_info().rss
    before, began = await refreshed(context), perf_counter()
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(hand_outs.run()) for _ in range(CALLERS)]
        yield
        for caller in callers:
            caller.cancel()
    count, seconds = await refreshed(context) - before, perf_counter() - began
    lag, grown = context.loop_lag.snapshot(), psutil.Process().memory_info().rss - memory
    print(
        f"{title}: {count} refreshes in {seconds:.0f} s, {count / seconds:.1f} a second; {hand_outs.report()}"
    )
    print(f"  memory +{grown / 2**20:.0f} MB; event loop late by p50 {lag.p50_ms} ms, p99 {lag.p99_ms} ms")


async def main(accounts: int, seconds: float, url: str | None) -> None:
    setup_logging(level="ERROR", environment="development")
    changes = {"database_url": url} if url else {}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        async with SandboxProcess(accounts=0) as sandbox, opened(sandbox, Path(name), **changes) as context:
            await sandbox.admin.change_settings(latency_ms=LATENCY_MS)
            names = [f"account_{number}" for number in range(accounts)]
            await spread(context, sandbox, names)
            worker = context.workers.get("refresh")
            running = asyncio.create_task(worker.run())
            async with measured(context, "real pace", names):
                await asyncio.sleep(seconds)
            left = await make_all_due(context)
            async with measured(context, f"burst of {left}", names):
                await until_none_is_due(context)
            worker.stop()
            await running


async def spread(context: Context, sandbox: SandboxProcess, names: list[str]) -> None:
    """Due one after the other, over two hours from now."""
    grants, now = await granted(sandbox, names), utc_now()

    def due_at(number: int) -> timedelta:
        return timedelta(seconds=(number + 1) / len(names) * TWO_HOURS)

    await store(
        context,
        grants,
        due_at=lambda number: now + due_at(number),
        expires_at=lambda number: now + due_at(number) + timedelta(seconds=LIVES_ON),
    )


async def make_all_due(context: Context) -> int:
    now = utc_now()
    async with context.database.transaction() as db:
        changed = await db.execute(
            update(Credential)
            .where(Credential.version == 1)
            .values(refresh_due_at=now, token_expires_at=now + timedelta(seconds=BURST_SECONDS))
        )
        return int(changed.rowcount)  # type: ignore[attr-defined]


async def until_none_is_due(context: Context) -> None:
    query = select(Credential.id).where(Credential.version == 1).limit(1)
    while True:
        async with context.database.reading() as db:
            if await db.scalar(query) is None:
                return
        await asyncio.sleep(0.5)


async def refreshed(context: Context) -> int:
    async with context.database.reading() as db:
        return await db.scalar(select(func.count()).where(Credential.version > 1)) or 0


if __name__ == "__main__":
    given = sys.argv[1:]
    asyncio.run(
        main(
            int(given[0]) if given else 40_000,
            float(given[1]) if len(given) > 1 else 120.0,
            given[2] if len(given) > 2 else None,
        )
    )
