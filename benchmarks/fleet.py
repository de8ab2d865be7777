"""40,000 accounts kept fresh at real pace, while tokens are handed out all the time: is any of them expired?

    make bench ARGS=fleet

Real are the number of accounts, the rates and the provider's 50 ms. Scaled is the stretch of time: a slice of the two
hours, in which as many come due a second as over all of it (accounts / 7,200), each 60 s before it expires; then a
burst, in which all that are left come due at once, 900 s before they expire (the default REFRESH_MARGIN). SQLite in a
temporary folder.
"""

import asyncio
import random
import statistics
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
from benchmarks.figures import Figure, at_most
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


@asynccontextmanager
async def measured(
    context: Context, title: str, accounts: list[str], figures: list[Figure]
) -> AsyncIterator[None]:
    hand_outs, memory = HandOuts(context, accounts), psutil.Process().memory_info().rss
    before, began = await refreshed(context), perf_counter()
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(hand_outs.run()) for _ in range(CALLERS)]
        yield
        for caller in callers:
            caller.cancel()
    count, seconds = await refreshed(context) - before, perf_counter() - began
    grown = psutil.Process().memory_info().rss - memory
    expired = sum(left <= 0 for left in hand_outs.remaining)
    figures += [
        Figure(f"{title}: refreshes", count / seconds, "a second"),
        Figure(
            f"{title}: hand-outs of expired tokens",
            expired,
            f"of {len(hand_outs.remaining)}",
            goal=at_most(0),
        ),
        Figure(f"{title}: hand-outs, p99", statistics.quantiles(hand_outs.seconds, n=100)[98] * 1000, "ms"),
        Figure(f"{title}: growth of memory", grown / 2**20, "MB"),
        Figure(f"{title}: lag of the event loop, p99", context.loop_lag.snapshot().p99_ms, "ms"),
    ]


async def figures(*, is_long: bool) -> list[Figure]:
    accounts, seconds = (40_000, 120.0) if is_long else (4_000, 20.0)
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        async with SandboxProcess(accounts=0) as sandbox, opened(sandbox, Path(name)) as context:
            await sandbox.admin.change_settings(latency_ms=LATENCY_MS)
            names = [f"account_{number}" for number in range(accounts)]
            await spread(context, sandbox, names)
            worker = context.workers.get("refresh")
            assert worker is not None
            running = asyncio.create_task(worker.run())
            async with measured(context, f"{accounts:,} accounts at real pace", names, found):
                await asyncio.sleep(seconds)
            left = await make_all_due(context)
            async with measured(context, f"burst of {left:,}", names, found):
                await until_none_is_due(context)
            worker.stop()
            await running
    return found


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
