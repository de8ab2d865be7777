"""A fleet of worker processes with stub browsers on one PostgreSQL: are its slots full, and is no session run twice?

    make bench ARGS=simulated_fleet

Each process has ten slots, and each session holds one for 30 seconds (15 in the short form). One reader follows the
events as a stream does.
"""

import asyncio
import statistics
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import psutil
from sqlalchemy import func, select

from app.database import Database
from app.models import AuthorizationAttempt, AuthorizationSession, SessionStatus, utc_now
from app.services.events.tail import EventTail
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.orchestration import submit
from benchmarks.pickup import postgresql_url
from benchmarks.stub_worker import StubWorker, stub_workers
from benchmarks.waiting_rows import analyze

SLOTS: Final = 10
"""Slots of a process, by default."""
LOOK_SECONDS: Final = 0.5


class Watch:
    """An outsider's view of the fleet: sessions that run, and when its events arrive."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tail = EventTail(database=database)
        self.running: list[int] = []
        self.lags: list[float] = []

    async def count_running(self) -> None:
        query = select(func.count()).where(AuthorizationSession.status == SessionStatus.IN_PROGRESS)
        while True:
            async with self._database.reading() as db:
                self.running.append(await db.scalar(query) or 0)
            await asyncio.sleep(LOOK_SECONDS)

    async def follow_events(self) -> None:
        with self._tail.follow():
            position = None
            while True:
                await self._tail.news.wait()
                while position is not None and (new := self._tail.after(position, 1000)):
                    now = utc_now()
                    self.lags += [(now - each.event.occurred_at).total_seconds() for each in new]
                    position = new[-1].position
                position = position or self._tail._head


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in processes if each.is_running())


def database_cpu(folder: Path) -> float:
    """CPU seconds of the PostgreSQL server and of its connections, ended ones included."""
    pid = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
    server = psutil.Process(pid)
    ended = server.cpu_times().children_user + server.cpu_times().children_system
    return ended + cpu_seconds([server, *server.children(recursive=True)])


async def figures_of(workers: list[StubWorker]) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(worker.ask("mark") for worker in workers)))


async def figures(*, is_long: bool) -> list[Figure]:
    processes, accounts, minutes, seconds = (20, 40_000, 10, 30) if is_long else (8, 4_000, 0.75, 15)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        url = await stack.enter_async_context(postgresql_url(folder))
        database = Database(url, pool_size=5)
        stack.push_async_callback(database.close)
        await database.migrate()
        await submit(database, 1, accounts)
        await analyze(database)
        workers = await stack.enter_async_context(stub_workers(processes, url, seconds=seconds))
        for worker in workers:
            await worker.ask("start")
        await asyncio.sleep(seconds)  # the slots fill
        watch = Watch(database)
        before, database_before = await figures_of(workers), database_cpu(folder)
        began = perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(watch.count_running()), group.create_task(watch.follow_events())]
            await asyncio.sleep(minutes * 60)
            for task in tasks:
                task.cancel()
        elapsed = perf_counter() - began
        used = sum(b["cpu"] - a["cpu"] for a, b in zip(before, await figures_of(workers), strict=True))
        database_used = database_cpu(folder) - database_before
        twice, ended = await count_ends(database)
    slots = processes * SLOTS
    full = statistics.mean(watch.running) / slots
    if not watch.lags or not ended:
        raise RuntimeError(f"{ended} sessions ended, {len(watch.lags)} events were read")
    lag = max(watch.lags)
    name = f"simulated fleet, {processes} processes, {accounts:,} waiting"
    return [
        Figure(f"{name}: slots in use", full * 100, "%", goal=at_least(97)),
        Figure(f"{name}: sessions run twice", twice, f"of {ended:,}", goal=at_most(0)),
        Figure(f"{name}: longest lag of an event", lag, "s", goal=at_most(1)),
        Figure(f"{name}: CPU of the database", database_used / elapsed, "cores"),
        Figure(f"{name}: CPU of the workers", used / elapsed, "cores"),
    ]


async def count_ends(database: Database) -> tuple[int, int]:
    """Return the number of sessions that began more than once, and of those that have ended."""
    more_than_one = select(AuthorizationAttempt.session_id).group_by(AuthorizationAttempt.session_id)
    twice = more_than_one.having(func.count() > 1).subquery()
    completed = select(func.count()).where(AuthorizationSession.status == SessionStatus.COMPLETED)
    async with database.reading() as db:
        return await db.scalar(select(func.count()).select_from(twice)) or 0, await db.scalar(completed) or 0
