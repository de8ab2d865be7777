"""Refreshes a second of one process, against a bare httpx loop that does the same POSTs; and hand-outs a second.

    make bench ARGS=refresh

The sandbox answers 50 ms late, in a process of its own; its share of a core says whether it is the bottleneck. Ours is
the real worker, on SQLite and on PostgreSQL; the bare loop keeps what it gets in memory, and has 20 requests under way:
with more it is slower, as its pool looks at every connection for each request. Five rounds of each, in turn; medians
and their ratio.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import psutil
from sqlalchemy import func, select, update

from app.context import Context
from app.models import Credential, utc_now
from app.services.workers.refresh_worker import TokenRefreshWorker
from benchmarks.figures import Figure, compared
from benchmarks.pickup import postgresql_url
from benchmarks.tokens import APP, granted, opened, store_fresh
from sandbox.process import SandboxProcess

ROUNDS = 5
LATENCY_MS = 50
AT_ONCE = 50
BARE_AT_ONCE = 20
HANDING_OUT = 250
"""Callers at once."""


async def figures(*, is_long: bool) -> list[Figure]:
    accounts = 1000 if is_long else 300
    found = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        (folder / "server").mkdir(mode=0o700)
        async with SandboxProcess(accounts=0) as sandbox, postgresql_url(folder / "server") as url:
            await sandbox.admin.change_settings(latency_ms=LATENCY_MS)
            for title, changes in (("SQLite", {}), ("PostgreSQL", {"database_url": url})):
                async with opened(sandbox, folder, refresh_concurrency=AT_ONCE, **changes) as context:
                    found += await compare(title, sandbox, context, accounts)
    return found


async def compare(title: str, sandbox: SandboxProcess, context: Context, accounts: int) -> list[Figure]:
    names = [f"{title.lower()}_{number}" for number in range(accounts)]
    await store_fresh(context, await granted(sandbox, names))
    bare = {
        grant.account: grant.refresh_token
        for grant in await granted(sandbox, [f"bare_{name}" for name in names])
    }
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    busiest = 0.0
    for _ in range(ROUNDS):
        await make_due(context)
        rates["ours"].append(accounts / await seconds_of(lambda: refresh_due(context)))
        cpu, began = cpu_seconds(sandbox), perf_counter()
        rates["bare"].append(accounts / await seconds_of(lambda: bare_loop(sandbox, bare)))
        busiest = max(busiest, (cpu_seconds(sandbox) - cpu) / (perf_counter() - began))
    ours, baseline = (statistics.median(values) for values in rates.values())
    handed = [accounts / await seconds_of(lambda: get_access_token(context, names)) for _ in range(ROUNDS)]
    return [
        compared(f"refreshes, {title}", ours, "a second", baseline="bare httpx loop", to=baseline),
        Figure(f"refreshes, {title}: the sandbox beside httpx", busiest, "cores"),
        Figure(f"hand-outs in the process, {title}", statistics.median(handed), "a second"),
    ]


async def make_due(context: Context) -> None:
    async with context.database.transaction() as db:
        await db.execute(update(Credential).values(refresh_due_at=utc_now(), refreshed_at=None))


async def refresh_due(context: Context) -> None:
    worker = context.workers.get("refresh")
    assert isinstance(worker, TokenRefreshWorker)
    while await worker.run_once() or worker.in_flight:
        if not await worker.run_once():  # the first calls find out whether there is a limit
            await worker.finish_started()
    async with context.database.reading() as db:
        due = select(func.count()).where(Credential.refresh_due_at <= utc_now())
        if left := await db.scalar(due):
            raise RuntimeError(f"{left} accounts were not refreshed")


async def bare_loop(sandbox: SandboxProcess, tokens: dict[str, Any]) -> None:
    """`tokens`: refresh token by account, replaced by what comes."""
    app = sandbox.info.apps[APP]
    url, auth = f"{sandbox.info.provider_url}/2/oauth2/token", (app.client_id, app.client_secret or "")
    limits = httpx.Limits(max_connections=BARE_AT_ONCE, max_keepalive_connections=BARE_AT_ONCE)
    async with httpx.AsyncClient(limits=limits, timeout=15, trust_env=False) as http:

        async def refresh(account: str) -> None:
            form = {"grant_type": "refresh_token", "refresh_token": tokens[account]}
            answer = await http.post(url, data=form, auth=auth)
            tokens[account] = answer.raise_for_status().json()["refresh_token"]

        await each(list(tokens), refresh, BARE_AT_ONCE)


async def get_access_token(context: Context, accounts: Sequence[str]) -> None:
    async def one(account: str) -> None:
        await context.tokens.credentials.get_access_token(account, APP, min_ttl=0, actor="benchmark")

    await each(accounts, one, HANDING_OUT)


async def each(items: Sequence[str], work: Callable[[str], Awaitable[None]], at_once: int) -> None:
    left = iter(items)

    async def some() -> None:
        for item in left:
            await work(item)

    await asyncio.gather(*(some() for _ in range(at_once)))


async def seconds_of(work: Callable[[], Awaitable[None]]) -> float:
    began = perf_counter()
    await work()
    return perf_counter() - began


def cpu_seconds(sandbox: SandboxProcess) -> float:
    times = psutil.Process(sandbox.pid).cpu_times()
    return times.user + times.system
