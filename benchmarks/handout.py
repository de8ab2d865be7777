"""`GET /accounts/{id}/token` on PostgreSQL: hand-outs a second and p99 against a bare app, in one run.

    make bench ARGS=handout

The bare app (`benchmarks.bare_app`) selects one row and decrypts one value. The service checks the caller's key, and
writes the event of the hand-out before it answers. 20 connections; the two take turns; figures are medians.
"""

import tempfile
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path

from app.config import load_settings
from app.context import open_context
from benchmarks.accept import APP, Target, bare, compare, compare_p99, measure_in_turns
from benchmarks.figures import Figure, at_least
from benchmarks.pickup import postgresql_url
from benchmarks.tokens import granted, store_fresh
from sandbox.demo.service_process import ServiceProcess, settings_for
from sandbox.process import SandboxProcess

ACCOUNTS = 1000


def get_token(number: int) -> tuple[str, str]:
    return f"GET /accounts/account_{number}/token?api_app={APP}", ""


async def figures(*, is_long: bool) -> list[Figure]:
    requests, rounds = (2000, 9) if is_long else (1000, 5)
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
            Target("GET /accounts/{id}/token", service.url, headers, cycle(range(ACCOUNTS)), get_token),
        ]
        await measure_in_turns(targets, requests, rounds)
        return [compare(targets[1], targets[0], at_least(0.6)), compare_p99(targets[1], targets[0])]
