"""History of the fleet: the monitor stores each minute's numbers once, and charts read them in steps."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import BigInteger, ColumnElement, Integer, Table, extract, func, select, true
from sqlalchemy import cast as sql_cast
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import insert_or_update, is_sqlite
from app.models import OPEN_STATUSES, AuthorizationSession, FleetHistory, SessionStatus
from app.services.operations.history_retention import GAUGES, MINUTE, begin_of
from app.utils.exceptions import InvalidRequestException

MAX_POINTS: Final = 1_500
"""Points of one answer: a day of minutes."""
STEPS: Final = (60, 300, 900, 3_600, 21_600, 86_400)
"""Steps that are chosen from, seconds."""
_GOOD_POINTS: Final = 400
"""Points that a chart shows well."""
_CATCH_UP: Final = timedelta(hours=1)
"""Time that is counted afterwards when no monitor ran."""
_COUNTED_AGAIN: Final = timedelta(minutes=3)
"""Time that is counted again, for sessions whose end was stored late, or by a machine whose clock is behind."""
ENDS: Final = tuple(status for status in SessionStatus if status not in OPEN_STATUSES)


@dataclass(frozen=True)
class HistoryRange:
    """Time of an answer, in steps that begin with it."""

    since: datetime
    until: datetime
    step: int
    """Seconds."""

    @classmethod
    def resolve(
        cls, since: datetime | None, until: datetime | None, step: int | None, *, now: datetime
    ) -> "HistoryRange":
        """Return the range of a request: by default the last hour, in a step that a chart shows well.

        Raises `InvalidRequestException`.
        """
        until = until or now
        since = since or until - timedelta(hours=1)
        seconds = (until - since).total_seconds()
        if seconds <= 0:
            raise InvalidRequestException("`from` must be earlier than `to`")
        if step is None:
            step = next((each for each in STEPS if seconds / each <= _GOOD_POINTS), STEPS[-1])
        begin = begin_of(since, step)
        if (until - begin).total_seconds() > MAX_POINTS * step:
            raise InvalidRequestException(
                f"An answer has {MAX_POINTS} points at most: take a longer `step`, or a shorter time"
            )
        return cls(begin, until, step)


@dataclass(frozen=True)
class HistoryPoint:
    """Numbers of one step."""

    begins_at: datetime
    minutes: int
    """Minutes of the step that were counted."""
    ended: Mapping[SessionStatus, int]
    failures: Mapping[str, int]
    """Number of sessions that ended with each error code."""
    means: Mapping[str, float | None]
    """Mean of each of `GAUGES`."""

    @property
    def sessions_per_minute(self) -> float:
        return sum(self.ended.values()) / self.minutes if self.minutes else 0.0

    @property
    def success_rate(self) -> float | None:
        """Share of the sessions that completed; None: none ended otherwise than by being cancelled."""
        return success_rate(self.ended)


def success_rate(ended: Mapping[SessionStatus, int]) -> float | None:
    """Return the share of ended sessions that completed. Cancelled ones do not count: somebody wanted their end."""
    total = sum(count for status, count in ended.items() if status is not SessionStatus.CANCELLED)
    return ended.get(SessionStatus.COMPLETED, 0) / total if total else None


async def count_minutes(
    db: AsyncSession, *, now: datetime, gauges: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return rows of the minutes that are over and not stored yet, and of the last that are: two queries over indexes.

    `gauges`: values of `GAUGES` now, which go to the last minute.
    """
    end = begin_of(now, MINUTE)
    last = await db.scalar(select(func.max(FleetHistory.begins_at)).where(FleetHistory.step == MINUTE))
    # A clock that was ahead leaves rows of the time to come; the minutes until then are counted all the same.
    since = max(end - _CATCH_UP, min(last, end) - _COUNTED_AGAIN if last else end - _CATCH_UP)
    row = AuthorizationSession
    minute = _bucket(db, row.completed_at, MINUTE).label("minute")
    ends = (
        select(minute, row.status, row.error_code, func.count())
        .where(row.status.in_(ENDS), row.completed_at >= since, row.completed_at < end)
        .group_by("minute", row.status, row.error_code)
    )
    ended: defaultdict[int, Counter[SessionStatus]] = defaultdict(Counter)
    failures: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for bucket, status, code, count in await db.execute(ends):
        ended[bucket][status] += count
        if status is not SessionStatus.COMPLETED and code is not None:
            failures[bucket][code] += count
    begins = [
        since + timedelta(seconds=MINUTE * n) for n in range(round((end - since).total_seconds() / MINUTE))
    ]
    rows = []
    for begins_at in begins:
        bucket = int(begins_at.timestamp()) // MINUTE
        counts = {status.value: ended[bucket][status] for status in ENDS}
        means = (
            dict.fromkeys(GAUGES) if begins_at != begins[-1] else {name: gauges.get(name) for name in GAUGES}
        )
        rows.append(
            {"begins_at": begins_at, "step": MINUTE, "minutes": 1, "failures": dict(failures[bucket])}
            | counts
            | means
        )
    return rows


async def store_minutes(db: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store them, each minute once. A minute that is there gets the higher counts, and keeps its other values."""
    insert = insert_or_update(db, FleetHistory).values(list(rows))
    stored, new = cast(Table, FleetHistory.__table__).c, insert.excluded
    # A session that is tried again has no end any more; that it ended then stays true.
    is_higher = sum(new[each.value] for each in ENDS) >= sum(stored[each.value] for each in ENDS)
    counts = {name: new[name] for name in (*(each.value for each in ENDS), "failures")}
    means = {name: func.coalesce(stored[name], new[name]) for name in GAUGES}
    await db.execute(
        insert.on_conflict_do_update(
            index_elements=[FleetHistory.begins_at, FleetHistory.step], set_=counts | means, where=is_higher
        )
    )


async def fetch_points(db: AsyncSession, wanted: HistoryRange) -> list[HistoryPoint]:
    """Return the steps of which there are numbers, the oldest first: two statements, whatever the range is."""
    row = FleetHistory
    is_within = (row.begins_at >= wanted.since, row.begins_at < wanted.until)
    bucket = _bucket(db, row.begins_at, wanted.step).label("bucket")
    sums = [func.sum(getattr(row, each.value)) for each in ENDS]
    means = [func.avg(getattr(row, name)) for name in GAUGES]
    points = select(bucket, func.sum(row.minutes), *sums, *means).where(*is_within)
    found = (await db.execute(points.group_by("bucket").order_by("bucket"))).all()
    failures: defaultdict[int, dict[str, int]] = defaultdict(dict)
    each_code = (func.json_each if is_sqlite(db) else func.json_each_text)(row.failures).table_valued(
        "key", "value"
    )
    number = func.sum(sql_cast(each_code.c.value, Integer))
    codes = select(bucket, each_code.c.key, number).select_from(row).join(each_code, true()).where(*is_within)
    for step_bucket, code, count in await db.execute(codes.group_by("bucket", each_code.c.key)):
        failures[step_bucket][code] = count
    return [
        HistoryPoint(
            begins_at=datetime.fromtimestamp(step_bucket * wanted.step, UTC),
            minutes=minutes,
            ended=dict(zip(ENDS, values, strict=False)),
            failures=failures[step_bucket],
            means=dict(zip(GAUGES, values[len(ENDS) :], strict=True)),
        )
        for step_bucket, minutes, *values in found
    ]


def _bucket(db: AsyncSession, moment: Any, step: int) -> ColumnElement[int]:
    """Return the number of the step, since 1970, in which the time of a column is."""
    if is_sqlite(db):  # which would round the fraction up into the next second
        moment = func.substr(moment, 1, len("2026-11-21 08:00:00"))
    return sql_cast(func.floor(extract("epoch", moment)), BigInteger) // step
