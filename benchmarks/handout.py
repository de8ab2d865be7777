"""`GET /accounts/{id}/token` on PostgreSQL: hand-outs a second and p99 against a bare app, in one run.

    .venv/bin/python -m benchmarks.handout [requests a round] [rounds]

The bare app (`benchmarks.bare_app`) selects one row and decrypts one value. The service checks the caller's key, and
writes the event of the hand-out before it answers. 20 connections; the two take turns; figures are medians.
"""

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path

from app.config import load_settings
from app.context import open_context
from benchmarks.accept import APP, Row, Target, bare, compared, measure_in_turns, report
from benchmarks.pickup import postgresql_url
from benchmarks.tokens import granted, store_fresh
from sandbox.demo.service_process import ServiceProcess, settings_for
from sandbox.process import SandboxProcess

ACCOUNTS = 1000


def get_token(number: int) -> tuple[str, str]:
    return f"GET /accounts/account_{number}/token?api_app={APP}", ""


async def measured(requests: int = 400, rounds: int = 3) -> list[Row]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        (folder / "server").mkdir(mode=0o700)
        sandbox = await stack.enter_async_context(SandboxProcess(accounts=1))
        url = await stack.enter_async_context(postgresql_url(folder / "server"))
        environment = settings_for(
            sandbox.info,
            folder=folder,
            database_url=url,
            serve_workers=False,
            rate_limit_per_minute=100_000_000,
        )
        service = ServiceProcess(folder, environment)
        await service.run("migrate")
        settings = {name.lower(): value for name, value in environment.items()}
        async with open_context(load_settings(env_file=None, **settings)) as context:
            await store_fresh(context, await granted(sandbox, [f"account_{n}" for n in range(ACCOUNTS)]))
        await service.start()
        stack.push_async_callback(service.stop)
        bare_url = await stack.enter_async_context(bare(url, environment["ENCRYPTION_KEYS"]))
        headers = {"X-API-Key": environment["API_KEY"]}
        targets = [
            Target("bare app", bare_url, {}, cycle(range(ACCOUNTS)), get_token),
            Target("hand-outs", service.url, headers, cycle(range(ACCOUNTS)), get_token),
        ]
        await measure_in_turns(targets, requests, rounds)
        report(targets)
        return [compared(targets[1], targets[0], 0.6)]


if __name__ == "__main__":
    asyncio.run(
        measured(
            int(sys.argv[1]) if len(sys.argv) > 1 else 2000, int(sys.argv[2]) if len(sys.argv) > 2 else 5
        )
    )
