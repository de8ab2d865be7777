"""Delays grow up to their ceiling, whatever the number of failures, and vary within their bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.utils.waits import jittered, retry_delay


def test_delay_doubles_with_each_attempt_up_to_its_ceiling():
    assert [retry_delay(n, base=10, ceiling=60) for n in range(1, 6)] == [10, 20, 40, 60, 60]


@pytest.mark.parametrize("attempt", [1_024, 1_025, 1_026, 10_000, 2**63])
@pytest.mark.parametrize("base", [1e-9, 0.2, 3600.0, 1e300])
def test_delay_of_any_number_of_failures_is_the_ceiling(attempt: int, base: float):
    assert retry_delay(attempt, base=base, ceiling=900) == 900


@given(st.integers(1, 2_000), st.floats(0.001, 10_000), st.floats(0, 1))
def test_jitter_changes_a_delay_by_its_share_at_most(attempt: int, base: float, jitter: float):
    exact = retry_delay(attempt, base=base, ceiling=900)
    delay = retry_delay(attempt, base=base, ceiling=900, jitter=jitter)
    assert exact * (1 - jitter) <= delay <= exact * (1 + jitter) * (1 + 1e-9)


def test_jitter_spreads_delays_to_both_sides():
    delays = {jittered(10, 0.5) for _ in range(200)}
    assert len(delays) > 100
    assert min(delays) < 8
    assert max(delays) > 12


def test_delay_without_jitter_is_exact():
    assert {retry_delay(3, base=0.2, ceiling=3.0) for _ in range(20)} == {0.8}
