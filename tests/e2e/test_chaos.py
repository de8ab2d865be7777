"""Whatever dies, no authorization is lost, doubled or stuck: shortly in the suite, `make chaos` at length."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.models import Profile
from sandbox.demo.service_process import ServiceProcess, WorkerProcess
from sandbox.process import SandboxProcess
from tests.e2e.chaos import SETTINGS, Chaos
from tests.e2e.chaos_checks import find_problems, table
from tests.e2e.harness import ServiceHarness, environment_for, open_harness
from tests.e2e.own_postgresql import OwnPostgresql, own_postgresql, runtime_folder
from tests.fixtures.waiting import eventually

# One group with the other tests that take all of a machine.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("concurrency")]

SESSIONS = int(os.environ.get("CHAOS_SESSIONS", "6"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))


Surroundings = tuple[ServiceHarness, Sequence[ServiceProcess], OwnPostgresql | None]


@asynccontextmanager
async def surroundings(kind: str, folder: Path) -> AsyncIterator[Surroundings]:
    """A sandbox, a database and processes of the run's own: everything in them may die."""
    async with SandboxProcess(accounts=SESSIONS, data_dir=folder / "profiles") as sandbox:
        if kind == "sqlite":
            async with open_harness(sandbox, folder, **SETTINGS) as harness:
                yield harness, [harness.service], None
            return
        async with own_postgresql(runtime_folder() / f"{kind}-{os.getpid()}") as server:
            settings = {**SETTINGS, "database_url": server.url}
            if kind == "postgresql":
                async with open_harness(sandbox, folder, **settings) as harness:
                    yield harness, [harness.service], server
            else:
                async with open_fleet(sandbox, folder, **settings) as (harness, processes):
                    yield harness, processes, server


@asynccontextmanager
async def open_fleet(
    sandbox: SandboxProcess, folder: Path, **settings: Any
) -> AsyncIterator[tuple[ServiceHarness, Sequence[ServiceProcess]]]:
    """A service that only answers, and two workers."""
    environment = environment_for(sandbox, folder, serve_workers="false", **settings)
    processes = [ServiceProcess(folder / "service", environment)]
    processes += [WorkerProcess(folder / f"worker-{number}", environment) for number in range(2)]
    for name in ("service", "worker-0", "worker-1"):
        (folder / name).mkdir()
    await processes[0].run("migrate")
    async with AsyncExitStack() as stack:
        for process in processes:
            await process.start()
            stack.push_async_callback(process.stop)
        harness = ServiceHarness(sandbox, processes[0], environment, folder)

        async def all_profiles_are_known() -> bool:
            return await harness.count(Profile) == SESSIONS

        await eventually(all_profiles_are_known, 60)
        yield harness, processes


@pytest.mark.long
@pytest.mark.timeout(400 + 30 * SESSIONS)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "workers"])
async def test_no_authorization_is_lost_doubled_or_stuck(tmp_path: Path, kind: str):
    async with surroundings(kind, tmp_path) as (harness, processes, server):
        chaos = Chaos(harness, processes, seed=SEED, postgresql=server)
        record = await chaos.run(harness.sandbox.info.accounts)
        problems, found = await find_problems(harness, processes, record)
        print(f"\nchaos on {kind}, seed {SEED}\n{table(record, found)}")
        assert problems == []
