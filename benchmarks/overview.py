"""The page's overview on long tables against 10,000 rows, and the share of a core that 50 open ones cost.

    make bench ARGS=overview

`--long` has 1,000,000 sessions and 5,000,000 events. Milliseconds are those of a client on the same machine, medians.
The service idles for as long as the pages are open afterwards: what it spends then is taken off.
"""

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Final

import httpx
import psutil

from app.database import Database
from benchmarks.figures import Figure, at_most, compared
from benchmarks.tables import SMALL, database_url, event_rows, fill, session_rows, settle
from sandbox.demo.service_process import ServiceProcess, settings_for
from sandbox.process import SandboxProcess

PAGES: Final = 50
RUNS: Final = 21
SETTLE_SECONDS: Final = 5.0
"""Time for all pages to open; it is not measured."""


async def figures(*, is_long: bool) -> list[Figure]:
    sessions, events, seconds = (1_000_000, 5_000_000, 60.0) if is_long else (50_000, 100_000, 30.0)
    found = []
    async with SandboxProcess(accounts=1) as sandbox:
        for kind in ("sqlite", "postgresql"):
            with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
                folder = Path(name)
                async with database_url(kind, folder) as url:
                    settings = settings_for(
                        sandbox.info, folder=folder, database_url=url, rate_limit_per_minute=1_000_000
                    )
                    await ServiceProcess(folder, settings).run("migrate")
                    await add_rows(url, (0, 0), (SMALL, SMALL), of=(sessions, events))
                    async with signed_in(folder, settings) as (_, page):
                        before = await milliseconds(page)
                    await add_rows(url, (SMALL, SMALL), (sessions, events), of=(sessions, events))
                    async with signed_in(folder, settings) as (service, page):
                        now = await milliseconds(page)
                        share = await share_of_a_core(service, page, seconds)
                found += [
                    Figure(f"{kind}, overview with {sessions:,} sessions", now, "ms", goal=at_most(100)),
                    compared(
                        f"{kind}, overview as it grows", now, "ms", baseline=f"{SMALL:,} rows", to=before,
                        goal=at_most(1.5),
                    ),
                    Figure(f"{kind}, {PAGES} open overviews", share, "% of a core", goal=at_most(5)),
                ]  # fmt: skip
    return found


async def add_rows(url: str, have: tuple[int, int], wanted: tuple[int, int], *, of: tuple[int, int]) -> None:
    """Add sessions and events, by their numbers, of those that there will be in the end."""
    database = Database(url, pool_size=2)
    await fill(database, "authorization_sessions", session_rows(have[0], wanted[0], of[0]))
    await fill(database, "events", event_rows(have[1], wanted[1], of[1]))
    await settle(database)
    await database.close()


@asynccontextmanager
async def signed_in(
    folder: Path, settings: dict[str, str]
) -> AsyncIterator[tuple[ServiceProcess, httpx.AsyncClient]]:
    """Yield a service, and a client that is signed in at its page."""
    service = ServiceProcess(folder, settings)
    await service.start()
    try:
        async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60) as client:
            form, headers = {"key": settings["API_KEY"]}, {"Sec-Fetch-Site": "same-origin"}
            answer = await client.post("/ui/sign-in", data=form, headers=headers)
            if answer.status_code != httpx.codes.SEE_OTHER:
                raise RuntimeError(f"the page's sign-in answered {answer.status_code}")
            yield service, client
    finally:
        await service.stop()


async def milliseconds(client: httpx.AsyncClient) -> float:
    times = []
    for _ in range(RUNS + 1):
        began = perf_counter()
        (await client.get("/ui")).raise_for_status()
        times.append((perf_counter() - began) * 1000)
    return statistics.median(times[1:])


async def share_of_a_core(service: ServiceProcess, client: httpx.AsyncClient, seconds: float) -> float:
    """Return the percentage that `PAGES` open overviews cost: streams that are followed, as a browser does."""
    process = psutil.Process(service.pid)

    def spent() -> float:
        times = process.cpu_times()
        return times.user + times.system

    async def keep_open() -> None:
        async with client.stream("GET", "/ui/overview/live") as stream:
            stream.raise_for_status()
            async for _ in stream.aiter_raw():
                pass
        raise RuntimeError("an open page's stream ended")

    began = spent()
    await asyncio.sleep(seconds)
    idle = spent() - began
    pages = [asyncio.create_task(keep_open()) for _ in range(PAGES)]
    ended, _ = await asyncio.wait(pages, timeout=SETTLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    began = spent()
    if not ended:
        ended, _ = await asyncio.wait(pages, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    busy = spent() - began
    for page in pages:
        page.cancel()
    await asyncio.gather(*pages, return_exceptions=True)
    for page in ended:
        page.result()
    return (busy - idle) / seconds * 100
