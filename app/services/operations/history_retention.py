"""Retention of the fleet's history: minutes become hours, hours go."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, func, select

from app.database import Database, affected_rows
from app.models import FleetHistory, utc_now

MINUTE: Final = 60
HOUR: Final = 3_600
SUMS: Final = ("minutes", "completed", "failed", "timeout", "cancelled", "needs_attention")
GAUGES: Final = (
    "waiting", "running", "oldest_waiting_seconds", "running_profiles",
    "working", "expiring", "broken", "needs_person", "never_authorized",
)  # fmt: skip
_A_DAY: Final = timedelta(days=1)


class HistoryRetention:
    """`minute_days`: age at which minutes are summed up by the hour; `hour_days`: age at which hours are deleted."""

    def __init__(self, *, database: Database, minute_days: float, hour_days: float) -> None:
        self._database = database
        self._minutes = timedelta(days=minute_days)
        self._hours = timedelta(days=max(minute_days, hour_days))

    async def delete_old(self) -> int:
        """Return the number of deleted rows; a day of them is one transaction."""
        before, deleted = utc_now() - self._hours, 0
        while (first := await self._first(before)) is not None:
            end = min(before, first + _A_DAY)
            async with self._database.transaction() as db:
                result = await db.execute(delete(FleetHistory).where(FleetHistory.begins_at < end))
            deleted += affected_rows(result)
        return deleted

    async def sum_up(self) -> int:
        """Return the number of hours of which the minutes became one row; an hour is one transaction."""
        before, hours = begin_of(utc_now() - self._minutes, HOUR), 0
        while (first := await self._first(before, FleetHistory.step == MINUTE)) is not None:
            await self._sum_up(begin_of(first, HOUR))
            hours += 1
        return hours

    async def _first(self, before: datetime, *conditions: Any) -> datetime | None:
        query = select(func.min(FleetHistory.begins_at)).where(FleetHistory.begins_at < before, *conditions)
        async with self._database.reading() as db:
            return await db.scalar(query)

    async def _sum_up(self, hour: datetime) -> None:
        is_of_hour = (FleetHistory.begins_at >= hour, FleetHistory.begins_at < hour + timedelta(seconds=HOUR))
        async with self._database.transaction() as db:
            # The hour itself may be among them, when minutes of it came later.
            rows = (await db.scalars(select(FleetHistory).where(*is_of_hour).with_for_update())).all()
            if rows:  # else another process was first
                await db.execute(delete(FleetHistory).where(*is_of_hour))
                db.expunge_all()
                db.add(_sum(hour, rows))


def begin_of(moment: datetime, step: int) -> datetime:
    """Return the begin of the step, counted from 1970, in which a time is."""
    return datetime.fromtimestamp(moment.timestamp() // step * step, UTC)


def _sum(hour: datetime, rows: Sequence[FleetHistory]) -> FleetHistory:
    failures: Counter[str] = Counter()
    for row in rows:
        failures.update(row.failures)
    sums = {name: sum(getattr(row, name) for row in rows) for name in SUMS}
    means = {name: _mean([(getattr(row, name), row.minutes) for row in rows]) for name in GAUGES}
    return FleetHistory(begins_at=hour, step=HOUR, failures=dict(failures), **sums, **means)


def _mean(values: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in values if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None
