"""The order of waiting sessions, and the waits between attempts."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.models import utc_now
from app.services.authorizations.transitions import queue_rank, wait_before_retry
from tests.fixtures.factories import new_profile, new_session

PROFILE = new_profile()


@given(st.integers(0, 9), st.integers(0, 9))
def test_more_urgent_session_of_two_equally_old_ones_goes_first(one: int, other: int):
    now = utc_now()
    ranks = [queue_rank(new_session(PROFILE, priority=p, created_at=now)) for p in (one, other)]
    assert (ranks[0] < ranks[1]) == (one > other)


def test_age_wins_in_the_end():
    old = new_session(PROFILE, priority=0, created_at=utc_now() - timedelta(minutes=91))
    assert queue_rank(old) < queue_rank(new_session(PROFILE, priority=9))


@given(st.integers(1, 50))
def test_waits_grow_up_to_a_quarter_of_an_hour(attempts: int):
    wait = wait_before_retry(attempts, first=10)
    assert 5 <= wait <= 900 * 1.5
    assert wait <= 10 * 2.0 ** (attempts - 1) * 1.5
