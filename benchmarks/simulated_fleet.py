"""A fleet of worker processes with stub browsers on one PostgreSQL: are its slots full, and is no session run twice?

    .venv/bin/python -m benchmarks.simulated_fleet [--processes 20] [--accounts 40000] [--minutes 10] [--seconds 30]

Each process has ten slots, and each session holds one for `--seconds`. One reader follows the events as a stream does.
"""

import argparse
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
from benchmarks.orchestration import Row, submit
from benchmarks.pickup import postgresql_url
from benchmarks.stub_worker import StubWorker, stub_workers
from benchmarks.waiting_rows import analyze

SLOTS: Final = 10
"""Slots of a process, by default."""
LOOK_SECONDS: Final = 0.5
MIN_FULL, MAX_LAG = 0.97, 1.0


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


async def run(*, processes: int, accounts: int, minutes: float, seconds: float) -> list[Row]:
    """Return the figures: name, value, baseline's name, its value, ratio, goal."""
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
    lag = max(watch.lags, default=0.0)
    name = f"simulated fleet, {processes} processes, {accounts:,} waiting"
    return [
        (f"{name}: slots in use", full, "all slots", 1.0, full, f">= {MIN_FULL:g}"),
        (f"{name}: sessions run twice", twice, "", None, None, "0"),
        (f"{name}: sessions ended", ended, "", None, None, ""),
        (f"{name}: longest lag of an event, s", lag, "", None, None, f"<= {MAX_LAG:g}"),
        (f"{name}: CPU of the database, cores", database_used / elapsed, "", None, None, ""),
        (f"{name}: CPU of the workers, cores", used / elapsed, "", None, None, ""),
    ]


async def count_ends(database: Database) -> tuple[int, int]:
    """Return the number of sessions that began more than once, and of those that have ended."""
    more_than_one = select(AuthorizationAttempt.session_id).group_by(AuthorizationAttempt.session_id)
    twice = more_than_one.having(func.count() > 1).subquery()
    completed = select(func.count()).where(AuthorizationSession.status == SessionStatus.COMPLETED)
    async with database.reading() as db:
        return await db.scalar(select(func.count()).select_from(twice)) or 0, await db.scalar(completed) or 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--accounts", type=int, default=40_000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seconds", type=float, default=30, help="that a session holds its slot")
    for figure, value, *_, goal in asyncio.run(run(**vars(parser.parse_args()))):
        print(f"{figure:70} {value:10.2f}  {goal}")


if __name__ == "__main__":
    main()
