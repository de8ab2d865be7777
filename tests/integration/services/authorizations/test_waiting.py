"""Room in the queue of waiting sessions, as one of many processes knows it."""

import pytest

from app.database import Database
from app.services.authorizations import waiting
from app.services.authorizations.waiting import WaitingCount
from app.utils.exceptions import TooManyWaitingException
from tests.fixtures.factories import AddRow
from tests.fixtures.waiting import eventually


async def reserve(count: WaitingCount, database: Database, *, coming: int = 1) -> None:
    async with database.transaction() as db:
        await count.reserve(db, coming=coming)


async def test_sessions_of_other_processes_are_counted_for_a_batch_at_once(
    database: Database, add_session: AddRow
):
    count = WaitingCount(database=database, ceiling=4)
    await reserve(count, database)
    for _ in range(3):
        await add_session()
    with pytest.raises(TooManyWaitingException):
        await reserve(count, database, coming=2)
    await count.close()


async def test_count_is_renewed_in_the_background_and_old_ones_before_an_answer(
    database: Database, add_session: AddRow, monkeypatch: pytest.MonkeyPatch
):
    count = WaitingCount(database=database, ceiling=3)
    await reserve(count, database)
    for _ in range(3):
        await add_session()
    monkeypatch.setattr(waiting, "_RECOUNT_AFTER", 0.0)
    await reserve(count, database)  # by the count that it has; it starts another one
    await eventually(lambda: count._count == 3)
    monkeypatch.setattr(waiting, "_MAX_AGE", 0.0)
    with pytest.raises(TooManyWaitingException):
        await reserve(count, database)
    await count.close()


async def test_full_queue_is_counted_once_for_many_refused_requests(
    database: Database, add_session: AddRow, monkeypatch: pytest.MonkeyPatch
):
    row = await add_session()
    count = WaitingCount(database=database, ceiling=1)
    with pytest.raises(TooManyWaitingException):
        await reserve(count, database)
    async with database.transaction() as db:
        await db.delete(row)
    with pytest.raises(TooManyWaitingException):
        await reserve(count, database)
    monkeypatch.setattr(waiting, "_MAX_AGE_WHEN_FULL", 0.0)
    await reserve(count, database)
    await count.close()
