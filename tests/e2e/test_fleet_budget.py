"""Several processes share one request budget and one breaker."""

import asyncio
import json
import os
import signal
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from sqlalchemy import select

from app.database import Database
from app.models import ApiGate, Event
from app.services.profiles.request_budget import RequestBudget
from tests.e2e.children import Child, child

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("budget")]

PROCESSES = 3
BUDGET, WINDOW = 60, 1.5
"""As many calls in the same proportion as 100 a minute, forty times faster."""
WINDOWS = 4


@asynccontextmanager
async def callers(url: str) -> AsyncIterator[list[Child]]:
    """Processes that all begin to call at the same moment."""
    given = json.dumps({"url": url, "budget": BUDGET, "window": WINDOW})
    async with AsyncExitStack() as stack:
        children = [await stack.enter_async_context(child("gate_child", given)) for _ in range(PROCESSES)]
        for each in children:
            await each.until("ready")
        for each in children:
            each.tell()
        yield children


def most_in_a_window(times: list[float]) -> int:
    """In any window, wherever it begins: a window with the most calls begins with one of them."""
    return max(bisect_left(times, start + WINDOW) - index for index, start in enumerate(times))


async def permitted(children: list[Child]) -> list[list[float]]:
    """Each process's times until now; ends the processes."""
    lines = await asyncio.gather(*(each.rest() for each in children))
    return [[float(line.split()[1]) for line in of_one if line.startswith("permitted")] for of_one in lines]


async def test_three_processes_share_one_budget_and_use_it(postgresql_url: str):
    async with callers(postgresql_url) as children:
        await asyncio.sleep(WINDOW * WINDOWS)  # the span that is measured
        of_each = await permitted(children)
    times = sorted(time for of_one in of_each for time in of_one)
    assert min(map(len, of_each)) > 0
    late = (
        PROCESSES  # a busy machine sees one call of each process after its place; three budgets would be 180
    )
    assert most_in_a_window(times) <= BUDGET + late
    assert most_in_a_window(times) >= 0.8 * BUDGET


async def test_breaker_opened_by_one_process_stops_all_until_it_is_closed(postgresql_url: str):
    database = Database(postgresql_url, pool_size=1)
    try:
        async with callers(postgresql_url) as children:
            for each in children:
                await each.until("permitted")
            os.kill(children[0].pid, signal.SIGUSR1)
            for each in children:
                await each.until("stopped")
            async with database.reading() as db:
                stopped_at = (await db.scalars(select(ApiGate))).one()
            await asyncio.sleep(WINDOW / 3)  # 20 calls' time in which none is made
            async with database.transaction() as db:
                unchanged = (await db.scalars(select(ApiGate))).one()
                assert unchanged.next_free == stopped_at.next_free
                gate = RequestBudget(database=database, budget=BUDGET, window=WINDOW)
                assert await gate.close(db, actor="tests")
            for each in children:
                assert (await each.line()).startswith("permitted"), "the next line after `stopped`"
        async with database.reading() as db:
            types = list(await db.scalars(select(Event.event_type).order_by(Event.id)))
        assert types == ["gologin.breaker_opened", "gologin.breaker_closed"]
    finally:
        await database.close()
