"""A periodic worker's turn: one process at a time, once per interval, and never lost."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import update

from app.database import Database
from app.models import WorkerRun, utc_now
from app.services.operations.worker_runs import PeriodicRuns

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


def runs_of(database: Database, owner: str, *, lease_seconds: float = 20.0) -> PeriodicRuns:
    return PeriodicRuns(database=database, owner=owner, lease_seconds=lease_seconds)


@pytest.mark.databases("sqlite", "postgresql")
async def test_one_of_many_simultaneous_claims_gets_the_turn(database: Database):
    claims = await asyncio.gather(*(runs_of(database, f"p{number}").claim("sync") for number in range(8)))
    assert sum(claim is not None for claim in claims) == 1


async def test_worker_is_not_due_until_the_interval_after_its_turn_has_passed(database: Database):
    first, second = runs_of(database, "a"), runs_of(database, "b")
    turn = await first.claim("sync")
    await first.finish("sync", turn, succeeded=True, next_in=900)
    assert await second.claim("sync") is None
    assert (await second.schedule("sync")).last_success is not None
    assert await second.claim("sync", force=True) is not None


@pytest.mark.databases("sqlite", "postgresql")
async def test_the_turn_of_a_dead_process_is_taken_over_and_its_result_dropped(database: Database):
    dead, alive = runs_of(database, "a", lease_seconds=-1), runs_of(database, "b")
    lost = await dead.claim("sync")
    held = await alive.claim("sync")
    assert held is not None
    assert not await dead.renew("sync", lost)
    await dead.finish("sync", lost, succeeded=True, next_in=900)
    assert (await alive.schedule("sync")).last_success is None
    assert await alive.renew("sync", held)


async def test_a_turn_asked_for_during_a_turn_is_not_lost(database: Database):
    runs = runs_of(database, "a")
    turn = await runs.claim("sync")
    async with database.transaction() as db:
        await runs.make_due(db, "sync")
    await runs.finish("sync", turn, succeeded=True, next_in=900)
    assert await runs.claim("sync") is not None


@pytest.mark.parametrize("skew", [-1, 1])
async def test_turn_requested_by_a_clock_that_differs_is_not_lost(database: Database, skew: int):
    """On one machine, too: the time is taken a little before it is written."""
    runs = runs_of(database, "a")
    turn = await runs.claim("sync")
    async with database.transaction() as db:
        await db.execute(update(WorkerRun).values(next_run_at=utc_now() + timedelta(seconds=skew)))
    await runs.finish("sync", turn, succeeded=True, next_in=900)
    assert (await runs.schedule("sync")).next_run < utc_now() + timedelta(seconds=60)


@pytest.mark.parametrize("succeeded", [True, False])
async def test_only_a_success_counts_as_one(database: Database, succeeded: bool):
    runs = runs_of(database, "a")
    assert await runs.seconds_since_success("sync") is None
    turn = await runs.claim("sync")
    await runs.finish("sync", turn, succeeded=succeeded, next_in=60)
    assert (await runs.seconds_since_success("sync") is not None) == succeeded
