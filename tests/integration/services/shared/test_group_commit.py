"""Group commit: few transactions for many callers, and each has what became of its own item."""

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, insert_or_update
from app.models import Alarm
from app.services.shared.group_commit import GroupCommit, GroupLookUp
from app.utils.exceptions import DatabaseUnavailableException

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


class Written:
    """Each item is an alarm's name; the result is the number of its group."""

    def __init__(self) -> None:
        self.groups: list[Sequence[str | None]] = []

    async def __call__(self, db: AsyncSession, names: Sequence[str | None]) -> list[int]:
        self.groups.append(names)
        await db.execute(insert(Alarm), [{"name": name, "detail": ""} for name in names])
        return [len(self.groups)] * len(names)


async def stored(database: Database) -> int:
    async with database.reading() as db:
        return await db.scalar(select(func.count()).select_from(Alarm)) or 0


@pytest.mark.databases("sqlite", "postgresql")
async def test_many_callers_share_few_transactions_and_wait_for_their_own(database: Database):
    write = Written()
    commit = GroupCommit(database=database, write=write)

    async def add(number: int) -> None:
        group = await commit.add(f"alarm-{number}")
        assert f"alarm-{number}" in write.groups[group - 1]
        async with database.reading() as db:
            assert await db.get(Alarm, f"alarm-{number}") is not None, "it is committed"

    await asyncio.gather(*map(add, range(50)))
    assert await stored(database) == 50
    assert len(write.groups) <= 3


async def test_a_bad_item_fails_alone(database: Database):
    commit = GroupCommit(database=database, write=Written())
    names = ["a", None, "b", "a", "c"]
    ended = await asyncio.gather(*map(commit.add, names), return_exceptions=True)
    first, nothing, second, again, last = (isinstance(one, Exception) for one in ended)
    assert (nothing, second, last) == (True, False, False)
    assert first != again  # two are written at once: either may come first
    assert await stored(database) == 3


async def test_a_caller_who_leaves_takes_his_item_not_along(database: Database):
    commit = GroupCommit(database=database, write=Written())
    leaving = asyncio.create_task(commit.add("a"))
    await asyncio.sleep(0)
    leaving.cancel()
    await commit.add("b")
    await commit.wait_for_all()
    assert (await stored(database), leaving.cancelled()) == (2, True)


async def test_outage_is_raised_to_all_callers_and_the_next_continue(database: Database):
    tries = 0

    async def write(_session: AsyncSession, items: Sequence[int]) -> Sequence[int]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise DatabaseUnavailableException("it does not answer")
        return items

    commit = GroupCommit(database=database, write=write)
    ended = await asyncio.gather(*map(commit.add, range(5)), return_exceptions=True)
    assert [type(one) for one in ended] == [DatabaseUnavailableException] * 5
    assert (await commit.add(7), tries) == (7, 2)


async def test_look_up_sees_what_was_committed_before_it_came(database: Database):
    """It shares no query that began earlier."""
    began, may_go_on = asyncio.Event(), asyncio.Event()

    async def find(db: AsyncSession, names: Sequence[str]) -> list[bool]:
        found = set(await db.scalars(select(Alarm.name)))
        began.set()
        await may_go_on.wait()
        return [name in found for name in names]

    look_ups = GroupLookUp(database=database, write=find)
    early = asyncio.create_task(look_ups.add("a"))
    await began.wait()
    async with database.transaction() as db:
        db.add(Alarm(name="a", detail=""))
    late = asyncio.create_task(look_ups.add("a"))
    await asyncio.sleep(0)
    may_go_on.set()
    assert (await early, await late) == (False, True)


async def test_group_beside_one_that_waits(database: Database):
    has_begun, may_go_on = asyncio.Event(), asyncio.Event()

    async def write(_session: AsyncSession, items: Sequence[str]) -> Sequence[str]:
        if "slow" in items:
            has_begun.set()
            await may_go_on.wait()
        return items

    # Each holds a transaction, of which SQLite has one at a time.
    commit = GroupLookUp(database=database, write=write, at_once=2)
    slow = asyncio.create_task(commit.add("slow"))
    await has_begun.wait()
    assert [await commit.add("a"), await commit.add("b")] == ["a", "b"]
    assert not slow.done()
    may_go_on.set()
    assert await slow == "slow"


async def test_items_of_one_place_never_share_a_group(database: Database):
    groups: list[Sequence[str]] = []

    async def write(_session: AsyncSession, items: Sequence[str]) -> Sequence[str]:
        groups.append(items)
        return items

    commit = GroupCommit(
        database=database, write=write, place=lambda item: item[0] if item[0] != "-" else None
    )
    items = ["a1", "b1", "-", "a2", "-", "a3"]
    assert await asyncio.gather(*map(commit.add, items)) == items
    assert groups == [["a1", "b1", "-", "-"], ["a2"], ["a3"]]


@pytest.mark.parametrize("comes_alone", [True, False])
@pytest.mark.databases("postgresql")
async def test_item_that_waits_for_a_lock_keeps_no_other(database: Database, comes_alone: bool):
    """Another process holds the lock of one item: the rest of its group, and the next groups, are written."""

    has_begun = asyncio.Event()

    async def write(db: AsyncSession, names: Sequence[str]) -> Sequence[str]:
        has_begun.set()
        await db.execute(
            insert_or_update(db, Alarm).on_conflict_do_nothing(),
            [{"name": name, "detail": ""} for name in names],
        )
        return names

    commit = GroupCommit(database=database, write=write)
    async with database.transaction() as other:
        await other.execute(insert(Alarm).values(name="locked", detail=""))
        waits = asyncio.create_task(commit.add("locked"))
        if comes_alone:
            await has_begun.wait()
        async with asyncio.timeout(10):
            assert await asyncio.gather(*map(commit.add, "abc")) == [*"abc"]
            assert await asyncio.gather(*map(commit.add, "def")) == [*"def"]
        assert not waits.done()
    assert await waits == "locked"
    assert await stored(database) == 7


async def test_every_caller_is_answered_when_the_results_are_too_few(database: Database):
    async def write(_session: AsyncSession, items: Sequence[str]) -> Sequence[str]:
        return items[1:]

    commit = GroupCommit(database=database, write=write)
    ended = await asyncio.gather(*map(commit.add, "ab"), return_exceptions=True)
    assert [type(each) for each in ended] == [AssertionError] * 2
