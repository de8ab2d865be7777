"""The fleet's request budget and its breaker, in one row of the database."""

import asyncio

import pytest
from sqlalchemy import Double, literal, select, update

from app.database import Database, database_clock
from app.models import ApiGate, Event
from app.services.profiles import request_budget
from app.services.profiles.request_budget import RequestBudget
from app.utils.exceptions import GoLoginBreakerOpenException

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


async def now(database: Database) -> float:
    async with database.reading() as db:
        return float(await db.scalar(select(database_clock(db))))


def most_in_a_window(places: list[float], window: float) -> int:
    return max(sum(start <= other < start + window for other in places) for start in places)


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize(("budget", "window"), [(20, 1.0), (60, 1.5), (100, 60.0)])
async def test_places_never_exceed_the_budget_in_any_window_and_use_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, budget: int, window: float
):
    """The places that the row gives, by a clock of the test's own: a busy machine sees them late."""
    clock = 1e9
    monkeypatch.setattr(request_budget, "database_clock", lambda db: literal(clock, Double))
    gate = RequestBudget(database=database, budget=budget, window=window)
    places = []
    for call in range(2 * budget):
        place = clock + await gate.reserve()
        places.append(place)
        if call % 3 == 0:
            clock = place
    assert 0.9 * budget <= most_in_a_window(places, window) <= budget


async def test_burst_of_calls_is_allowed_after_a_pause(database: Database):
    gate = RequestBudget(database=database, budget=100, window=60)
    async with asyncio.timeout(60):
        for _ in range(10):
            await gate.acquire()


async def test_a_clock_that_jumped_back_costs_one_window_at_most(database: Database):
    gate = RequestBudget(database=database, budget=100, window=1.0)
    await gate.acquire()
    async with database.transaction() as db:
        await db.execute(update(ApiGate).values(next_free=await now(database) + 1e6))
    async with asyncio.timeout(60):
        await gate.acquire()


@pytest.mark.databases("sqlite", "postgresql")
async def test_open_breaker_lets_no_call_through_in_any_process(database: Database):
    first, second = (RequestBudget(database=database, budget=100) for _ in range(2))
    await first.acquire()
    await first.open_breaker("HTTP 429")
    for gate in (first, second):
        with pytest.raises(GoLoginBreakerOpenException):
            await gate.acquire()
    state = await second.state()
    assert (state.is_open, state.reason) == (True, "HTTP 429")


async def test_a_caller_that_waits_for_its_place_does_not_go_once_the_breaker_is_open(database: Database):
    gate = RequestBudget(database=database, budget=10, window=3.0)
    await gate.acquire()
    waiting = asyncio.create_task(gate.acquire())
    async with database.reading() as db:
        while await db.scalar(select(ApiGate.next_free)) is None:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    await gate.open_breaker("HTTP 429")
    with pytest.raises(GoLoginBreakerOpenException):
        async with asyncio.timeout(60):
            await waiting


async def test_open_breaker_is_recorded_once_and_closed_by_hand(database: Database):
    gate = RequestBudget(database=database, budget=100)
    await gate.acquire()
    await asyncio.gather(*(gate.open_breaker("HTTP 429") for _ in range(5)))
    async with database.transaction() as db:
        assert await gate.close(db, actor="anna")
    async with database.transaction() as db:
        assert not await gate.close(db, actor="anna")
    await gate.acquire()
    async with database.reading() as db:
        events = [
            (event.event_type, event.actor) for event in await db.scalars(select(Event).order_by(Event.id))
        ]
    assert events == [("gologin.breaker_opened", "service"), ("gologin.breaker_closed", "anna")]
