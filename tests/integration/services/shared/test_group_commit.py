"""Group commit: few transactions for many callers, and each has what became of its own item."""

import asyncio
from collections.abc import Sequence

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import Alarm
from app.services.shared.group_commit import GroupCommit, GroupLookUp
from app.utils.exceptions import DatabaseUnavailableException


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
    assert [isinstance(one, Exception) for one in ended] == [False, True, False, True, False]
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
    waits, may_go_on = asyncio.Event(), asyncio.Event()

    async def write(_session: AsyncSession, items: Sequence[str]) -> Sequence[str]:
        if "slow" in items:
            waits.set()
            await may_go_on.wait()
        return items

    # Each holds a transaction, of which SQLite has one at a time.
    commit = GroupLookUp(database=database, write=write, at_once=2)
    slow = asyncio.create_task(commit.add("slow"))
    await waits.wait()
    assert [await commit.add("a"), await commit.add("b")] == ["a", "b"]
    assert not slow.done()
    may_go_on.set()
    assert await slow == "slow"
