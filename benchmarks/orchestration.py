"""Orchestration alone, on PostgreSQL: CPU and statements of a session from the queue to its tokens, without a browser.

    .venv/bin/python -m benchmarks.orchestration [--long] [--processes N ...] [--sessions N] [--statements]

Worker processes run the service's own path with a stub for the browser; 1, 2, 4 and 8 of them take turns, so that
other load meets all of them; figures are medians of the rounds. `--statements` prints how often each was run.
"""

import argparse
import asyncio
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

from sqlalchemy import func, select, text

from app.database import Database
from app.models import OPEN_STATUSES, AuthorizationSession, SessionStatus
from app.services.queue.jobs import JobQueue, QueuedSession
from benchmarks.pickup import postgresql_url
from benchmarks.stub_worker import StubWorker, stub_workers
from benchmarks.waiting_rows import add_profiles, add_waiting, analyze

PROCESSES: Final = (1, 2, 4, 8)
MAX_CPU_MS, MAX_STATEMENTS, MAX_GROWTH = 8.0, 14.0, 1.15
SETTLE_SECONDS: Final = 0.5
"""A worker that was started connects and looks around; that is not part of a session."""

Row = tuple[str, float, str, float | None, float | None, str]


class Cost(NamedTuple):
    """Figures per session."""

    per_second: float
    cpu_ms: float
    statements: float
    queue_statements: float
    transactions: float


async def submit(database: Database, first: int, last: int) -> None:
    """Add waiting sessions and put them into the queue."""
    async with database.transaction() as db:
        await add_profiles(db, first, last)
        await add_waiting(db, first, last)
    ranks = AuthorizationSession.queue_rank.between(first, last)
    async with database.reading() as db:
        rows = list(await db.scalars(select(AuthorizationSession).where(ranks)))
    queue = JobQueue(database=database, slots=1, attended_limit=1, heartbeat_timeout=1)
    for start in range(0, len(rows), 1000):
        await queue.submit_all([QueuedSession.from_row(row) for row in rows[start : start + 1000]])
    await queue.close()


async def wait_until_done(database: Database) -> None:
    still_open = (
        select(AuthorizationSession.id).where(AuthorizationSession.status.in_(OPEN_STATUSES)).limit(1)
    )
    while True:
        async with database.reading() as db:
            if await db.scalar(still_open) is None:
                return
        await asyncio.sleep(0.02)


async def measure(
    database: Database, workers: Sequence[StubWorker], numbers: "count[int]", sessions: int
) -> Cost:
    """One round by so many workers."""
    for worker in workers:
        await worker.ask("start")
    await asyncio.sleep(SETTLE_SECONDS)
    first = next(numbers)
    for _ in range(sessions - 1):
        last = next(numbers)
    before = [await worker.ask("mark") for worker in workers]
    began = perf_counter()
    await submit(database, first, last)
    await wait_until_done(database)
    seconds = perf_counter() - began
    after = [await worker.ask("mark") for worker in workers]
    for worker in workers:
        await worker.ask("stop")

    def spent(name: str) -> float:
        return float(sum(b[name] - a[name] for a, b in zip(before, after, strict=True))) / sessions

    return Cost(
        sessions / seconds, spent("cpu") * 1000, spent("statements"), spent("queue"), spent("transactions")
    )


async def run(
    *,
    sessions: int = 300,
    rounds: int = 1,
    processes: Sequence[int] = PROCESSES,
    show_statements: bool = False,
) -> list[Row]:
    """Return the figures: name, value, baseline's name, its value, ratio, goal."""
    costs: dict[int, list[Cost]] = {number: [] for number in processes}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        url = await stack.enter_async_context(postgresql_url(folder))
        database = Database(url, pool_size=2)
        stack.push_async_callback(database.close)
        await database.migrate()
        workers = await stack.enter_async_context(stub_workers(max(processes), url, seconds=0))
        numbers = count(1)
        await measure(database, workers, numbers, 20 * len(workers))  # warm
        await analyze(database)
        for _ in range(rounds):
            for number, found in costs.items():
                found.append(await measure(database, workers[:number], numbers, sessions))
        await check_all_completed(database)
        if show_statements:
            await print_statements(workers, next(numbers) - 1)
    return as_rows({number: median(found) for number, found in costs.items()})


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def as_rows(costs: dict[int, Cost]) -> list[Row]:
    rows: list[Row] = []
    alone = costs[min(costs)]
    for processes, cost in costs.items():
        name = f"orchestration, {processes} worker process{'es' * (processes > 1)}"
        base = f"{min(costs)} process"
        rows += [
            (f"{name}: sessions a second", cost.per_second, base, alone.per_second,
             cost.per_second / alone.per_second, ""),
            (f"{name}: CPU ms a session", cost.cpu_ms, base, alone.cpu_ms, cost.cpu_ms / alone.cpu_ms,
             f"<= {MAX_CPU_MS:g}, ratio <= {MAX_GROWTH:g}"),
            (f"{name}: statements a session", cost.statements + cost.queue_statements, base,
             alone.statements + alone.queue_statements,
             (cost.statements + cost.queue_statements) / (alone.statements + alone.queue_statements),
             f"<= {MAX_STATEMENTS:g}"),
            (f"{name}: of them the queue's", cost.queue_statements, base, alone.queue_statements, None, ""),
            (f"{name}: transactions a session", cost.transactions, base, alone.transactions, None, ""),
        ]  # fmt: skip
    return rows


async def check_all_completed(database: Database) -> None:
    async with database.reading() as db:
        others = await db.scalar(
            select(func.count()).where(AuthorizationSession.status != SessionStatus.COMPLETED)
        )
        attempts = await db.scalar(text("SELECT max(attempts) FROM authorization_sessions"))
    if others or attempts != 1:
        raise RuntimeError(f"{others} sessions did not complete; {attempts} attempts of one")


async def print_statements(workers: Sequence[StubWorker], sessions: int) -> None:
    found: Counter[str] = Counter()
    for worker in workers:
        found.update((await worker.ask("figures"))["by_text"])
    for statement, number in found.most_common():
        print(f"{number / sessions:7.2f} {statement[:150]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="2,000 sessions a round, 5 rounds")
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES)
    parser.add_argument("--sessions", type=int)
    parser.add_argument("--statements", action="store_true", help="how often each was run, for a session")
    given = parser.parse_args()
    found = run(
        sessions=given.sessions or (2000 if given.long else 300),
        rounds=5 if given.long else 1,
        processes=given.processes,
        show_statements=given.statements,
    )
    for figure, value, base, base_value, ratio, goal in asyncio.run(found):
        against = "" if ratio is None else f"{ratio:.2f} of {base} ({base_value:.1f})"
        print(f"{figure:55} {value:8.1f}  {against:28} {goal}")


if __name__ == "__main__":
    main()
