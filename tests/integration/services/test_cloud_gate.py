"""The fleet's request budget and its breaker, in one row of the database."""

import asyncio
import itertools

import pytest
from sqlalchemy import select, update

from app.database import Database, database_clock
from app.models import ApiGate, Event
from app.services.cloud_gate import CloudGate
from app.utils.exceptions import GoLoginBreakerOpenException


async def now(database: Database) -> float:
    async with database.reading() as session:
        return float(await session.scalar(select(database_clock(session))))


async def entries(gate: CloudGate, database: Database, count: int) -> list[float]:
    times = []
    for _ in range(count):
        await gate.enter()
        times.append(await now(database))
    return times


def most_in_a_window(times: list[float], window: float) -> int:
    times = sorted(times)
    return max(sum(start <= other < start + window for other in times) for start in times)


async def test_the_budget_holds_in_every_window_over_several_callers(database: Database):
    gates = [CloudGate(database=database, budget=20, window=1.0) for _ in range(3)]
    times = await asyncio.gather(*(entries(gate, database, 20) for gate in gates))
    late = len(gates)  # a busy machine sees one call of each caller after its place
    assert most_in_a_window(list(itertools.chain(*times)), 1.0) <= 20 + late


async def test_a_few_calls_may_follow_each_other_at_once_after_a_pause(database: Database):
    gate = CloudGate(database=database, budget=100, window=60)
    async with asyncio.timeout(60):
        await entries(gate, database, 10)


async def test_a_clock_that_jumped_back_costs_one_window_at_most(database: Database):
    gate = CloudGate(database=database, budget=100, window=1.0)
    await gate.enter()
    async with database.transaction() as session:
        await session.execute(update(ApiGate).values(next_free=await now(database) + 1e6))
    async with asyncio.timeout(60):
        await gate.enter()


async def test_a_tripped_breaker_lets_nobody_through_in_any_process(database: Database):
    first, second = (CloudGate(database=database, budget=100) for _ in range(2))
    await first.enter()
    await first.trip("HTTP 429")
    for gate in (first, second):
        with pytest.raises(GoLoginBreakerOpenException):
            await gate.enter()
    state = await second.state()
    assert (state.is_open, state.reason) == (True, "HTTP 429")


async def test_a_caller_that_waits_for_its_place_does_not_go_once_the_breaker_is_open(database: Database):
    gate = CloudGate(database=database, budget=10, window=3.0)
    await gate.enter()
    waiting = asyncio.create_task(gate.enter())
    async with database.reading() as session:
        while await session.scalar(select(ApiGate.next_free)) is None:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    await gate.trip("HTTP 429")
    with pytest.raises(GoLoginBreakerOpenException):
        await asyncio.wait_for(waiting, 10)


async def test_it_is_told_once_and_closed_by_hand(database: Database):
    gate = CloudGate(database=database, budget=100)
    await gate.enter()
    await asyncio.gather(*(gate.trip("HTTP 429") for _ in range(5)))
    async with database.transaction() as session:
        assert await gate.close(session, actor="anna")
    async with database.transaction() as session:
        assert not await gate.close(session, actor="anna")
    await gate.enter()
    async with database.reading() as session:
        events = [
            (event.event_type, event.actor)
            for event in await session.scalars(select(Event).order_by(Event.id))
        ]
    assert events == [("gologin.breaker_opened", "service"), ("gologin.breaker_closed", "anna")]
