"""A sync that is killed in the middle takes nothing away, and the next one repairs all."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from app.database import Database
from app.models import Profile, ProfileSync, SyncStatus, WorkerRun, utc_now
from sandbox.admin_client import SandboxAdmin
from sandbox.demo.service_process import settings_for
from sandbox.process import SandboxProcess
from sandbox.state import profile_id_of
from tests.e2e.children import Command, Commands, commands
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

ACCOUNTS = 240
PAGES = 8
PAGE_MS = 40
"""What a page takes, so that a kill strikes where it is meant to."""
LEASE = 0.8
"""Seconds for which the turn of a killed process is kept from the next one."""
KILLED = -9


class Fleet:
    """Profiles at GoLogin that are added, removed and renamed at random, and what must be known of them."""

    def __init__(self, admin: SandboxAdmin, chance: random.Random) -> None:
        self._admin = admin
        self._chance = chance
        self._made = 0
        self.names: dict[str, str] = {}
        """By account."""
        self.ever_removed: set[str] = set()

    async def begin(self) -> None:
        await self._admin.reset_profiles(ACCOUNTS)
        self.names = {account: account for account in (await self._admin.info()).accounts}

    async def change(self) -> None:
        await self._remove(self._chance.choice(sorted(self.names)))
        await self._remove(self._chance.choice(sorted(self.names)))
        self._made += 1
        await self._add(f"added_{self._made}")
        if self.ever_removed - self.names.keys():
            await self._add(self._chance.choice(sorted(self.ever_removed - self.names.keys())))
        account = self._chance.choice(sorted(self.names))
        self.names[account] = f"renamed_{self._chance.randrange(1_000_000)}"
        await self._admin.rename_profile(account, self.names[account])

    @property
    def never_removed(self) -> set[str]:
        """Ids of the profiles that have been there all the time."""
        return {profile_id_of(account) for account in self.names.keys() - self.ever_removed}

    @property
    def names_by_id(self) -> dict[str, str]:
        return {profile_id_of(account): name for account, name in self.names.items()}

    async def _remove(self, account: str) -> None:
        await self._admin.remove_profile(account)
        del self.names[account]
        self.ever_removed.add(account)

    async def _add(self, account: str) -> None:
        await self._admin.add_profile(account)
        self.names[account] = account


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def crowd() -> AsyncIterator[SandboxProcess]:
    """A sandbox whose profiles the tests change."""
    async with SandboxProcess(accounts=ACCOUNTS) as sandbox:
        await sandbox.admin.change_settings(latency_ms=PAGE_MS)
        yield sandbox


@pytest_asyncio.fixture
async def run(tmp_path: Path) -> AsyncIterator[Commands]:
    async with commands(tmp_path / "commands") as opened:
        yield opened


def settings(sandbox: SandboxProcess, folder: Path, url: str, lease: float) -> dict[str, str]:
    return settings_for(
        sandbox.info,
        folder=folder,
        database_url=url,
        lease_seconds=lease,
        gologin_requests_per_minute=1_000_000,
    )


async def rows(database: Database, model: type[Any]) -> list[Any]:
    async with database.reading() as db:
        return list(await db.scalars(select(model)))


async def last_sync(database: Database) -> ProfileSync:
    return max(await rows(database, ProfileSync), key=lambda sync: sync.id)


async def is_turn_free(database: Database) -> bool:
    (turn,) = await rows(database, WorkerRun)
    return turn.lease_token is None or turn.lease_expires_at < utc_now()


async def calls(admin: SandboxAdmin) -> int:
    """Count the calls of the pass so far: pages, then single profiles."""
    counts = (await admin.stats()).by_endpoint
    return counts.get("gologin.list", 0) + counts.get("gologin.profile", 0)


async def kill_at(command: Command, admin: SandboxAdmin, call: int) -> int:
    """Return the exit code: -9 unless it ended before."""

    async def there() -> bool:
        return await calls(admin) >= call

    await eventually(there)
    command.kill()
    return (await command.ended()).code


async def check_nothing_lost(database: Database, fleet: Fleet) -> None:
    """Check that what GoLogin always had is active, and that no page has brought what never was."""
    profiles = {profile.profile_id: profile for profile in await rows(database, Profile)}
    assert [id_ for id_ in fleet.never_removed if id_ in profiles and not profiles[id_].is_active] == []
    assert not any(profile.in_use or profile.is_linked for profile in profiles.values())


async def check_repaired(database: Database, fleet: Fleet) -> None:
    profiles = await rows(database, Profile)
    active = {profile.profile_id: profile.profile_name for profile in profiles if profile.is_active}
    assert active == fleet.names_by_id


@pytest.mark.begin_early
@pytest.mark.parametrize(
    ("kind", "seed", "kills"),
    [
        pytest.param("sqlite", 1, 10, marks=pytest.mark.long),
        pytest.param("sqlite", 2, 10, marks=pytest.mark.long),
        ("postgresql", 3, 5),
    ],
)
async def test_a_sync_killed_at_a_random_page_loses_nothing_and_the_next_one_repairs_all(
    crowd: SandboxProcess,
    run: Commands,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    kind: str,
    seed: int,
    kills: int,
):
    url: str = request.getfixturevalue(f"{kind}_url")
    chance = random.Random(seed)
    fleet = Fleet(crowd.admin, chance)
    await fleet.begin()
    patient = settings(crowd, tmp_path, url, 20)
    hasty = patient | {"LEASE_SECONDS": str(LEASE)}
    database = Database(url, pool_size=1)
    try:
        assert (await run("worker", "run-once", "sync", environment=patient)).code == 0
        await check_repaired(database, fleet)
        killed = tries = 0
        while killed < kills:
            tries += 1
            assert tries < 2 * kills + 5
            await fleet.change()
            await crowd.admin.clear_stats()
            command = await run.start("worker", "run-once", "sync", environment=hasty)
            code = await kill_at(command, crowd.admin, chance.randint(1, PAGES + 2))
            last = await last_sync(database)  # of a kill at its end it may be complete
            killed += code == KILLED and last.status is SyncStatus.RUNNING
            await check_nothing_lost(database, fleet)
            await eventually(lambda: is_turn_free(database))

        assert (await run("worker", "run-once", "sync", environment=patient)).code == 0
        await check_repaired(database, fleet)
        syncs = await rows(database, ProfileSync)
        assert (await last_sync(database)).status is SyncStatus.COMPLETED
        interrupted = [sync for sync in syncs if sync.error_code == "INTERRUPTED"]
        assert {sync.status for sync in interrupted} == {SyncStatus.FAILED}
        assert len(interrupted) >= kills
        assert not any(sync.status in (SyncStatus.RUNNING, SyncStatus.PENDING) for sync in syncs)
    finally:
        await database.close()
