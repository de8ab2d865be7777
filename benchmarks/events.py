"""Events at the rate of 40,000 accounts, 600,000 a day, kept by class: sizes, and milliseconds against 10,000 events.

    make bench ARGS='--long events'

Days are simulated one after the other: the events of a day are inserted, and the cleanup of that day runs while another
connection goes on to write. The short form takes three days on PostgreSQL, of which routine events are kept for one;
`--long` takes 90 days on both databases with the limits of the settings. Of each day 480,000 events are refreshes,
100,000 reads of tokens and 20,000 ends of sessions.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Final

from sqlalchemy import select, text

from app.config import Settings, load_settings
from app.database import Database
from app.models import Event, EventClass, EventType, utc_now
from app.services.events import order, queries, recorder
from app.services.events.filters import EventFilter
from app.services.events.order import Position
from app.services.events.tail import page_after
from app.services.operations.event_partitions import EventPartitions, partition_at
from app.services.operations.event_retention import EventLimits, EventRetention
from app.services.shared.paging import PageRequest
from benchmarks.figures import Figure, compared
from benchmarks.tables import database_url

A_DAY, ACCOUNTS = 600_000, 40_000
SMALL, SMALL_ACCOUNTS, RUNS = 10_000, 40, 21

_COLUMNS: Final = """
    INSERT INTO events (
        event_type, event_class, occurred_at, account_id, api_app, actor, actor_kind, request_id, data{more}
    )
"""
_VALUES: Final = """
    SELECT
        CASE WHEN n % 6 = 0 THEN 'token.read' WHEN n % 30 = 1 THEN 'authorization.completed'
            ELSE 'credential.refreshed' END,
        CASE WHEN n % 6 = 0 THEN 'audit' WHEN n % 30 = 1 THEN 'lifecycle' ELSE 'routine' END,
        {time}, 'account_' || (n % {accounts} * 7919 % {accounts}), 'AIOTT' || (n % 5), 'team-' || (n % 9), 'key',
        CASE WHEN n % 6 = 0 THEN 'request-' || n END, '{{"version": 1}}'{more}
"""
_SIZES: Final = """
    SELECT split_part(relname, '_', 2) AS event_class, count(*) AS partitions, sum(greatest(reltuples, 0)) AS rows,
        sum(pg_total_relation_size(oid)) AS bytes
    FROM pg_class WHERE relname LIKE 'events\\_%' AND relkind = 'r' GROUP BY 1 ORDER BY 1
"""


async def insert_day(database: Database, begin: datetime, *, events: int, accounts: int) -> None:
    """Insert the events of a day, as if they were written then."""
    seconds = 86_400 / events
    if database.is_sqlite:
        numbers = (
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :events)"
        )
        time = f"strftime('%Y-%m-%d %H:%M:%f000', :begin, '+' || (n * {seconds}) || ' seconds')"
        values = _VALUES.format(time=time, accounts=accounts, more=", 0")
        query = f"{_COLUMNS.format(more=', xact_id')} {numbers} {values} FROM numbers"
    else:
        time = f"CAST(:begin AS timestamptz) + n * {seconds} * interval '1 second'"
        values = _VALUES.format(time=time, accounts=accounts, more="")
        query = f"{_COLUMNS.format(more='')} {values} FROM generate_series(1, :events) AS n"
        for event_class in EventClass:
            await EventPartitions(database=database).make(partition_at(event_class, begin))
    async with database.transaction() as db:
        if not database.is_sqlite:
            await db.execute(text("SET LOCAL statement_timeout = 0"))
        parameter = begin.strftime("%Y-%m-%d %H:%M:%S") if database.is_sqlite else begin
        await db.execute(text(query), {"begin": parameter, "events": events})


@dataclass
class Cleanups:
    """Cleanup of each simulated day, and what another connection waits meanwhile."""

    database: Database
    limits: dict[EventClass, EventLimits]
    seconds: list[float] = field(default_factory=list)
    longest_write: float = 0.0

    async def run(self, *, days_ago: int) -> None:
        """Delete what a cleanup deletes that ran so many days ago."""
        limits = {
            event_class: EventLimits(each.days + days_ago, each.count)
            for event_class, each in self.limits.items()
        }
        retention = EventRetention(database=self.database, limits=limits)
        writer = asyncio.create_task(self._write())
        began = perf_counter()
        try:
            await retention.count_hours()
            await retention.delete_old()
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        self.seconds.append(perf_counter() - began)

    async def _write(self) -> None:
        while True:
            began = perf_counter()
            async with self.database.transaction() as db:
                recorder.record(db, EventType.TOKEN_READ, actor="cli", account_id="account_1")
            self.longest_write = max(self.longest_write, perf_counter() - began)
            await asyncio.sleep(0.005)


async def measured(database: Database, *, accounts: int) -> dict[str, float]:
    """Return the milliseconds of each call, the median of the runs after the first ones."""
    account = f"account_{6 * 7919 % accounts}"
    audit = EventFilter(
        event_type=EventType.TOKEN_READ, account_id=account, since=utc_now() - timedelta(days=90)
    )
    async with database.reading() as db:
        latest_first = select(*order.ORDER).order_by(*(column.desc() for column in order.ORDER))
        positions = [Position(*row) for row in await db.execute(latest_first.limit(500))]
    newest, away = positions[0], positions[-1]

    def page_of(filters: EventFilter) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            async with database.reading() as db:
                await queries.fetch_page(db, filters, PageRequest())
                await queries.count(db, filters)

        return run

    async def poll() -> None:
        async with database.reading() as db:
            await page_after(db, newest, limit=500)

    async def catch_up() -> None:
        async with database.reading() as db:
            await order.newest_position(db)
            assert len(await page_after(db, away, limit=500)) >= 400

    async def find() -> None:
        async with database.reading() as db:
            assert await db.scalar(select(Event.actor).where(Event.id == newest.event_id)) is not None

    async def write() -> None:
        async with database.transaction() as db:
            for _ in range(100):
                recorder.record(db, EventType.CREDENTIAL_REFRESHED, account_id=account, api_app="AIOTT1")

    calls = {
        "the list's first page": page_of(EventFilter()),
        "the list of an account": page_of(EventFilter(account_id=account)),
        "who read this account's token in the last 90 days": page_of(audit),
        "the stream's look for news": poll,
        "500 events to a reader that was away": catch_up,
        "the event of a delivery": find,
        "100 events written": write,
    }
    found = {}
    for name, call in calls.items():
        times = []
        for _ in range(RUNS + 6):  # psycopg prepares a statement after its fifth run
            began = perf_counter()
            await call()
            times.append((perf_counter() - began) * 1000)
        found[name] = statistics.median(times[6:])
    return found


async def simulate(url: str, *, days: int, limits: dict[EventClass, EventLimits]) -> list[Figure]:
    database = Database(url, pool_size=3)
    await database.migrate()
    today = utc_now().replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        await insert_day(database, today - timedelta(days=days), events=SMALL, accounts=SMALL_ACCOUNTS)
        await settle(database)
        small = await measured(database, accounts=SMALL_ACCOUNTS)
        cleanups, inserts = Cleanups(database, limits), []
        for days_ago in range(days, 0, -1):
            began = perf_counter()
            await insert_day(database, today - timedelta(days=days_ago), events=A_DAY, accounts=ACCOUNTS)
            inserts.append(perf_counter() - began)
            await cleanups.run(days_ago=days_ago - 1)
        await settle(database)
        large = await measured(database, accounts=ACCOUNTS)
        sizes = await size_figures(database)
    finally:
        await database.close()
    kind = database.engine.dialect.name
    title = f"{kind}, {days} days"
    return [
        *(
            compared(f"{title}: {name}", large[name], "ms", baseline=f"{SMALL:,} events", to=before)
            for name, before in small.items()
        ),
        Figure(f"{title}: events inserted", A_DAY / statistics.median(inserts), "a second"),
        Figure(f"{title}: cleanup of a day", statistics.median(cleanups.seconds[-30:]), "s"),
        Figure(f"{title}: longest write during a cleanup", cleanups.longest_write * 1000, "ms"),
        *(Figure(f"{title}: {each.name}", each.value, each.unit) for each in sizes),
    ]


async def settle(database: Database) -> None:
    """Do what autovacuum does in time."""
    if not database.is_sqlite:
        async with await database.open_connection("benchmark") as raw:
            await raw.execute("SET statement_timeout = 0")
            await raw.execute("VACUUM ANALYZE events")


async def size_figures(database: Database) -> list[Figure]:
    async with database.reading() as db:
        if database.is_sqlite:
            pages = await db.scalar(
                text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
            )
            return [Figure("file", (pages or 0) / 1e6, "MB")]
        rows = (await db.execute(text(_SIZES))).all()
        hours = await db.scalar(text("SELECT count(*) FROM event_hours")) or 0
    figures = [Figure("partitions", sum(row.partitions for row in rows), "in all")]
    for row in rows:
        figures += [
            Figure(f"{row.event_class}: events", float(row.rows), f"in {row.partitions} partitions"),
            Figure(f"{row.event_class}: table and indexes", float(row.bytes) / 1e6, "MB"),
        ]
    return [*figures, Figure("counted hours of a type and an app", hours, "rows")]


def limits_of(settings: Settings) -> dict[EventClass, EventLimits]:
    return {
        each: EventLimits(
            getattr(settings, f"event_{each}_retention_days"),
            getattr(settings, f"event_{each}_retention_count"),
        )
        for each in EventClass
    }


async def figures(*, is_long: bool) -> list[Figure]:
    limits, days = limits_of(load_settings(env_file=None)), 90
    if not is_long:
        days = 3
        limits[EventClass.ROUTINE] = EventLimits(days=1, count=limits[EventClass.ROUTINE].count)
    found = []
    for kind in ("postgresql", "sqlite") if is_long else ("postgresql",):
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            async with database_url(kind, Path(folder)) as url:
                found += await simulate(url, days=days, limits=limits)
    return found
