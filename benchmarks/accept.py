"""`POST /authorize` on PostgreSQL, workers elsewhere: requests a second and p99 against a bare app, in one run.

    make bench ARGS=accept

The bare app (`benchmarks.bare_app`) selects a profile and inserts a row. The service is measured with an empty queue
and with 40,000 sessions waiting, each in a database of its own. 20 connections; the three take turns, so that other
load meets all of them; figures are medians of the rounds.
"""

import asyncio
import json
import math
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

from sqlalchemy import make_url

from app.database import Database
from benchmarks import bare_app
from benchmarks.figures import Figure, Goal, at_least, compared
from benchmarks.pickup import postgresql_url
from benchmarks.waiting_rows import add_profiles, add_waiting, analyze
from sandbox.demo.service_process import ServiceProcess, settings_for
from sandbox.process import SandboxProcess

WAITING, CONNECTIONS, APP = 40_000, 20, "AIOTT1"


def post_authorize(number: int) -> tuple[str, str]:
    return "POST /authorize", json.dumps({"account_id": f"account_{number}", "api_app": APP})


@dataclass
class Target:
    name: str
    url: str
    headers: dict[str, str]
    accounts: Iterator[int]
    request: Callable[[int], tuple[str, str]] = post_authorize
    """Method with path, and body, by the number of the account."""
    per_second: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


async def measure(target: Target, requests: int) -> None:
    """One round: each connection sends its share, one request after another."""
    parts = urlsplit(target.url)
    times: list[float] = []

    async def send(count: int) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        headers = "".join(f"{name}: {value}\r\n" for name, value in target.headers.items())
        for _ in range(count):
            line, body = target.request(next(target.accounts))
            start = perf_counter()
            writer.write(
                f"{line} HTTP/1.1\r\nHost: {parts.netloc}\r\n{headers}Content-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            answer = await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0]))
            times.append(perf_counter() - start)
            if not head.startswith("http/1.1 20"):
                raise RuntimeError(f"{target.name}: {head}{answer.decode()}")
        writer.close()

    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(send(requests // CONNECTIONS))
    target.per_second.append(len(times) / (perf_counter() - began))
    target.p99_ms.append(sorted(times)[math.ceil(len(times) * 0.99) - 1] * 1000)


async def measure_in_turns(targets: Sequence[Target], requests: int, rounds: int) -> None:
    """Measure after a round that is not counted."""
    for target in targets:
        await measure(target, requests)
        target.per_second.clear()
        target.p99_ms.clear()
    for _ in range(rounds):
        for target in targets:
            await measure(target, requests)


def compare(target: Target, base: Target, goal: Goal) -> Figure:
    """Return the target's rate, with the median of its rounds' ratios."""
    ratio = statistics.median(a / b for a, b in zip(target.per_second, base.per_second, strict=True))
    rates = [statistics.median(each.per_second) for each in (target, base)]
    return Figure(target.name, rates[0], "a second", base.name, rates[1], ratio, goal)


def compare_p99(target: Target, base: Target) -> Figure:
    own, other = (statistics.median(each.p99_ms) for each in (target, base))
    return compared(f"{target.name}: p99", own, "ms", baseline=base.name, to=other)


async def fill(url: str, *, profiles: int, waiting: int) -> None:
    database = Database(url, pool_size=1)
    async with database.transaction() as db:
        await add_profiles(db, 1, profiles)
        await add_waiting(db, 1, waiting)
        await (await db.connection()).run_sync(bare_app.requests.create)
    await analyze(database)
    await database.close()


@asynccontextmanager
async def bare(url: str, encryption_keys: str) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "benchmarks.bare_app:app", "--port", "0", "--no-access-log",
        env={"DATABASE_URL": url, "ENCRYPTION_KEYS": encryption_keys, "PYTHONUNBUFFERED": "1"},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            if b"running on http://" in line:
                yield line.decode().split("running on ")[1].split()[0]
                break
    finally:
        process.terminate()
        await process.wait()


async def figures(*, is_long: bool) -> list[Figure]:
    requests, rounds = (1000, 9) if is_long else (500, 5)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        for name in ("server", "empty", "waiting"):
            (folder / name).mkdir(mode=0o700)
        sandbox = await stack.enter_async_context(SandboxProcess(accounts=1))
        server = make_url(await stack.enter_async_context(postgresql_url(folder / "server")))
        targets = []
        for name, waiting in (("empty", 0), ("waiting", WAITING)):
            url = await new_database(server.render_as_string(hide_password=False), name)
            settings = settings_for(
                sandbox.info, folder=folder / name, database_url=url, serve_workers=False,
                rate_limit_per_minute=100_000_000, max_waiting=10_000_000,
            )  # fmt: skip
            service = ServiceProcess(folder / name, settings)
            await service.run("migrate")
            await fill(url, profiles=requests * (rounds + 1), waiting=waiting)
            await service.start()
            stack.push_async_callback(service.stop)
            headers = {"X-API-Key": settings["API_KEY"]}
            targets.append(Target(f"POST /authorize, {waiting:,} waiting", service.url, headers, count(1)))
            if not waiting:
                bare_url = await stack.enter_async_context(bare(url, settings["ENCRYPTION_KEYS"]))
                targets.insert(0, Target("bare app", bare_url, {}, count(1)))
        await measure_in_turns(targets, requests, rounds)
        base, empty, full = targets
        return [
            compare(empty, base, at_least(0.6)),
            compare(full, empty, at_least(0.95)),
            compare_p99(empty, base),
        ]


async def new_database(url: str, name: str) -> str:
    database = Database(url, pool_size=1)
    async with await database.open_connection("benchmark") as connection:
        await connection.execute(f"CREATE DATABASE {name}".encode())
    await database.close()
    return make_url(url).set(database=name).render_as_string(hide_password=False)
