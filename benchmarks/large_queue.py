"""A batch of 10,000 rows, and a restart with 50,000 sessions waiting, on PostgreSQL and on SQLite.

    make bench ARGS=large_queue

The batch is a POST to a real process; its baseline inserts the same rows (sessions, events, rows of the batch) by plain
`INSERT`s with executemany, in one transaction of the same engine. Both take turns; figures are medians. The restart is
measured from the start of the process: until it is ready, and until it has started the first of the waiting sessions,
whose profiles refuse to start. Its baseline is the start with an empty queue.
"""

import asyncio
import statistics
import tempfile
import uuid
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
from sqlalchemy import delete, insert, select, text

from app.database import Database
from app.models import (
    AuthorizationSession,
    Batch,
    BatchRow,
    Event,
    EventType,
    Profile,
    SessionStatus,
    utc_now,
)
from app.services.events.recorder import new_event
from app.services.queue.jobs import JobQueue, QueuedSession
from benchmarks.figures import Figure, at_most, compared
from benchmarks.pickup import postgresql_url
from sandbox.demo.service_process import ServiceProcess, settings_for
from sandbox.process import SandboxProcess

APP = "AIOTT1"


def session_values(number: int, *, batch_id: str | None) -> dict[str, Any]:
    now = utc_now()
    return {
        "session_id": str(uuid.uuid4()), "profile_id": f"p{number}", "account_id": f"account_{number}", "api_app": APP,
        "scopes": ["tweet.read"], "status": SessionStatus.PENDING, "queue_rank": now.timestamp() + number / 1e6,
        "is_held": batch_id is not None, "batch_id": batch_id, "attempts_allowed": 1, "request_id": "benchmark",
        "requested_by": "benchmark", "expires_at": now + timedelta(days=1),
    }  # fmt: skip


async def insert_plainly(database: Database, first: int, rows: int) -> float:
    """Insert a batch's rows; return the seconds."""
    batch_id = str(uuid.uuid4())
    sessions = [session_values(number, batch_id=batch_id) for number in range(first, first + rows)]
    subject = ("account_id", "api_app", "session_id", "profile_id", "request_id")
    events = [
        new_event(EventType.AUTHORIZATION_REQUESTED, **{name: each[name] for name in subject})
        for each in sessions
    ]
    results = [
        {"batch_id": batch_id, "number": number, "account_id": each["account_id"], "api_app": APP,
         "session_id": each["session_id"]}
        for number, each in enumerate(sessions, start=1)
    ]  # fmt: skip
    start = perf_counter()
    async with database.transaction() as db:
        for model, values in ((AuthorizationSession, sessions), (Event, events), (BatchRow, results)):
            await db.execute(insert(model), values)
    return perf_counter() - start


async def post_batch(service: ServiceProcess, key: str, first: int, rows: int) -> float:
    body = {
        "rows": [{"account_id": f"account_{number}", "api_app": APP} for number in range(first, first + rows)]
    }
    async with httpx.AsyncClient(trust_env=False, timeout=120, headers={"X-API-Key": key}) as http:
        start = perf_counter()
        answer = await http.post(f"{service.url}/authorize/batch", json=body)
        seconds = perf_counter() - start
    if answer.status_code != 202 or answer.json()["data"]["accepted"] != rows:
        raise RuntimeError(answer.text[:500])
    return seconds


async def fill(database: Database, accounts: int) -> None:
    profiles = [
        {"profile_id": f"p{number}", "profile_name": f"account_{number}", "account_id": f"account_{number}"}
        for number in range(1, accounts + 1)
    ]
    async with database.transaction() as db:
        await db.execute(insert(Profile), [each | {"last_synced": utc_now()} for each in profiles])


async def add_waiting(database: Database, waiting: int) -> None:
    async with database.transaction() as db:
        for table in (AuthorizationSession, Batch, BatchRow, Event):
            await db.execute(delete(table))
        if not database.is_sqlite:
            await db.execute(text("DELETE FROM pgqueuer"))
        if waiting:
            rows = [session_values(number, batch_id=None) for number in range(1, waiting + 1)]
            await db.execute(insert(AuthorizationSession), rows)
    if waiting and not database.is_sqlite:  # a restart finds them in the queue; SQLite's is in memory
        queue = JobQueue(database=database, slots=1, attended_limit=1, heartbeat_timeout=1)
        async with database.reading() as db:
            sessions = list(await db.scalars(select(AuthorizationSession)))
        for start in range(0, waiting, 1000):
            await queue.submit_all([QueuedSession.from_row(row) for row in sessions[start : start + 1000]])
        await queue.close()
    if not database.is_sqlite:
        async with await database.open_connection("analyze") as connection:
            await connection.execute("VACUUM ANALYZE")


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


async def restart(service: ServiceProcess, *, has_sessions: bool) -> tuple[float, float, float]:
    """Seconds until the process is ready, seconds from there to its first session, and its peak of memory in MB."""
    start = perf_counter()
    await service.start()
    ready = perf_counter() - start
    while has_sessions and not any(line["event"] == "authorization.started" for line in service.log_lines()):
        await asyncio.sleep(0.02)
    first = perf_counter() - start - ready
    await asyncio.sleep(2)  # memory is judged after the first looks at the queue
    peak = resident_mb(service.pid)
    await service.stop()
    service.log_path.unlink()
    return ready, first, peak


async def measure(name: str, url: str, folder: Path, rows: int, waiting: int, rounds: int) -> list[Figure]:
    async with SandboxProcess(accounts=1) as sandbox:
        changes: dict[str, Any] = {
            "database_url": url,
            "rate_limit_per_minute": 1_000_000,
            "max_waiting": 10_000_000,
            "serve_workers": name == "SQLite",  # where no other process can work
        }
        await sandbox.admin.set_fault("local.start", "status", status=500)
        service = ServiceProcess(folder, settings := settings_for(sandbox.info, folder=folder, **changes))
        await service.run("migrate")
        database = Database(url, pool_size=1)
        await fill(database, rows * (rounds + 1) * 2)
        await service.start()
        own, plain = [], []
        for number in range(rounds + 1):
            first = 1 + 2 * number * rows
            own.append(await post_batch(service, settings["API_KEY"], first, rows))
            plain.append(await insert_plainly(database, first + rows, rows))
        await service.stop()
        working = ServiceProcess(folder, settings | {"SERVE_WORKERS": "True"})
        await add_waiting(database, 0)
        service.log_path.unlink()
        empty = await restart(working, has_sessions=False)
        await add_waiting(database, waiting)
        full = await restart(working, has_sessions=True)
        await database.close()
    batch, base = statistics.median(own[1:]), statistics.median(plain[1:])
    start = f"{name}: start with {waiting:,} waiting"
    return [
        Figure(f"{name}: batch of {rows:,}", batch, "s", goal=at_most(2)),
        compared(f"{name}: batch against its rows alone", batch, "s", baseline="executemany", to=base),
        Figure(f"{start}: until ready", full[0], "s", goal=at_most(5)),
        Figure(f"{start}: from ready to the first session", full[1], "s", goal=at_most(2)),
        compared(
            f"{start}: peak of memory", full[2], "MB", baseline="none waiting", to=empty[2], goal=at_most(1.1)
        ),
    ]


async def figures(*, is_long: bool) -> list[Figure]:
    rows, waiting, rounds = 10_000, 50_000, 5 if is_long else 2
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        for name in ("server", "postgresql", "sqlite"):
            (folder / name).mkdir(mode=0o700)
        server = await stack.enter_async_context(postgresql_url(folder / "server"))
        found = await measure("PostgreSQL", server, folder / "postgresql", rows, waiting, rounds)
        sqlite = f"sqlite+aiosqlite:///{folder}/sqlite/service.db"
        return found + await measure("SQLite", sqlite, folder / "sqlite", rows, waiting, rounds)
