"""Whatever dies, no authorization is lost, doubled or stuck: shortly on both databases, `make chaos` at length."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.sandbox.process import SandboxProcess
from tests.e2e.chaos import SETTINGS, Chaos
from tests.e2e.chaos_judgement import judge, table
from tests.e2e.house import House, open_house
from tests.e2e.own_postgresql import OwnPostgresql, own_postgresql, runtime_folder

# One group with the other tests that take all of a machine.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("concurrency")]

SESSIONS = int(os.environ.get("CHAOS_SESSIONS", "12"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))


@asynccontextmanager
async def surroundings(kind: str, folder: Path) -> AsyncIterator[tuple[House, OwnPostgresql | None]]:
    """A sandbox, a database and a service of the run's own: everything in them may die."""
    async with SandboxProcess(accounts=SESSIONS, data_dir=folder / "profiles") as sandbox:
        if kind == "sqlite":
            async with open_house(sandbox, folder, **SETTINGS) as house:
                yield house, None
            return
        async with (
            own_postgresql(runtime_folder() / f"chaos-{os.getpid()}") as server,
            open_house(sandbox, folder, database_url=server.url, **SETTINGS) as house,
        ):
            yield house, server


@pytest.mark.timeout(400 + 30 * SESSIONS)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_no_authorization_is_lost_doubled_or_stuck(tmp_path: Path, kind: str):
    async with surroundings(kind, tmp_path) as (house, server):
        processes = [house.service]
        record = await Chaos(house, processes, seed=SEED, postgresql=server).run(house.sandbox.info.accounts)
        problems, found = await judge(house, processes, record)
        print(f"\nchaos on {kind}, seed {SEED}\n{table(record, found)}")
        assert problems == []
