"""Limit on the profile starts of this process at once: first in, first out, and fewer while the machine is busy.

Starts beside each other share the same cores: more of them than cores make each slower and none sooner.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

from app.utils.exceptions import GoLoginAPIException

SLOW_FACTOR: Final = 4.0
"""A start is slow when it takes this many times as long as the best quarter of the last ones …"""
MIN_SLOW: Final = 1.0
"""… and longer than this, in seconds."""
MAX_LAG: Final = 0.25
"""Seconds that the event loop is late when the machine is busy, however quick the starts are."""
_KEPT_STARTS: Final = 50
_MIN_STARTS: Final = 8
"""Starts without which none is called slow."""


class StartGate:
    """Each slow start takes one place away, down to one, and each quick start gives one back, up to `ceiling`.

    A start that misses its deadline while the event loop is late is slow, too. So a busy machine begins fewer browsers,
    which then meet their deadlines. Starts are compared with the best quarter of the last 50 and not with the best one
    alone: the profile browser takes seconds for one profile and a minute for another.

    Args:
        ceiling: starts at once, at most.
        lag: seconds by which the event loop was late lately.
        clock: seconds that never go back.
    """

    def __init__(
        self, *, ceiling: int, lag: Callable[[], float], clock: Callable[[], float] = monotonic
    ) -> None:
        self.ceiling = ceiling
        self._lag = lag
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._seconds: deque[float] = deque(maxlen=_KEPT_STARTS)
        """Seconds of the last starts that succeeded."""
        self.limit = ceiling
        """Starts at once, now."""
        self.in_progress = 0

    @asynccontextmanager
    async def enter(self, on_wait: Callable[[], None]) -> AsyncIterator[None]:
        """Wait for a place and keep it while the block runs, which is one start, undone in it if it fails.

        `on_wait` is called when there is no place yet. The wait has no deadline; a cancellation ends it at once.
        """
        await self._take_place(on_wait)
        began = self._clock()
        try:
            yield
        except GoLoginAPIException as error:  # others tell nothing of the machine
            # Not without the lag: while the profile browser hangs, each start would wait for the deadline of the last.
            if error.status == "timeout" and self._lag() > MAX_LAG:
                self._change_limit(-1)
            raise
        else:
            self._adapt(self._clock() - began)
        finally:
            self.in_progress -= 1
            self._admit()

    async def _take_place(self, on_wait: Callable[[], None]) -> None:
        if not self._waiting and self.in_progress < self.limit:
            self.in_progress += 1
            return
        on_wait()
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._waiting.remove(place)
            else:  # it was given a place at the same moment
                self.in_progress -= 1
            self._admit()
            raise

    def _admit(self) -> None:
        for place in list(self._waiting):
            if self.in_progress >= self.limit:
                return
            if not place.done():  # else it was cancelled, and removes itself
                self._waiting.remove(place)
                self.in_progress += 1
                place.set_result(None)

    def _adapt(self, seconds: float) -> None:
        best = (
            sorted(self._seconds)[len(self._seconds) // 4] if len(self._seconds) >= _MIN_STARTS else seconds
        )
        is_busy = seconds > max(SLOW_FACTOR * best, MIN_SLOW) or self._lag() > MAX_LAG
        self._seconds.append(seconds)
        self._change_limit(-1 if is_busy else 1)

    def _change_limit(self, by: int) -> None:
        self.limit = min(max(self.limit + by, 1), self.ceiling)
