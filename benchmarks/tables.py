"""Milliseconds of lists, filters, numbers and cleanup on long tables, against the same on 10,000 rows.

    make bench ARGS=tables

The tables are filled with COPY or executemany: 10,000 rows of each first, the baseline, then the long ones.
Each figure is the median of seven runs, after one that counts for nothing.
"""

import json
import statistics
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

from sqlalchemy import func, insert, select

from app.config import load_settings
from app.context import Context, open_context
from app.database import Database
from app.models import AuthorizationSession, Event, EventClass, SessionStatus, class_of, utc_now
from app.services.authorizations import queries as session_list
from app.services.authorizations.queries import SessionFilter
from app.services.events import order, queries
from app.services.events.filters import EventFilter
from app.services.events.order import Position
from app.services.events.tail import page_after
from app.services.operations.counts import count_fleet
from app.services.operations.event_retention import EventLimits, EventRetention
from app.services.operations.retention import Retention, RetentionDays
from app.services.shared import paging
from app.services.shared.access import EVERYTHING, AccessScope
from app.services.shared.paging import PageRequest
from benchmarks.figures import Figure, compared
from benchmarks.pickup import postgresql_url

SMALL, RUNS, CHUNK, ACCOUNTS = 10_000, 7, 20_000, 40_000
BEGAN = utc_now() - timedelta(days=80)
NOW = utc_now()

TYPES = ("token.read", "authorization.stage", "authorization.completed")

Row = tuple[Any, ...]
Measures = dict[str, Callable[[], Awaitable[object]]]


def event_rows(first: int, last: int, total: int) -> Iterator[dict[str, Any]]:
    """Over eighty days; one actor in a thousand is rare, and one event in a hundred thousand tells of a needle."""
    for number in range(first, last):
        yield {
            "xact_id": 0,
            "event_type": (event_type := TYPES[number % len(TYPES)]),
            "event_class": class_of(event_type),
            "occurred_at": BEGAN + (NOW - BEGAN) * number / total,
            "account_id": f"account_{number * 7919 % ACCOUNTS}",
            "api_app": f"AIOTT{number % 5 + 1}",
            "session_id": str(uuid.UUID(int=number // 8)),
            "actor": "rare" if number % 1000 == 0 else f"team-{number % 9}",
            "request_id": f"request-{number // 8}",
            "data": json.dumps({"version": number, "note": "needle" if number % 100_000 == 0 else "hay"}),
        }


def session_rows(first: int, last: int, total: int) -> Iterator[dict[str, Any]]:
    """Ten run and a thousand wait; all others have ended, one in a thousand as failed."""
    for number in range(first, last):
        ended = "failed" if number % 1000 == 0 else "completed"
        status = "in_progress" if number < 10 else "pending" if number < 1000 else ended
        is_over = status == ended
        at = BEGAN + (NOW - BEGAN) * number / total if is_over else NOW
        yield {
            "session_id": str(uuid.UUID(int=number)),
            "profile_id": f"profile-{number}",
            "twitter_username": f"account_{number % ACCOUNTS if is_over else -number}",
            "api_app": "AIOTT1",
            **dict.fromkeys(("scopes", "missing_scopes"), "[]"),
            **dict.fromkeys(("stage_times", "stage_timeouts"), "{}"),
            **dict.fromkeys(("is_forced", "awaits_person", "is_held"), False),
            "status": status,
            "error_code": "PAGE_CHANGED" if status == "failed" else None,
            "priority": 5,
            "queue_rank": at.timestamp(),
            "consent": "automatic",
            "attempts": 1,
            "attempts_allowed": 3,
            "request_id": f"request-{number}",
            "requested_by": f"team-{number % 9}",
            **dict.fromkeys(("created_at", "updated_at", "started_at"), at),
            "completed_at": at if is_over else None,
            "expires_at": NOW + timedelta(days=1),
        }


async def fill(database: Database, table: str, rows: Iterator[dict[str, Any]]) -> None:
    while chunk := list(islice(rows, CHUNK)):
        names = ", ".join(chunk[0])
        if database.is_sqlite:
            marks = ", ".join("?" * len(chunk[0]))
            values = [tuple(map(as_sqlite, row.values())) for row in chunk]
            async with database.transaction() as db:
                connection = await db.connection()
                await connection.exec_driver_sql(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)
            continue
        async with (
            await database.open_connection("benchmark") as raw,
            raw.cursor() as cursor,
            cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy,
        ):
            for row in chunk:
                await copy.write_row(tuple(row.values()))


def as_sqlite(value: Any) -> Any:
    return value.strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value


async def settle(database: Database) -> None:
    """Do what autovacuum does in time."""
    if not database.is_sqlite:
        async with await database.open_connection("benchmark") as raw:
            await raw.execute("VACUUM ANALYZE events")
            await raw.execute("VACUUM ANALYZE authorization_sessions")


def measures(context: Context, events: int) -> Measures:
    database = context.database
    middle = BEGAN + (NOW - BEGAN) / 2
    filters = {
        "the first page": EventFilter(),
        "an account": EventFilter(account_id="account_7919"),
        "a rare actor": EventFilter(actor="rare"),
        "a type and an app": EventFilter(event_type="token.read", api_app="AIOTT3"),
        "a beginning of types": EventFilter(event_type="authorization.*"),
        "a session": EventFilter(session_id=str(uuid.UUID(int=5))),
        "an hour of long ago": EventFilter(since=middle, until=middle + timedelta(hours=1)),
        "a rare text": EventFilter(text="needle"),
        "a text that nobody wrote": EventFilter(text="no such thing"),
        "a key's accounts": EventFilter(access=AccessScope.from_lists(["AIOTT1"], ["account_77*"])),
    }

    def events_of(wanted: EventFilter) -> Callable[[], Awaitable[object]]:
        async def run() -> None:
            async with database.reading() as db:
                await queries.fetch_page(db, wanted, PageRequest())
                await queries.count(db, wanted)

        return run

    async def last_page() -> None:
        async with database.reading() as db:
            await queries.fetch_page(db, EventFilter(), PageRequest(number=200))

    async def deep() -> None:
        async with database.reading() as db:
            await queries.fetch_page(
                db, EventFilter(), PageRequest(after=paging.Position(middle.isoformat(), 0))
            )

    async def replay() -> None:
        async with database.reading() as db:
            await order.newest_position(db)
            await page_after(db, Position(0, events - 500), limit=500)

    async def write() -> None:
        async with database.transaction() as db:
            rows = [{"event_type": "x", "actor": "bench", "data": {}} for _ in range(100)]
            await db.execute(insert(Event), rows)

    async def delete_events() -> None:
        of_class = select(func.count()).where(Event.event_class == EventClass.AUDIT)
        async with database.reading() as db:
            count = await db.scalar(of_class) or 0
        await event_retention(database, audit_count=count - 1_000).delete_old()

    return {
        **session_measures(database),
        **{f"events: {name}": events_of(wanted) for name, wanted in filters.items()},
        "events: page 200": last_page,
        "events: a cursor in the middle": deep,
        "events: 500 to a reader that was away": replay,
        "events: 100 more": write,
        "events: the oldest 1,000 are deleted": delete_events,
        "sessions: numbers for the monitor": lambda: count_fleet(database),
        "sessions: overdue ones are ended": context.sessions.runs.end_overdue,
    }


def event_retention(database: Database, *, audit_count: int = 10**9) -> EventRetention:
    limits = {each: EventLimits(days=10_000, count=10**9) for each in EventClass}
    limits[EventClass.AUDIT] = EventLimits(days=10_000, count=audit_count)
    return EventRetention(database=database, limits=limits)


def retention(database: Database, *, session_days: float) -> Retention:
    days = RetentionDays(sessions=session_days, evidence=10_000, webhooks=10_000)
    events = event_retention(database)
    return Retention(database=database, days=days, events=events, max_evidence_bytes=10**9)


def session_measures(database: Database) -> Measures:
    middle = BEGAN + (NOW - BEGAN) / 2
    filters = {
        "the first page": SessionFilter(),
        "an account": SessionFilter(account_id="account_7919"),
        "those that run": SessionFilter(status=SessionStatus.IN_PROGRESS),
        "an error": SessionFilter(error_code="PAGE_CHANGED"),
        "an error that never was": SessionFilter(error_code="NO_SUCH_CODE"),
        "a key's": SessionFilter(requested_by="team-3"),
        "an hour of long ago": SessionFilter(since=middle, until=middle + timedelta(hours=1)),
    }

    def sessions_of(
        wanted: SessionFilter, request: PageRequest, access: AccessScope
    ) -> Callable[[], Awaitable[object]]:
        async def run() -> None:
            async with database.reading() as db:
                await session_list.fetch_page(db, wanted, request, access=access)

        return run

    async def delete_sessions() -> None:
        row = AuthorizationSession
        ends = (
            select(row.completed_at).where(row.status == SessionStatus.COMPLETED).order_by(row.completed_at)
        )
        async with database.reading() as db:
            last = await db.scalar(ends.offset(1_000).limit(1))
        assert last is not None
        age = (utc_now() - last) / timedelta(days=1)
        deleted = await retention(database, session_days=age).delete_old()
        assert deleted["sessions_deleted"] >= 900, deleted

    newest = PageRequest(descending=True)
    deep = replace(newest, after=paging.Position(middle.isoformat(), 0))
    some, none = (
        AccessScope.from_lists(["AIOTT1"], ["account_77*"]),
        AccessScope.from_lists([], [f"nobody_{n}*" for n in range(20)]),
    )
    return {
        **{f"sessions: {name}": sessions_of(wanted, newest, EVERYTHING) for name, wanted in filters.items()},
        "sessions: page 200": sessions_of(SessionFilter(), replace(newest, number=200), EVERYTHING),
        "sessions: a cursor in the middle": sessions_of(SessionFilter(), deep, EVERYTHING),
        "sessions: the oldest 1,000 are deleted": delete_sessions,
        "sessions: a key's accounts": sessions_of(SessionFilter(), newest, some),
        "sessions: a key for twenty patterns, none there": sessions_of(SessionFilter(), newest, none),
        "sessions: an error of a rare key": sessions_of(
            SessionFilter(error_code="PAGE_CHANGED", requested_by="nobody"), newest, EVERYTHING
        ),
    }


async def measured(context: Context, events: int) -> dict[str, float]:
    found = {}
    for name, run in measures(context, events).items():
        times = []
        for _ in range(RUNS + 1):
            began = perf_counter()
            await run()
            times.append((perf_counter() - began) * 1000)
        found[name] = statistics.median(times[1:])
    return found


async def compare(url: str, sessions: int, events: int) -> list[Figure]:
    """Return a figure of each list, the one that grew most first."""
    database = Database(url, pool_size=1)
    await database.migrate()
    await database.close()
    async with open_context(load_settings(env_file=None, database_url=url)) as context:
        results, have_events, have_sessions = [], 0, 0
        for more_sessions, more_events in ((SMALL, SMALL), (sessions, events)):
            await fill(context.database, "events", event_rows(have_events, more_events, events))
            await fill(
                context.database,
                "authorization_sessions",
                session_rows(have_sessions, more_sessions, sessions),
            )
            await settle(context.database)
            results.append(await measured(context, more_events))
            have_events, have_sessions = more_events, more_sessions
    small, large = results
    dialect = context.database.engine.dialect.name
    found = [
        compared(f"{dialect}, {name}", large[name], "ms", baseline=f"{SMALL:,} rows", to=before)
        for name, before in small.items()
    ]
    return sorted(found, key=lambda figure: figure.ratio or 0, reverse=True)


@asynccontextmanager
async def database_url(kind: str, folder: Path) -> Any:
    if kind == "sqlite":
        yield f"sqlite+aiosqlite:///{folder}/tables.db"
    else:
        async with postgresql_url(folder) as url:
            yield url


async def figures(*, is_long: bool) -> list[Figure]:
    sessions, events = (1_000_000, 5_000_000) if is_long else (50_000, 100_000)
    found = []
    for kind in ("sqlite", "postgresql"):
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            async with database_url(kind, Path(folder)) as url:
                grown = await compare(url, sessions, events)
                found += grown if is_long else grown[:3]
    return found
