"""Filters that mean the same to the database and in memory, and lists that go to the end with bounded queries."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import select, text

from app.database import Database
from app.models import Event, utc_now
from app.services.events import order, queries
from app.services.events.filters import EventFilter
from app.services.events.order import Position
from app.services.shared.access import AccessScope
from app.services.shared.paging import PageRequest
from tests.fixtures.events import add_events

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

START = datetime(2026, 11, 1, tzinfo=UTC)
VALUES: dict[str, list[Any]] = {
    "event_type": ["token.read", "token.revoked", "tokens", "authorization.completed", "a_b"],
    "account_id": [None, "alice", "alice_2", "bob%", "b.ob"],
    "api_app": [None, "AIOTT1", "AIOTT2"],
    "session_id": [None, "s-1", "s-2"],
    "actor": ["service", "Key One", "ÄRGER", "ärger"],
    "request_id": [None, "r-1", "R-1"],
    "data": [{}, {"reason": 'said "no" \\ 100%'}, {"name": "Ärger", "n": 1}, {"a_b": None}],
}
TYPES = [*VALUES["event_type"], "token*", "token.*", "a_*", "*", "nothing"]
TEXTS = [
    "ALICE",
    "%",
    "_",
    'SAID "no"',
    "\\",
    "ärger",
    "Ärger",
    "Key",
    "r-1",
    'n": 1',
    "\n",
    "a_b",
    "token.r",
]


def any_event(dice: random.Random) -> dict[str, Any]:
    chosen = {column: dice.choice(values) for column, values in VALUES.items()}
    return chosen | {"occurred_at": START + timedelta(seconds=dice.randint(0, 20))}


def any_filter(dice: random.Random) -> EventFilter:
    """About half of what can be filtered by is."""
    wanted: dict[str, Any] = {}
    for column in ("account_id", "api_app", "session_id", "actor", "request_id"):
        if dice.random() < 0.15:
            wanted[column] = dice.choice([value for value in VALUES[column] if value is not None])
    if dice.random() < 0.4:
        wanted["event_type"] = dice.choice(TYPES)
    if dice.random() < 0.4:
        wanted["text"] = dice.choice(TEXTS)
    for name in ("since", "until"):
        if dice.random() < 0.2:
            wanted[name] = START + timedelta(seconds=dice.randint(0, 20))
    if dice.random() < 0.4:
        apps = dice.sample(["AIOTT1", "AIOTT2", "AIOTT3"], dice.randint(0, 2))
        patterns = dice.sample(["alice", "alice*", "b*b", "*", "*_2", "bob%"], dice.randint(0, 2))
        wanted["access"] = AccessScope.from_lists(apps, patterns)
    return EventFilter(**wanted)


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_filter_means_the_same_to_the_database_and_in_memory(database: Database):
    dice = random.Random(7)
    await add_events(database, *(any_event(dice) for _ in range(300)))
    found_any = 0
    async with database.reading() as db:
        events = (await db.scalars(select(Event))).all()
        for _ in range(250):
            wanted = any_filter(dice)
            found = set(await db.scalars(select(Event.id).where(*wanted.conditions())))
            assert found == {event.id for event in events if wanted.matches(event)}, wanted
            found_any += bool(found)
    assert found_any > 60


async def test_pages_and_cursors_find_all_in_order(database: Database):
    """Also when many happened at the same time, and one query looks at a few events only."""
    dice = random.Random(3)
    await add_events(database, *(any_event(dice) for _ in range(250)))
    async with database.reading() as db:
        events = (await db.scalars(select(Event))).all()
    for wanted in [EventFilter(), EventFilter(actor="service"), *(any_filter(dice) for _ in range(12))]:
        latest_first = sorted(events, key=lambda event: (event.occurred_at, event.id), reverse=True)
        expected = [event.id for event in latest_first if wanted.matches(event)]
        found: list[int] = []
        request = PageRequest(size=7)
        while True:
            async with database.reading() as db:
                page = await queries.fetch_page(db, wanted, request, scan_limit=20)
            found += [event.id for event in page.rows]
            if page.end is None:
                break
            request = replace(request, after=page.end)
        assert found == expected, wanted
        pages = queries.export(database, wanted, page_size=9, scan_limit=20)
        exported = [event.id async for rows in pages for event in rows]
        assert exported == expected, wanted
        if not wanted.unindexed():
            async with database.reading() as db:
                second = await queries.fetch_page(db, wanted, PageRequest(number=2, size=7))
            assert [event.id for event in second.rows] == expected[7:14]


async def test_events_are_counted_up_to_a_limit(database: Database):
    rows = [{"actor": "a" if number < 11 else "b"} for number in range(20)]
    await add_events(database, *rows)
    async with database.reading() as db:
        counts = [
            await queries.count(db, wanted, limit=10, scan_limit=12)
            for wanted in (
                EventFilter(),
                EventFilter(actor="a"),
                EventFilter(actor="b"),
                EventFilter(event_type="*"),
                EventFilter(actor="b", text="tests"),
            )
        ]
    assert [(count.number, count.is_exact) for count in counts] == [
        (10, False),
        (10, False),
        (9, True),
        (10, False),
        (0, True),
    ]


async def test_a_list_costs_a_fixed_number_of_queries(database: Database):
    await add_events(database, *({"account_id": "alice"} for _ in range(600)))
    statements: list[str] = []
    sqlalchemy_event.listen(
        database.engine.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2])
    )
    costs = set()
    for size in (1, 500):
        async with database.reading() as db:
            statements.clear()
            await queries.fetch_page(db, EventFilter(text="alice"), PageRequest(size=size))
            await queries.count(db, EventFilter(text="alice"))
            costs.add(len([each for each in statements if each.startswith("SELECT")]))
    assert costs == {4}


async def test_a_page_behind_a_position_leaves_out_the_end_that_it_implies(database: Database):
    """SQLite would begin at the end of the time and walk through the index to the position."""
    await add_events(database, *({"account_id": "alice"} for _ in range(3)))
    statements: list[str] = []
    sqlalchemy_event.listen(
        database.engine.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2])
    )
    seen = []
    for filters in (EventFilter(), EventFilter(until=utc_now() + timedelta(hours=1))):
        async with database.reading() as db:
            first = await queries.fetch_page(db, filters, PageRequest(size=2))
            statements.clear()
            await queries.fetch_page(db, filters, PageRequest(size=2, after=first.end))
            seen.append([each for each in statements if each.startswith("SELECT")])
    assert seen[0] == seen[1]


@pytest.mark.databases("sqlite")  # PostgreSQL decides by the size of the table
async def test_events_after_a_position_are_searched_in_an_index(database: Database):
    """With a word more in the condition SQLite would walk through the whole of it."""
    for condition in (order.is_after(Position(0, 5)), order.is_up_to(Position(0, 5))):
        query = select(Event).where(condition).order_by(*order.ORDER)
        plan = "EXPLAIN QUERY PLAN " + str(
            query.compile(database.engine, compile_kwargs={"literal_binds": True})
        )
        async with database.reading() as db:
            steps = [row.detail for row in await db.execute(text(plan))]
        assert [step.partition(" (")[0] for step in steps] == ["SEARCH events USING INDEX ix_events_stream"]


@pytest.mark.parametrize(
    ("event_type", "index"),
    [
        ("token.read", "ix_events_audit"),
        ("authorization.stage", "ix_events_account"),
        ("token.*", "ix_events_account"),
    ],
)
@pytest.mark.databases("sqlite")
async def test_type_of_the_audit_trail_and_account_are_searched_in_one_index(
    database: Database, event_type: str, index: str
):
    filters = EventFilter(event_type=event_type, account_id="anna", since=utc_now())
    query = select(Event).where(*filters.conditions()).order_by(Event.occurred_at.desc(), Event.id.desc())
    plan = "EXPLAIN QUERY PLAN " + str(query.compile(database.engine, compile_kwargs={"literal_binds": True}))
    async with database.reading() as db:
        steps = [row.detail for row in await db.execute(text(plan))]
    assert [step.partition(" (")[0] for step in steps] == [f"SEARCH events USING INDEX {index}"]
    assert (filters.unindexed() == []) is (index == "ix_events_audit")
