import pytest

from app.api.rate_limit import RateLimiter
from app.utils.exceptions import RateLimitException


async def test_one_more_than_the_limit_is_refused_with_the_wait():
    limiter = RateLimiter(per_minute=3)
    for _ in range(3):
        await limiter.check("alice")
    with pytest.raises(RateLimitException, match="More than 3 requests") as caught:
        await limiter.check("alice")
    assert caught.value.retry_after is not None
    assert 1 <= caught.value.retry_after <= 60


async def test_each_key_has_a_count_of_its_own():
    limiter = RateLimiter(per_minute=1)
    await limiter.check("alice")
    await limiter.check("bob")
    with pytest.raises(RateLimitException):
        await limiter.check("alice")
