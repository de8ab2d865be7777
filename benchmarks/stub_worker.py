"""Worker processes whose browser is a stub: everything else is the service's own. Parts of two benchmarks.

A worker obeys lines on its standard input: `start` and `stop` of the authorization worker, `figures` so far. It
answers each with one line of JSON.
"""

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pgqueuer.adapters.drivers.psycopg import PsycopgDriver
from pydantic import SecretStr
from sqlalchemy import event

from app.clients.oauth.oauth2 import ProviderUser
from app.config import load_settings
from app.context import Context, open_context
from app.context.sessions import build_sessions
from app.models import SessionStage
from app.services.automation import ProfileAutomator
from app.services.browser.live_tabs import LiveTabs
from app.services.gologin_service import GoLoginService, ProfileRunLimits
from app.services.interfaces import AttemptSink, AuthorizationJob, TokenSet
from app.services.profiles.start_gate import StartGate
from app.services.workers.authorization_worker import AuthorizationWorker
from app.utils.logger import setup_logging
from app.utils.processes import collect_seldom

STAGES = (
    SessionStage.BROWSER_ATTACHED,
    SessionStage.CONSENT_SHOWN,
    SessionStage.CONSENT_GIVEN,
    SessionStage.CODE_RECEIVED,
)
SCOPES = ("tweet.read", "users.read", "offline.access")


class StubBrowser:
    """A profile browser, and its DevTools, whose profiles start and stop at once."""

    ws_url = "ws://127.0.0.1:1/devtools/browser/stub"
    major = 156

    async def start_profile(self, _profile_id: str, *, timeout: float) -> str:
        return self.ws_url

    async def version(self, _address: str) -> "StubBrowser":
        return self

    async def close_browser(self, _ws_url: str, *, timeout: float) -> bool:
        return True

    async def stop_profile(self, _profile_id: str) -> None:
        pass


class StubAutomator:
    """A `ProfileAutomator` that reports the stages over `seconds` and brings made-up tokens."""

    def __init__(self, gologin: GoLoginService, seconds: float) -> None:
        self._gologin = gologin
        self._seconds = seconds

    async def authorize_account(self, job: AuthorizationJob, sink: AttemptSink) -> None:
        async with self._gologin.running_profile(job.profile_id, report=sink.report_stage):
            for stage in STAGES:
                await asyncio.sleep(self._seconds / len(STAGES))
                sink.report_stage(stage)
            secret = SecretStr(f"token-of-{job.session_id}-attempt-{job.attempt}")
            tokens = TokenSet(secret, secret, SCOPES, expires_in=7200)
            await sink.store_tokens(ProviderUser(id=job.account_id, username=job.account_id), tokens)


class Counts:
    """Statements and transactions of this process: the service's own, and those of the queue's engine."""

    def __init__(self, context: Context) -> None:
        self.by_text: Counter[str] = Counter()
        self.queue = 0
        self.transactions = 0
        engine = context.database.engine.sync_engine
        event.listen(engine, "after_cursor_execute", self._count)
        event.listen(engine, "commit", self._count_end)
        for name in ("fetch", "execute"):
            self._count_calls(name)

    def _count(self, _connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        self.by_text[" ".join(text.split())] += 1

    def _count_end(self, connection: Any) -> None:
        self.transactions += connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT"

    def _count_calls(self, name: str) -> None:
        run = getattr(PsycopgDriver, name)

        async def counted(driver: Any, query: str, *args: Any) -> Any:
            self.queue += 1
            self.by_text[" ".join(query.split())] += 1
            return await run(driver, query, *args)

        setattr(PsycopgDriver, name, counted)


async def work(seconds: float) -> None:
    async with open_context(load_settings(env_file=None)) as context:
        collect_seldom()
        await obey(context, Counts(context), seconds)


async def obey(context: Context, counts: Counts, seconds: float) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async with AsyncExitStack() as stack:
        async for line in reader:
            if (command := line.decode().strip()) == "start":
                await stack.enter_async_context(running(context, seconds))
            elif command == "stop":
                await stack.aclose()
            figures = {
                "cpu": time.process_time(),
                "queue": counts.queue,
                "statements": counts.by_text.total() - counts.queue,
                "transactions": counts.transactions,
                "by_text": dict(counts.by_text) if command == "figures" else {},
            }
            print(json.dumps(figures), flush=True)


@asynccontextmanager
async def running(context: Context, seconds: float) -> AsyncIterator[None]:
    """The authorization worker, with a queue of its own, on the context's warm database."""
    settings, browser = context.settings, cast(Any, StubBrowser())
    gologin = GoLoginService(
        client=browser,
        devtools=browser,
        leases=context.fleet.leases,
        directory=context.fleet.directory,
        sync=context.fleet.syncs,
        starts=StartGate(ceiling=settings.max_concurrent_profiles, lag=lambda: 0.0),
        limits=ProfileRunLimits(settings.max_concurrent_profiles, settings.profile_start_timeout),
    )
    fleet = replace(context.fleet, gologin=gologin)
    async with AsyncExitStack() as stack:
        sessions = build_sessions(
            settings, context.database, fleet, context.tokens, LiveTabs(), "stub", stack
        )
        worker = AuthorizationWorker(
            runs=sessions.runs,
            batches=sessions.pacing,
            automator=cast(ProfileAutomator, StubAutomator(gologin, seconds)),
            gologin=gologin,
            queue=sessions.queue,
            lease_seconds=settings.lease_seconds,
            grace=settings.shutdown_grace,
        )
        task = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()
            await task


@dataclass
class StubWorker:
    """One of the processes, as its parent sees it."""

    process: Process

    async def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n".encode())
        line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError("a worker process has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def stub_workers(count: int, url: str, *, seconds: float) -> AsyncIterator[list[StubWorker]]:
    """`count` worker processes on the database at `url`, not started yet."""
    workers = []
    try:
        for number in range(count):
            environment = {"DATABASE_URL": url, "MACHINE_NAME": f"stub-{number}", "LEASE_SECONDS": "60"}
            workers.append(
                StubWorker(
                    await asyncio.create_subprocess_exec(
                        sys.executable, "-m", "benchmarks.stub_worker", str(seconds),
                        env=environment, stdin=PIPE, stdout=PIPE, limit=2**20,
                    )
                )
            )  # fmt: skip
        yield workers
    finally:
        for worker in workers:
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        await asyncio.gather(*(worker.process.wait() for worker in workers))


if __name__ == "__main__":
    with Path(os.devnull).open("w") as nowhere:
        setup_logging(level="INFO", environment="production", stream=nowhere)
        asyncio.run(work(float(sys.argv[1])))
