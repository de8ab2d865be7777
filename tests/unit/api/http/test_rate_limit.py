"""A moving window for each key, and another for addresses that fail to authenticate."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from app.api.http.moving_window import MovingWindow
from app.api.http.rate_limit import FailedAuthentications, RateLimiter
from app.services.keys.service import Caller
from app.utils.exceptions import AuthenticationLimitException, RateLimitException
from tests.fixtures.clocks import Clock
from tests.fixtures.waiting import eventually

ALICE, BOB = Caller("alice", frozenset()), Caller("bob", frozenset())


async def test_request_over_the_limit_is_refused_with_the_wait():
    limiter = RateLimiter(per_minute=3)
    left = [(await limiter.count(ALICE)).remaining for _ in range(3)]
    assert left == [2, 1, 0]
    quota = await limiter.count(ALICE)
    assert (quota.limit, quota.remaining, quota.is_exceeded) == (3, 0, True)
    assert 0 < quota.reset <= 60
    with pytest.raises(RateLimitException, match="More than 3 requests") as caught:
        quota.require()
    assert caught.value.retry_after == quota.reset


async def test_each_key_has_a_count_of_its_own():
    limiter = RateLimiter(per_minute=1)
    for _ in range(3):
        last = await limiter.count(ALICE)
    assert last.is_exceeded
    assert not (await limiter.count(BOB)).is_exceeded


async def test_a_key_may_have_a_limit_of_its_own():
    limiter = RateLimiter(per_minute=1)
    patient = Caller("carol", frozenset(), rate_limit_per_minute=2)
    assert [(await limiter.count(patient)).is_exceeded for _ in range(3)] == [False, False, True]


def fail(failures: FailedAuthentications, address: str, times: int) -> None:
    for _ in range(times):
        failures.add(address)


def is_refused(failures: FailedAuthentications, address: str) -> bool:
    try:
        failures.add(address)
    except AuthenticationLimitException:
        return True
    return False


def test_an_address_that_failed_too_often_waits_until_its_first_failure_is_a_minute_old():
    clock = Clock()
    failures = FailedAuthentications(per_minute=3, window=MovingWindow(clock=clock))
    fail(failures, "192.0.2.1", 1)
    clock.now += 20
    fail(failures, "192.0.2.1", 2)
    with pytest.raises(AuthenticationLimitException) as caught:
        failures.add("192.0.2.1")
    assert caught.value.retry_after == 40
    assert not is_refused(failures, "192.0.2.2")
    clock.now += 40
    fail(failures, "192.0.2.1", 1)
    assert is_refused(failures, "192.0.2.1"), "the other two are not a minute old yet"


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", True),
    ],
)
def test_a_client_is_an_address_or_a_network_of_ipv6(one: str, other: str, are_one: bool):
    failures = FailedAuthentications(per_minute=1)
    failures.add(one)
    assert is_refused(failures, other) is are_one


async def test_addresses_over_the_limit_take_turns_and_no_other_waits():
    failures = FailedAuthentications(per_minute=1, turn_timeout=0.01)
    over = [f"192.0.2.{number}" for number in range(4)]
    for address in over:
        failures.add(address)
    async with AsyncExitStack() as under_way:
        for address in over[:2]:
            await under_way.enter_async_context(failures.turn(address))
        for address in over[2:]:
            with pytest.raises(AuthenticationLimitException) as caught:
                await under_way.enter_async_context(failures.turn(address))
            assert caught.value.retry_after
        await under_way.enter_async_context(failures.turn("192.0.2.9"))
    async with failures.turn(over[2]), failures.turn(over[3]):
        pass


async def test_an_address_that_has_not_failed_is_refused_nothing_however_long_its_turn_takes():
    failures = FailedAuthentications(per_minute=3, turn_timeout=0.01)
    async with AsyncExitStack() as under_way:
        for _ in range(10):
            await under_way.enter_async_context(failures.turn("192.0.2.1"))
        for _ in range(3):
            failures.add("192.0.2.1")
        with pytest.raises(AuthenticationLimitException):
            await under_way.enter_async_context(failures.turn("192.0.2.1"))


@pytest.mark.parametrize(("per_minute", "at_once"), [(3, 5), (30, 10)])
async def test_a_burst_from_a_fresh_address_takes_turns_before_any_of_it_has_failed(
    per_minute: int, at_once: int
):
    failures = FailedAuthentications(per_minute=per_minute)

    async def look_up(address: str, looking: Counter[str], may_end: asyncio.Event) -> None:
        async with failures.turn(address):
            looking[address] += 1
            await may_end.wait()

    for _ in range(2):  # none of the first burst failed
        looking, may_end = Counter[str](), asyncio.Event()
        async with asyncio.timeout(60), asyncio.TaskGroup() as burst:
            for address in ["192.0.2.1"] * 200 + ["192.0.2.2"]:
                burst.create_task(look_up(address, looking, may_end))
            await eventually(lambda seen=looking: seen["192.0.2.2"])
            assert looking["192.0.2.1"] == at_once
            may_end.set()
        assert looking["192.0.2.1"] == 200
