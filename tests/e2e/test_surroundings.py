"""The disk is full, or the clock jumps, under a service at work: it says so, loses nothing and goes on."""

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import make_url

from sandbox.admin_client import NO_TLS
from sandbox.demo.service_process import ServiceProcess
from sandbox.process import SandboxProcess
from tests.e2e.harness import ServiceHarness, environment_for, open_harness
from tests.e2e.test_recovery import asked_at, assert_done
from tests.e2e.watcher import watched_browsers
from tests.fixtures.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

MEGABYTE = 1 << 20
POSTS = 30


@contextmanager
def full_disk(harness: ServiceHarness) -> Iterator[None]:
    """The service may write no file beyond two megabytes, and the database's log is longer than that already."""
    path = make_url(harness.environment["DATABASE_URL"]).database
    with closing(sqlite3.connect(str(path), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute(
            "SELECT count(*) FROM profiles"
        ).fetchone()  # while it reads, the log is not begun anew
        with closing(sqlite3.connect(str(path), isolation_level=None)) as writer:
            writer.execute("CREATE TABLE filler (filler BLOB)")
            writer.execute("INSERT INTO filler VALUES (zeroblob(?))", [4 * MEGABYTE])
            before = limited(harness.service, 2 * MEGABYTE)
            try:
                yield
            finally:
                limited(harness.service, before)


def limited(process: ServiceProcess, size: int) -> int:
    """The limit of before."""
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))
    return soft


def lines(harness: ServiceHarness, event: str) -> list[dict[str, Any]]:
    return [line for line in harness.service.log_lines() if line["event"] == event]


@pytest.mark.long
async def test_full_disk_is_reported_and_nothing_is_lost(
    sandbox: SandboxProcess, folder: Path, account: str, unused_accounts: Iterator[str]
):
    async with open_harness(sandbox, folder, monitor_interval=1) as harness:
        await harness.admin.set_fault("provider.token", "delay", account=account, seconds=1)
        running = await harness.ask(account)
        await asked_at(harness, "provider.token", account)
        others = [next(unused_accounts) for _ in range(3)]
        with full_disk(harness):
            for number in range(POSTS):
                answer = await harness.post(others[number % 3])
                assert (answer.status_code, answer.json()["error_code"]) == (503, "DATABASE_UNAVAILABLE")
                assert "disk" in answer.json()["error"]
                assert int(answer.headers["Retry-After"]) > 0
            assert (await readiness(harness))[0] == 503
            assert "disk" in (await readiness(harness))[1][0]
            await eventually(lambda: tokens_are_kept(harness))
            assert (await harness.session(running))["status"] == "in_progress"  # it reads on
        assert await readiness(harness) == (200, [])
        assert 1 <= len(lines(harness, "database.unavailable")) < POSTS / 2
        assert lines(harness, "http.crashed") == []
        await assert_done(harness, running, account, attempts=1)
        assert (await harness.authorize(others[0]))["status"] == "completed"


async def readiness(harness: ServiceHarness) -> tuple[int, list[str]]:
    async with httpx.AsyncClient(trust_env=False, timeout=10, verify=NO_TLS) as http:
        answer = await http.get(f"{harness.service.url}/health/ready")
    return answer.status_code, answer.json()["data"]["reasons"]


async def tokens_are_kept(harness: ServiceHarness) -> bool:
    """The authorization has come to where its tokens are stored, and tries again."""
    return bool(lines(harness, "call.retried"))


# A proxy in the environment


@asynccontextmanager
async def recording_proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """Its URL, and the first line of every request that reaches it; it leads nowhere."""
    heard: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append((await reader.readline()).decode(errors="replace"))
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        yield "http://{}:{}".format(*server.sockets[0].getsockname()[:2]), heard


async def test_a_proxy_of_the_environment_sees_nothing_of_this_machine(
    sandbox: SandboxProcess, folder: Path, account: str
):
    """Neither GoLogin's local API, nor the driver, nor the browser's DevTools, nor a command that asks the service."""
    own = folder / "proxied"
    environment = environment_for(sandbox, own)
    async with recording_proxy() as (url, heard):
        names = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy")
        proxies = {name: url for each in names for name in (each, each.upper())}
        async with ServiceProcess(own, environment | proxies) as service:
            harness = ServiceHarness(sandbox, service, environment, own)
            await harness.ready()
            session = await harness.authorize(account)
            assert (session["status"], session["error"]) == ("completed", None), session
            asked = await service.run("events", "--url", service.url, "--key", harness.key, "--limit", "1")
            assert "event_type" in asked
        assert heard == []


# The clock


TIMES = {
    "authorization_sessions": ("lease_expires_at", "started_at", "created_at", "not_before", "expires_at"),
    "profiles": ("lease_expires_at",),
    "worker_runs": ("lease_expires_at", "next_run_at"),
}


def shift_all_times(harness: ServiceHarness, by: timedelta) -> None:
    """Make the database look as after a jump of the clock the other way."""
    path = make_url(harness.environment["DATABASE_URL"]).database
    with closing(sqlite3.connect(str(path), timeout=15)) as connection, connection:
        for table, columns in TIMES.items():
            for column in columns:
                query = f"SELECT rowid, {column} FROM {table} WHERE {column} IS NOT NULL"
                for row, value in connection.execute(query).fetchall():
                    moved = (datetime.fromisoformat(value) + by).strftime("%Y-%m-%d %H:%M:%S.%f")
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", [moved, row])


@pytest.mark.parametrize(
    "hours", [pytest.param(1, id="forward", marks=pytest.mark.long), pytest.param(-1, id="back")]
)
async def test_a_clock_that_jumps_leaves_no_session_stuck_or_doubled(
    sandbox: SandboxProcess, folder: Path, account: str, unused_accounts: Iterator[str], hours: int
):
    """Leases seem to have run out an hour ago, or to last an hour: a heartbeat or a new attempt sets it right."""
    waiting_account = next(unused_accounts)
    changes: dict[str, Any] = {"lease_seconds": 3, "max_attempts": 3, "retry_wait": 0.1}
    async with open_harness(sandbox, folder, max_concurrent_profiles=1, **changes) as harness:
        await harness.admin.set_fault("provider.consent", "delay", account=account, seconds=3)
        profile = harness.profile_folder(await harness.profile_id(account))
        async with watched_browsers(sandbox.pid, profile) as seen:
            running = await harness.ask(account)
            await asked_at(harness, "provider.consent", account)
            waiting = await harness.ask(waiting_account)
            await asyncio.to_thread(shift_all_times, harness, timedelta(hours=-hours))
            await assert_done(harness, running, account)
            await assert_done(harness, waiting, waiting_account)
        assert seen.most_of_one_profile == 1
