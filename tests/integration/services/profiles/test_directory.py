"""Whose profile it is: links win over the rule, and one account has one profile in one app."""

import asyncio
import re

import pytest

from app.config import Settings
from app.database import Database
from app.models import Profile, utc_now
from app.services.profiles.account_rule import AccountRule
from app.services.profiles.directory import ProfileDirectory, ProfileFilter
from app.services.shared.paging import PageRequest, Total
from app.utils.exceptions import (
    AppException,
    ProfileConflictException,
    ProfileNotFoundException,
    ProfileQuarantinedException,
    UnknownProfileException,
)
from tests.fixtures.factories import new_profile

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


@pytest.fixture
def directory() -> ProfileDirectory:
    pattern = Settings.model_fields["profile_rule_pattern"].default
    return ProfileDirectory(rule=AccountRule(source="name", pattern=pattern))


async def add(database: Database, **values: object) -> str:
    async with database.transaction() as db:
        profile = new_profile(**values)
        db.add(profile)
    return profile.profile_id


async def used(database: Database, directory: ProfileDirectory, account: str, app: str = "AIOTT1") -> str:
    """As asked for one account, which is as asked for many."""
    async with database.reading() as db:
        among_many = await directory.get_for_accounts(
            db, [("nobody", app), (account, app), (account, "NONE")]
        )
        found = among_many[account, app]
        assert isinstance(among_many["nobody", app], ProfileNotFoundException)
        if isinstance(found, AppException):
            with pytest.raises(type(found), match=re.escape(found.message)):
                await directory.get_for_account(db, account, app)
            raise found
        assert found is await directory.get_for_account(db, account, app)
        return found.profile_id


async def link(
    database: Database, directory: ProfileDirectory, profile_id: str, account: str, app: str | None = None
):
    async with database.transaction() as db:
        return await directory.link(db, profile_id, account_id=account, api_app=app, actor="anna")


async def test_a_link_wins_over_the_rule(database: Database, directory: ProfileDirectory):
    await add(database, account_id="anna")
    other = await add(database, account_id=None, profile_name="something else")
    await link(database, directory, other, "anna")
    assert await used(database, directory, "anna") == other


async def test_a_profile_for_the_app_wins_over_one_for_any(database: Database, directory: ProfileDirectory):
    any_app, one_app = await add(database), await add(database)
    await link(database, directory, any_app, "anna")
    await link(database, directory, one_app, "anna", "AIOTT2")
    assert await used(database, directory, "anna", "AIOTT2") == one_app
    assert await used(database, directory, "anna", "AIOTT1") == any_app


async def test_two_profiles_by_the_rule_are_a_conflict_that_a_link_settles(
    database: Database, directory: ProfileDirectory
):
    first, second = await add(database, account_id="anna"), await add(database, account_id="anna")
    with pytest.raises(ProfileConflictException, match=first):
        await used(database, directory, "anna")
    await link(database, directory, second, "anna")
    assert await used(database, directory, "anna") == second


@pytest.mark.parametrize("app", [None, "AIOTT1"])
async def test_a_second_link_in_the_same_place_is_refused(
    database: Database, directory: ProfileDirectory, app: str | None
):
    first, second = await add(database), await add(database)
    await link(database, directory, first, "anna", app)
    with pytest.raises(ProfileConflictException, match=first):
        await link(database, directory, second, "anna", app)
    assert await used(database, directory, "anna") == first


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("app", [None, "AIOTT1"])
async def test_one_of_two_simultaneous_links_is_refused(
    database: Database, directory: ProfileDirectory, app: str | None
):
    ids = [await add(database) for _ in range(6)]
    results = await asyncio.gather(
        *(link(database, directory, profile_id, "anna", app) for profile_id in ids), return_exceptions=True
    )
    assert sum(isinstance(result, Profile) for result in results) == 1
    assert all(isinstance(result, Profile | ProfileConflictException) for result in results)


async def test_the_link_of_a_profile_that_is_gone_gives_way(database: Database, directory: ProfileDirectory):
    gone, new = await add(database, profile_name="no handle!"), await add(database)
    await link(database, directory, gone, "anna")
    async with database.transaction() as db:
        (await directory.get(db, gone)).is_active = False
    await link(database, directory, new, "anna")
    assert await used(database, directory, "anna") == new
    async with database.reading() as db:
        assert not (await directory.get(db, gone)).is_linked


async def test_unlinked_profile_follows_the_rule_again(database: Database, directory: ProfileDirectory):
    profile_id = await add(database, profile_name="@Berta", account_id="berta")
    await link(database, directory, profile_id, "anna")
    with pytest.raises(ProfileNotFoundException):
        await used(database, directory, "berta")
    async with database.transaction() as db:
        await directory.unlink(db, profile_id, actor="anna")
    assert await used(database, directory, "berta") == profile_id


async def test_a_quarantined_profile_is_refused_until_it_is_released(
    database: Database, directory: ProfileDirectory
):
    profile_id = await add(
        database, account_id="anna", quarantined_at=utc_now(), quarantine_reason="it runs on"
    )
    with pytest.raises(ProfileQuarantinedException):
        await used(database, directory, "anna")
    async with database.transaction() as db:
        await directory.release(db, profile_id, actor="anna")
    assert await used(database, directory, "anna") == profile_id


async def test_unknown_profile_is_not_found(database: Database, directory: ProfileDirectory):
    with pytest.raises(UnknownProfileException):
        await link(database, directory, "f" * 24, "anna")


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (ProfileFilter(), ["a_1", "b%2", "c"]),
        (ProfileFilter(account_id="anna"), ["a_1"]),
        (ProfileFilter(is_active=False), ["c"]),
        (ProfileFilter(in_use=True), ["b%2"]),
        (ProfileFilter(is_quarantined=True), ["c"]),
        (ProfileFilter(text="B%"), ["b%2"]),
        (ProfileFilter(text="_"), ["a_1"]),
        (ProfileFilter(api_app="AIOTT2"), ["b%2"]),
    ],
    ids=str,
)
async def test_the_list_is_filtered(
    database: Database, directory: ProfileDirectory, wanted: ProfileFilter, names: list[str]
):
    await add(database, profile_name="a_1", account_id="anna")
    await add(database, profile_name="b%2", account_id=None, in_use=True, api_app="AIOTT2")
    await add(database, profile_name="c", account_id=None, is_active=False, quarantined_at=utc_now())
    async with database.reading() as db:
        page = await directory.fetch_page(db, wanted, PageRequest(sort="profile_name"))
    assert ([row.profile_name for row in page.rows], page.total) == (names, Total(len(names)))


async def test_pages_follow_each_other_in_the_order_asked_for(
    database: Database, directory: ProfileDirectory
):
    for name in "bca":
        await add(database, profile_name=name)
    pages = []
    async with database.reading() as db:
        for number in (1, 2, 3):
            wanted = PageRequest(number, 2, sort="profile_name", descending=True)
            page = await directory.fetch_page(db, ProfileFilter(), wanted)
            pages.append([row.profile_name for row in page.rows])
            assert page.total == Total(3)
    assert pages == [["c", "b"], ["a"], []]
