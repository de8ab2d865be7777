"""Pages by cursor are the pages by number, whatever the values, and rows that come and go move no other."""

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import ColumnElement, delete, event, select, true

from app.database import Database
from app.models import AuthorizationSession, SessionStatus
from app.services.shared.paging import Page, PageRequest, Total, fetch_page
from tests.fixtures.factories import new_profile, new_session

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
SORTS = ("created_at", "completed_at", "priority", "error_code", "timeout_seconds", "id")


def random_session(chance: random.Random) -> AuthorizationSession:
    """Many have equal values, and many have none."""
    values: dict[str, Any] = {
        "completed_at": chance.choice((None, LONG_AGO + timedelta(microseconds=chance.randrange(3)))),
        "created_at": LONG_AGO + timedelta(seconds=chance.randrange(4) / 3),
        "error_code": chance.choice((None, "", "a", "A", "_", "Z", "ä", "a b")),
        "priority": chance.randrange(3),
        "timeout_seconds": chance.choice((None, 0.1, 1 / 3, 1e-9)),
    }
    return new_session(new_profile(), status=SessionStatus.FAILED, **values)


@pytest.fixture
async def chance(database: Database) -> random.Random:
    chance = random.Random(20)
    await add_some(database, chance, 40)
    return chance


async def add_some(database: Database, chance: random.Random, count: int) -> None:
    async with database.transaction() as db:
        db.add_all([random_session(chance) for _ in range(count)])


async def page(
    database: Database, wanted: PageRequest, *rest: ColumnElement[bool], **limits: int
) -> Page[AuthorizationSession]:
    """`rest`: conditions that no index serves."""
    row = AuthorizationSession
    indexed = select(row)
    async with database.reading() as db:
        return await fetch_page(
            db, indexed.where(*rest), row, wanted, indexed=indexed if rest else None, **limits
        )


async def walk(
    database: Database, first: PageRequest, *rest: ColumnElement[bool], **limits: int
) -> AsyncIterator[Page[AuthorizationSession]]:
    wanted = first
    while True:
        found = await page(database, wanted, *rest, **limits)
        yield found
        if found.end is None:
            return
        wanted = replace(first, after=found.end)


def ids(rows: Sequence[AuthorizationSession]) -> list[str]:
    """Not those of the rows, which SQLite gives again when the last one has gone."""
    return [row.session_id for row in rows]


@pytest.mark.parametrize("descending", [False, True], ids=["asc", "desc"])
async def test_pages_by_cursor_equal_pages_by_number(
    database: Database, chance: random.Random, descending: bool
):
    for sort in SORTS:
        size = chance.randrange(3, 14)
        by_number = PageRequest(sort=sort, descending=descending, size=size)
        number = 0
        async for found in walk(database, by_number):
            number += 1
            expected = await page(database, replace(by_number, number=number))
            assert ids(found.rows) == ids(expected.rows)
            assert (found.number, found.total, found.end) == (number, Total(40), expected.end)
        assert number == -(-40 // size)


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("descending", [False, True], ids=["asc", "desc"])
async def test_rows_without_a_value_come_last(database: Database, chance: random.Random, descending: bool):
    found = await page(database, PageRequest(sort="completed_at", descending=descending, size=100))
    values = [row.completed_at for row in found.rows]
    there = [value for value in values if value is not None]
    assert values == sorted(there, reverse=descending) + [None] * (len(values) - len(there))
    assert 0 < len(there) < len(values)


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("descending", [False, True], ids=["asc", "desc"])
async def test_rows_that_come_and_go_move_no_other(
    database: Database, chance: random.Random, descending: bool
):
    for sort in ("created_at", "completed_at", "error_code"):
        wanted = PageRequest(sort=sort, descending=descending, size=500)
        before = ids((await page(database, wanted)).rows)
        seen: list[str] = []
        gone: set[str] = set()
        async for found in walk(database, replace(wanted, size=7)):
            seen += ids(found.rows)
            leaving = set(chance.sample(before, 2)) | {seen[-1]}  # also the one at which the page ended
            gone |= leaving
            async with database.transaction() as db:
                await db.execute(
                    delete(AuthorizationSession).where(AuthorizationSession.session_id.in_(leaving))
                )
            await add_some(database, chance, 1)
        assert len(seen) == len(set(seen))
        stayed = [row for row in before if row not in gone]
        assert [row for row in seen if row in stayed] == stayed


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_page_costs_two_statements_and_one_behind_a_cursor(database: Database, chance: random.Random):
    statements: list[str] = []
    event.listen(
        database.engine.sync_engine,
        "before_cursor_execute",
        lambda *arguments: statements.append(arguments[2]),
    )
    first = await page(database, PageRequest(size=5))
    assert len([each for each in statements if each.startswith("SELECT")]) == 2
    statements.clear()
    await page(database, PageRequest(size=5, after=first.end))
    assert len([each for each in statements if each.startswith("SELECT")]) == 1


@pytest.mark.parametrize("descending", [False, True], ids=["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 7, 8, 39, 40, 41])
async def test_what_no_index_finds_is_found_a_few_rows_at_a_time(
    database: Database, chance: random.Random, descending: bool, limit: int
):
    wanted = PageRequest(sort="created_at", descending=descending, size=5)
    everything = (await page(database, replace(wanted, size=500))).rows
    for priority in (0, 3):  # 3: none has it
        condition = AuthorizationSession.priority == priority
        pages = [found async for found in walk(database, wanted, condition, scan_limit=limit)]
        seen = [row for found in pages for row in found.rows]
        assert ids(seen) == [row.session_id for row in everything if row.priority == priority]
        looked_at = everything[:limit]
        counted = sum(row.priority == priority for row in looked_at)
        assert pages[0].total == Total(counted, is_exact=limit > len(everything))
        assert len(pages) <= 40 / limit + 40 / 5 + 1


async def test_rows_beyond_those_that_are_looked_at_are_not_read(database: Database, chance: random.Random):
    first = await page(database, PageRequest(sort="created_at", size=500), true(), scan_limit=10)
    assert (len(first.rows), first.total) == (10, Total(10, is_exact=False))


async def test_rows_are_counted_up_to_a_limit(database: Database, chance: random.Random):
    for limit, total in ((39, Total(39, is_exact=False)), (40, Total(40)), (41, Total(40))):
        found = await page(database, PageRequest(size=5), count_limit=limit)
        assert found.total == total
        assert found.end is not None
        assert found.end.total == total


async def test_empty_list_and_page_beyond_the_end_have_no_rows(database: Database):
    assert await page(database, PageRequest()) == Page([], Total(0), 1, None)
    await add_some(database, random.Random(1), 1)
    beyond = await page(database, PageRequest(number=1_000_000, size=500))
    assert (ids(beyond.rows), beyond.total, beyond.end) == ([], Total(1), None)
