"""Orchestration alone, on PostgreSQL: CPU and statements of a session from the queue to its tokens, without a browser.

    make bench ARGS=orchestration

Worker processes run the service's own path with a stub for the browser; 1, 2, 4 and 8 of them take turns, so that
other load meets all of them; figures are medians of the rounds. `python -m benchmarks.orchestration` prints how often
each statement was run for a session.
"""

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
from benchmarks.figures import Figure, at_most, compared
from benchmarks.pickup import postgresql_url
from benchmarks.stub_worker import StubWorker, stub_workers
from benchmarks.waiting_rows import add_profiles, add_waiting, analyze

PROCESSES: Final = (1, 2, 4, 8)
SETTLE_SECONDS: Final = 0.5
"""A worker that was started connects and looks around; that is not part of a session."""


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


async def figures(*, is_long: bool, show_statements: bool = False) -> list[Figure]:
    sessions, rounds = (2000, 5) if is_long else (400, 3)
    costs: dict[int, list[Cost]] = {number: [] for number in PROCESSES}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        url = await stack.enter_async_context(postgresql_url(folder))
        database = Database(url, pool_size=2)
        stack.push_async_callback(database.close)
        await database.migrate()
        workers = await stack.enter_async_context(stub_workers(max(PROCESSES), url, seconds=0))
        numbers = count(1)
        await measure(database, workers, numbers, 20 * len(workers))  # warm
        await analyze(database)
        for _ in range(rounds):
            for number, found in costs.items():
                found.append(await measure(database, workers[:number], numbers, sessions))
        await check_all_completed(database)
        if show_statements:
            await print_statements(workers, next(numbers) - 1)
    return compare({number: median(found) for number, found in costs.items()})


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def compare(costs: dict[int, Cost]) -> list[Figure]:
    alone, found = costs[1], []
    for processes, cost in costs.items():
        name = f"orchestration, {processes} worker process{'es' * (processes > 1)}"
        growth = at_most(1.15) if processes == max(costs) else None
        found += [
            Figure(f"{name}: sessions", cost.per_second, "a second"),
            Figure(f"{name}: CPU", cost.cpu_ms, "ms a session", goal=at_most(8) if processes == 1 else None),
            Figure(
                f"{name}: statements", cost.statements + cost.queue_statements, "a session", goal=at_most(14)
            ),
            Figure(f"{name}: transactions", cost.transactions, "a session"),
        ]
        if processes > 1:
            grown = f"{name}: CPU against one process"
            found.append(
                compared(
                    grown, cost.cpu_ms, "ms a session", baseline="1 process", to=alone.cpu_ms, goal=growth
                )
            )
    return found


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


if __name__ == "__main__":
    asyncio.run(figures(is_long=False, show_statements=True))
