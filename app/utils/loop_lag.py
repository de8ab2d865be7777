"""Lag of the event loop's timers, in which a blocking call in the wrong place shows."""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

_SAMPLES: Final = 6000
_RECENT: Final = 20


@dataclass(frozen=True)
class LagSnapshot:
    """Milliseconds over the last 6,000 ticks."""

    samples: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class LoopLag:
    """A ticker: every `tick` seconds it notes how much later than asked it was woken."""

    def __init__(self, *, tick: float) -> None:
        self._tick = tick
        self._lags: deque[float] = deque(maxlen=_SAMPLES)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._measure(), name="loop-lag")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def snapshot(self) -> LagSnapshot:
        lags = sorted(self._lags) or [0.0]
        return LagSnapshot(
            samples=len(self._lags),
            p50_ms=_milliseconds(lags[len(lags) // 2]),
            p99_ms=_milliseconds(lags[int(len(lags) * 0.99)]),
            max_ms=_milliseconds(lags[-1]),
        )

    def recent(self) -> float:
        """Return the median of the last 20 ticks, in seconds; 0 while there are fewer."""
        if len(self._lags) < _RECENT:
            return 0.0
        return sorted(islice(reversed(self._lags), _RECENT))[_RECENT // 2]

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            start = loop.time()
            await asyncio.sleep(self._tick)
            self._lags.append(max(0.0, loop.time() - start - self._tick))


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
