"""So many requests a minute for each API key, in a moving window."""

import time

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from app.utils.exceptions import RateLimitException


class RateLimiter:
    """Counts in this process's memory; `per_minute`: requests of one key."""

    def __init__(self, *, per_minute: int) -> None:
        self._item = RateLimitItemPerMinute(per_minute)
        self._window = MovingWindowRateLimiter(MemoryStorage())

    async def check(self, caller_name: str) -> None:
        """Count one request. Raises `RateLimitException`, with the seconds until the next one is allowed."""
        if await self._window.hit(self._item, caller_name):
            return
        stats = await self._window.get_window_stats(self._item, caller_name)
        raise RateLimitException(self._item.amount, retry_after=max(1.0, stats.reset_time - time.time()))
