"""A profile runs once at a time, whoever asks and in whichever process, and the fleet runs no more than it may."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from app.database import Database
from app.models import Event, Profile, utc_now
from app.services.profiles.leases import ProfileLeases
from app.utils.exceptions import (
    ConcurrentProfileLimitException,
    ProfileInUseException,
    ProfileQuarantinedException,
)
from tests.fixtures.factories import new_profile
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


def leases_of(
    database: Database,
    process: str = "here:1",
    *,
    fleet_limit: int | None = None,
    lease_seconds: float = 20.0,
) -> ProfileLeases:
    return ProfileLeases(
        database=database,
        machine=process.partition(":")[0],
        owner=process,
        lease_seconds=lease_seconds,
        fleet_limit=fleet_limit,
        foreign_grace=600,
        start_grace=60,
    )


async def add(database: Database, **values: object) -> str:
    async with database.transaction() as db:
        profile = new_profile(**values)
        db.add(profile)
    return profile.profile_id


async def add_left_over(database: Database, owner: str, *, seconds_ago: float) -> str:
    return await add(
        database,
        in_use=True,
        lease_token="of-the-dead",
        lease_owner=owner,
        lease_expires_at=utc_now() - timedelta(seconds=seconds_ago),
        ws_url="ws://127.0.0.1:1/devtools/browser/x",
    )


async def row_of(database: Database, profile_id: str) -> Profile:
    async with database.reading() as db:
        return (await db.scalars(select(Profile).where(Profile.profile_id == profile_id))).one()


@pytest.mark.databases("sqlite", "postgresql")
async def test_one_of_many_simultaneous_processes_gets_the_lease(database: Database):
    profile_id = await add(database)
    entered, leave = asyncio.Semaphore(0), asyncio.Event()

    async def ask(process: str) -> bool:
        try:
            async with leases_of(database, process).hold(profile_id):
                entered.release()
                await leave.wait()
                return True
        except ProfileInUseException:
            return False

    asked = [asyncio.create_task(ask(f"here:{number}")) for number in range(8)]
    async with asyncio.timeout(60):
        await entered.acquire()
    await eventually(lambda: sum(task.done() for task in asked) == 7)
    leave.set()
    assert sum(await asyncio.gather(*asked)) == 1
    assert not (await row_of(database, profile_id)).in_use


@pytest.mark.databases("sqlite", "postgresql")
async def test_the_fleet_runs_no_more_than_its_plan_allows(database: Database):
    ids = [await add(database) for _ in range(8)]
    held, most, leave = 0, 0, asyncio.Event()

    async def ask(number: int) -> bool:
        nonlocal held, most
        try:
            async with leases_of(database, f"machine{number}:1", fleet_limit=3).hold(ids[number]):
                held += 1
                most = max(most, held)
                await leave.wait()
                return True
        except ConcurrentProfileLimitException:
            return False

    asked = [asyncio.create_task(ask(number)) for number in range(8)]
    await eventually(lambda: sum(task.done() for task in asked) == 5)
    leave.set()
    assert sum(await asyncio.gather(*asked)) == 3
    assert most == 3


async def test_an_expired_lease_is_not_free_but_taken_over(database: Database):
    profile_id = await add_left_over(database, "here:7", seconds_ago=1)
    leases = leases_of(database)
    with pytest.raises(ProfileInUseException):
        async with leases.hold(profile_id):
            pass
    (left_over,) = await leases.take_over_expired()
    assert (left_over.profile_id, left_over.ws_url) == (profile_id, "ws://127.0.0.1:1/devtools/browser/x")
    assert await leases.take_over_expired() == []
    await leases.give_back(profile_id, left_over.lease_token)
    async with leases.hold(profile_id):
        assert (await row_of(database, profile_id)).ws_url is None


@pytest.mark.parametrize(("seconds_ago", "taken"), [(599, 0), (601, 1)])
async def test_another_machine_keeps_its_orphans_for_a_while(
    database: Database, seconds_ago: float, taken: int
):
    await add_left_over(database, "there:7", seconds_ago=seconds_ago)
    assert len(await leases_of(database).take_over_expired()) == taken


@pytest.mark.parametrize(("seconds_ago", "taken"), [(59, 0), (61, 1)])
async def test_a_browser_that_may_still_come_up_is_waited_for(
    database: Database, seconds_ago: float, taken: int
):
    profile_id = await add_left_over(database, "here:7", seconds_ago=seconds_ago)
    async with database.transaction() as db:
        await db.execute(update(Profile).values(ws_url=None))
    orphans = await leases_of(database).take_over_expired()
    assert [each.profile_id for each in orphans] == [profile_id] * taken


async def test_a_machine_whose_name_begins_alike_is_another_one(database: Database):
    await add_left_over(database, "here_2:7", seconds_ago=1)
    assert await leases_of(database, "here:1").take_over_expired() == []


@pytest.mark.databases("sqlite", "postgresql")
async def test_one_of_two_simultaneous_take_overs_succeeds(database: Database):
    await add_left_over(database, "here:7", seconds_ago=1)
    taken = await asyncio.gather(*(leases_of(database, f"here:{n}").take_over_expired() for n in range(4)))
    assert sum(len(each) for each in taken) == 1


async def test_a_quarantined_profile_is_not_started(database: Database):
    profile_id = await add(database)
    leases = leases_of(database)
    async with leases.hold(profile_id) as token:
        await leases.quarantine(profile_id, token, "it runs on")
    row = await row_of(database, profile_id)
    assert (row.in_use, row.quarantine_reason) == (False, "it runs on")
    with pytest.raises(ProfileQuarantinedException):
        async with leases.hold(profile_id):
            pass
    async with database.reading() as db:
        assert await db.scalar(select(Event.data).where(Event.event_type == "profile.quarantined")) == {
            "reason": "it runs on"
        }


async def test_only_own_leases_are_counted(database: Database):
    await add_left_over(database, "there:7", seconds_ago=-60)
    leases = leases_of(database)
    async with leases.hold(await add(database)):
        assert await leases.count_held() == 1
    assert await leases.count_held() == 0


async def test_holder_of_a_lost_lease_changes_nothing_of_the_new_holder(database: Database):
    profile_id = await add(database)
    leases = leases_of(database)
    async with leases.hold(profile_id) as token:
        async with database.transaction() as db:
            await db.execute(update(Profile).values(lease_token="new"))
        assert not await leases.note_browser(profile_id, token, "ws://127.0.0.1:1/x")
        await leases.quarantine(profile_id, token, "no")
    row = await row_of(database, profile_id)
    assert (row.in_use, row.lease_token, row.ws_url, row.quarantined_at) == (True, "new", None, None)


async def test_a_start_that_was_not_answered_keeps_its_profile_until_the_grace_is_over(database: Database):
    profile_id = await add(database)
    leases = leases_of(database)
    async with leases.hold(profile_id) as token:
        leases.expect_late_browser(token)
    row = await row_of(database, profile_id)
    assert (row.in_use, row.lease_token != token, row.lease_owner) == (True, True, "here:late-start")
    assert await leases.count_held() == 0
    with pytest.raises(ProfileInUseException):
        async with leases.hold(profile_id):
            pass
    assert await leases.take_over_expired() == []
    async with database.transaction() as db:
        await db.execute(update(Profile).values(lease_expires_at=utc_now() - timedelta(seconds=61)))
    (left_over,) = await leases.take_over_expired()
    await leases.give_back(profile_id, left_over.lease_token)
    async with leases.hold(profile_id):
        pass
    assert not (await row_of(database, profile_id)).in_use
