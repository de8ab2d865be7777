"""Counts of the last minute, by name."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

MINUTE: Final = 60.0


class MovingWindow:
    """Counts in this process's memory, of the `max_names` that were added to last. `clock`: seconds."""

    def __init__(self, *, max_names: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_names = max_names
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def size(self) -> int:
        """Number of names that are remembered."""
        return len(self._times)

    def count(self, name: str) -> int:
        """Return the count of the last minute."""
        times = self._times.get(name)
        if times is None:
            return 0
        while times and times[0] <= self._clock() - MINUTE:
            times.popleft()
        if not times:
            del self._times[name]
        return len(times)

    def add(self, name: str) -> None:
        self._times.setdefault(name, deque()).append(self._clock())
        self._times.move_to_end(name)
        if len(self._times) > self._max_names:
            self._times.popitem(last=False)

    def until_less(self, name: str) -> float:
        """Seconds until the oldest is more than a minute ago; 0 when there is none."""
        times = self._times.get(name)
        return max(0.0, times[0] + MINUTE - self._clock()) if times else 0.0
