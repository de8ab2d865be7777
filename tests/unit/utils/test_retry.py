"""Only errors that say so are tried again, and not for ever."""

from collections.abc import Iterator

import pytest
import stamina

from app.utils.exceptions import AppException, GoLoginAPIException, RateLimitException
from app.utils.retry import _delay_before_retry, retry_idempotent


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


class Call:
    """Raises `errors` one after the other, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.count = 0

    @retry_idempotent(attempts=3)
    async def __call__(self) -> str:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def transient() -> GoLoginAPIException:
    return GoLoginAPIException(503, "down")


async def test_a_transient_error_is_tried_again():
    call = Call(transient(), transient())
    assert await call() == "answer"
    assert call.count == 3


async def test_the_last_error_is_raised_when_the_attempts_are_used_up():
    call = Call(*(transient() for _ in range(9)))
    with pytest.raises(GoLoginAPIException):
        await call()
    assert call.count == 3


@pytest.mark.parametrize(
    "error", [GoLoginAPIException(401, "bad token", retryable=False), AppException(), ValueError("a bug")]
)
async def test_other_error_is_raised_at_once(error: Exception):
    call = Call(error)
    with pytest.raises(type(error)):
        await call()
    assert call.count == 1


def test_the_wait_that_was_asked_for_is_kept():
    assert _delay_before_retry(RateLimitException(100, retry_after=7.5)) == 7.5


def test_a_wait_longer_than_a_slot_can_spare_is_not_begun():
    assert _delay_before_retry(RateLimitException(100, retry_after=60)) is False
