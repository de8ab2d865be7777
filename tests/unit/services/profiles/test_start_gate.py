import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from app.services.profiles.start_gate import MAX_LAG, MIN_SLOW, SLOW_FACTOR, StartGate
from app.utils.exceptions import GoLoginAPIException
from tests.fixtures.clocks import Clock

QUICK = 1.0
"""Seconds of a usual start."""


class Starts:
    """Starts by name through one gate; each goes on until the test ends it."""

    def __init__(self, ceiling: int) -> None:
        self.lag = 0.0
        self.clock = Clock()
        self.gate = StartGate(ceiling=ceiling, lag=lambda: self.lag, clock=self.clock)
        self.begun: list[str] = []
        self.waited: list[str] = []
        self._ends: dict[str, asyncio.Future[None]] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def add(self, *names: str) -> None:
        for name in names:
            self._ends[name] = asyncio.get_running_loop().create_future()
            self.tasks[name] = asyncio.create_task(self._run(name))
        await turns()

    async def end(self, name: str, error: Exception | None = None) -> None:
        if error is None:
            self._ends[name].set_result(None)
        else:
            self._ends[name].set_exception(error)
        await turns()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await turns()

    async def run(self, seconds: float, error: Exception | None = None) -> None:
        """One start of its own."""
        name = f"start {len(self.tasks)}"
        await self.add(name)
        self.clock.now += seconds
        await self.end(name, error)
        await asyncio.gather(self.tasks[name], return_exceptions=True)

    async def close(self) -> None:
        """End the starts that the test left under way."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def _run(self, name: str) -> None:
        async with self.gate.enter(lambda: self.waited.append(name)):
            self.begun.append(name)
            await self._ends[name]


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def through_gate() -> AsyncIterator[Callable[[int], Starts]]:
    """Starts through a new gate with that ceiling."""
    made: list[Starts] = []

    def make(ceiling: int) -> Starts:
        made.append(Starts(ceiling))
        return made[-1]

    yield make
    for starts in made:
        await starts.close()


@pytest.fixture
async def starts(through_gate: Callable[[int], Starts]) -> Starts:
    """A gate of three places that knows how long a start takes."""
    starts = through_gate(3)
    for _ in range(10):
        await starts.run(QUICK)
    starts.begun.clear()
    return starts


async def test_no_more_starts_at_once_than_the_ceiling_and_the_first_to_wait_is_the_first_to_start(
    through_gate: Callable[[int], Starts],
):
    starts = through_gate(2)
    await starts.add("a", "b", "c", "d")
    assert (starts.begun, starts.waited, starts.gate.in_progress) == (["a", "b"], ["c", "d"], 2)
    await starts.end("b")
    assert starts.begun == ["a", "b", "c"]
    await starts.end("a")
    assert (starts.begun, starts.gate.in_progress) == (["a", "b", "c", "d"], 2)


async def test_a_newcomer_does_not_overtake_one_that_waits(through_gate: Callable[[int], Starts]):
    starts = through_gate(1)
    async with starts.gate.enter(lambda: None):
        await starts.add("a")
    await starts.add("b")  # a has the place, whether it has run or not
    assert (starts.begun, starts.waited) == (["a"], ["a", "b"])


async def test_a_cancelled_wait_ends_at_once_and_costs_nobody_a_place(through_gate: Callable[[int], Starts]):
    starts = through_gate(1)
    await starts.add("a", "b", "c")
    await starts.cancel("b")
    assert starts.tasks["b"].cancelled()
    await starts.end("a")
    assert starts.begun == ["a", "c"]


async def test_a_place_given_at_the_moment_of_the_cancellation_goes_to_the_next(
    through_gate: Callable[[int], Starts],
):
    starts = through_gate(1)
    async with starts.gate.enter(lambda: None):
        await starts.add("a", "b")
    starts.tasks["a"].cancel()  # it has been given the place, and has not run yet
    await turns()
    assert starts.tasks["a"].cancelled()
    assert (starts.begun, starts.gate.in_progress) == (["b"], 1)


async def test_newcomer_gets_the_place_while_the_only_waiting_start_is_cancelled(
    through_gate: Callable[[int], Starts],
):
    starts = through_gate(1)
    await starts.add("a", "b")
    starts.tasks["b"].cancel()
    starts._ends["a"].set_result(None)
    await starts.add("c")
    assert (starts.begun, starts.gate.in_progress) == (["a", "c"], 1)


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_a_start_that_did_not_succeed_gives_its_place_back(
    how: str, through_gate: Callable[[int], Starts]
):
    starts = through_gate(1)
    await starts.add("a", "b")
    await (starts.cancel("a") if how == "cancelled" else starts.end("a", ValueError()))
    assert (starts.begun, starts.gate.in_progress, starts.gate.limit) == (["a", "b"], 1, 1)
    await asyncio.wait([starts.tasks["a"]])
    assert starts.tasks["a"].cancelled() or isinstance(starts.tasks["a"].exception(), ValueError)


async def test_slow_starts_narrow_the_gate_down_to_one_and_quick_ones_widen_it_again(starts: Starts):
    limits = []
    for seconds in [SLOW_FACTOR * QUICK + 0.1] * 3 + [QUICK] * 3:
        await starts.run(seconds)
        limits.append(starts.gate.limit)
    assert limits == [2, 1, 1, 2, 3, 3]


async def test_narrowed_gate_waits_until_few_enough_are_under_way(starts: Starts):
    await starts.add("a", "b", "c", "d", "e")
    starts.clock.now += SLOW_FACTOR * QUICK + 0.1
    await starts.end("a")
    await starts.end("b")
    assert (starts.gate.limit, starts.gate.in_progress, starts.begun) == (1, 1, ["a", "b", "c"])
    await starts.end("c")
    assert (starts.gate.in_progress, starts.begun) == (1, ["a", "b", "c", "d"])


async def test_a_wider_gate_admits_all_that_fit(starts: Starts):
    await starts.run(SLOW_FACTOR * QUICK + 0.1)
    await starts.run(SLOW_FACTOR * QUICK + 0.1)
    await starts.add("a", "b", "c", "d")
    assert starts.begun[2:] == ["a"]
    await starts.end("a")
    assert (starts.begun[2:], starts.gate.limit) == (["a", "b", "c"], 2)


@pytest.mark.parametrize(
    ("make_busy", "lag", "limit"),
    [
        (lambda starts: starts.run(60.0, GoLoginAPIException("timeout", "no answer")), 0.3, 2),
        (lambda starts: starts.run(60.0, GoLoginAPIException("timeout", "no answer")), 0.0, 3),
        (lambda starts: starts.run(0.1, GoLoginAPIException(500, "it is not signed in")), 0.3, 3),
        (lambda starts: starts.run(60.0, ValueError()), 0.3, 3),
    ],
    ids=["missed its deadline", "missed it on an idle machine", "refused", "another error"],
)
async def test_failed_start_narrows_the_gate_when_it_missed_its_deadline_on_a_busy_machine(
    starts: Starts, make_busy: Callable[[Starts], Awaitable[None]], lag: float, limit: int
):
    starts.lag = lag
    await make_busy(starts)
    assert starts.gate.limit == limit


async def test_a_start_that_misses_its_deadline_keeps_its_place_until_it_is_undone(
    through_gate: Callable[[int], Starts],
):
    """The browser of an undone start is stopped first: until then it is one of those that start."""
    starts = through_gate(1)
    undone = asyncio.get_running_loop().create_future()

    async def start() -> None:
        async with starts.gate.enter(lambda: None):
            try:
                raise GoLoginAPIException("timeout", "no answer")
            finally:
                await undone

    late = asyncio.create_task(start())
    await starts.add("next")
    assert starts.begun == []
    undone.set_result(None)
    await turns()
    assert starts.begun == ["next"]
    assert isinstance(late.exception(), GoLoginAPIException)


async def test_a_late_event_loop_narrows_the_gate_however_quick_the_starts_are(starts: Starts):
    starts.lag = MAX_LAG * 1.1
    await starts.run(QUICK)
    assert starts.gate.limit == 2
    starts.lag = 0.0
    await starts.run(QUICK)
    assert starts.gate.limit == 3


async def test_profiles_of_different_sizes_do_not_narrow_the_gate(through_gate: Callable[[int], Starts]):
    """A few quick profiles are no measure for the others."""
    starts = through_gate(3)
    for seconds in [2.0, 10.0, 14.0, 10.0, 12.0, 25.0] * 5:
        await starts.run(seconds)
        assert starts.gate.limit == 3


async def test_starts_under_a_second_are_never_slow(through_gate: Callable[[int], Starts]):
    starts = through_gate(3)
    for seconds in [0.01] * 10 + [MIN_SLOW]:
        await starts.run(seconds)
    assert starts.gate.limit == 3


async def test_the_measure_follows_a_profile_browser_that_has_become_slower(starts: Starts):
    for _ in range(50):
        await starts.run(10.0)
    assert starts.gate.limit == 3
