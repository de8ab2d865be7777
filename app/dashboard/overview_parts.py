"""Parts of the overview: its charts' values, and texts that are made once for all open pages of the process."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from app.models import SessionStatus
from app.services.fleet.history import HistoryPoint, HistoryRange, fetch_points, success_rate
from app.services.operations.history_retention import MINUTE, begin_of

_MAX_AGE: Final = 4.0
"""Seconds for which the texts serve all open pages."""
_QUARTER: Final = 900

Parts = dict[str, str]
"""Texts by the name of their event."""


class OverviewParts:
    """The texts of the last seconds: fifty open pages cost little more than one."""

    def __init__(self) -> None:
        self.readers = 0
        self._parts: Parts = {}
        self._made_at = float("-inf")
        self._making = asyncio.Lock()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count an open page."""
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1

    async def read(self, make: Callable[[], Awaitable[Parts]]) -> Parts:
        """Return the texts; `make` is called when they are too old, by one reader for all. Raises what it raises."""
        async with self._making:
            if monotonic() - self._made_at > _MAX_AGE:
                self._parts = await make()
                self._made_at = monotonic()
            return self._parts


@dataclass(frozen=True)
class ChartValues:
    """Values of one chart's time."""

    range: HistoryRange
    points: Sequence[HistoryPoint]
    ended: Counter[SessionStatus]
    failures: Counter[str]

    @property
    def success_rate(self) -> float | None:
        return success_rate(self.ended)

    @property
    def sessions_per_minute(self) -> float:
        minutes = sum(point.minutes for point in self.points)
        return self.ended.total() / minutes if minutes else 0.0


async def read_charts(db: AsyncSession, now: datetime) -> dict[str, ChartValues]:
    """Return the last hour by the minute and the last day by the quarter of an hour: four statements."""
    end = begin_of(now, MINUTE)  # so that they change once a minute
    hour = HistoryRange(end - timedelta(hours=1), end, MINUTE)
    day = HistoryRange(begin_of(end - timedelta(days=1), _QUARTER), end, _QUARTER)
    return {
        "hour": _values(hour, await fetch_points(db, hour)),
        "day": _values(day, await fetch_points(db, day)),
    }


def _values(wanted: HistoryRange, points: Sequence[HistoryPoint]) -> ChartValues:
    ended: Counter[SessionStatus] = Counter()
    failures: Counter[str] = Counter()
    for point in points:
        ended.update(point.ended)
        failures.update(point.failures)
    return ChartValues(wanted, points, ended, failures)
