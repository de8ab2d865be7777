"""A sync of many profiles: exact counts, nothing written that did not change, and the same few statements a page."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

import pytest
import pytest_asyncio
from sqlalchemy import event, func, select

from app.clients.browsers.profile_browser import ProfileBrowserClient, ProfilePage
from app.context import Context, open_context
from app.database import Database
from app.models import Profile, utc_now
from app.services.profiles.account_rule import AccountRule
from app.services.profiles.sync import ProfileSyncService
from sandbox.admin_client import SandboxAdmin
from sandbox.process import SandboxProcess
from sandbox.state import profile_id_of
from tests.fixtures.settings import MakeSettings

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

MANY, FEW = 600, 300
PAGE = 30
PERCENT = MANY // 100
FIRST_PASS = FEW // PAGE + 1
"""Pages that are asked for, with the empty one at the end."""

AfterPage = Callable[[int], Awaitable[None]]


class Watched:
    """The real client; `after_page` is called with the number of the call once its page is here."""

    def __init__(self, client: ProfileBrowserClient, after_page: AfterPage) -> None:
        self._client = client
        self._after_page = after_page
        self._calls = itertools.count(1)
        self.pages: list[int] = []
        self.asked_for: list[str] = []

    async def list_profiles(self, page: int) -> ProfilePage:
        found = await self._client.list_profiles(page)
        self.pages.append(page)
        await self._after_page(next(self._calls))
        return found

    async def profile_exists(self, profile_id: str) -> bool:
        self.asked_for.append(profile_id)
        return await self._client.profile_exists(profile_id)


class Statements:
    """Counts what the engine is asked to do."""

    def __init__(self, database: Database) -> None:
        self.all = 0
        self.writes_to_profiles = 0
        event.listen(database.engine.sync_engine, "before_cursor_execute", self._count)

    def _count(self, _connection, _cursor, statement: str, *_rest) -> None:
        self.all += not statement.startswith("BEGIN")  # SQLite's is a statement
        self.writes_to_profiles += statement.lstrip().startswith(
            ("INSERT INTO profiles ", "UPDATE profiles ", "DELETE FROM profiles ")
        )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def crowd() -> AsyncIterator[SandboxProcess]:
    async with SandboxProcess(accounts=1) as sandbox:
        yield sandbox


@pytest.fixture
def admin(crowd: SandboxProcess) -> SandboxAdmin:
    return crowd.admin


@pytest.fixture
def info(crowd: SandboxProcess):
    """Addresses for `sandbox_settings`."""
    return crowd.info


@pytest_asyncio.fixture
async def context(sandbox_settings: MakeSettings) -> AsyncIterator[Context]:
    async with open_context(sandbox_settings(gologin_requests_per_minute=10_000_000)) as opened:
        yield opened


def watch(context: Context, after_page: AfterPage, **numbers: int) -> tuple[Watched, ProfileSyncService]:
    watched = Watched(context.fleet.client, after_page)
    rule = AccountRule(source=context.settings.profile_rule, pattern=context.settings.profile_rule_pattern)
    return watched, ProfileSyncService(database=context.database, client=watched, rule=rule, **numbers)


def account(number: int) -> str:
    return f"sandbox_{number:03d}"


async def ids(database: Database, *conditions: object) -> set[str]:
    async with database.reading() as db:
        return set(await db.scalars(select(Profile.profile_id).where(*conditions)))


async def changed_since(database: Database, moment: datetime) -> int:
    async with database.reading() as db:
        return await db.scalar(select(func.count()).where(Profile.updated_at >= moment)) or 0


async def test_counts_are_exact_and_a_pass_without_a_change_writes_nothing(
    context: Context, database: Database, admin: SandboxAdmin
):
    await admin.reset_profiles(MANY)
    first = await context.fleet.gologin.sync_profiles()
    assert (first.pages, first.seen, first.created) == (MANY // PAGE, MANY, MANY)
    assert (first.updated, first.returned, first.gone, first.conflicts) == (0, 0, 0, 0)

    moment, statements = utc_now(), Statements(context.database)
    second = await context.fleet.gologin.sync_profiles()
    assert (second.seen, second.created, second.updated, second.returned, second.gone) == (MANY, 0, 0, 0, 0)
    assert statements.all > second.pages
    assert (statements.writes_to_profiles, await changed_since(database, moment)) == (0, 0)

    renamed = [account(number) for number in range(100, MANY, 100)]
    removed = [account(number) for number in range(50, MANY, 100)]
    added = [f"added_{number}" for number in range(PERCENT)]
    for name in renamed:
        await admin.rename_profile(name, f"{name}_new")
    for name in removed:
        await admin.remove_profile(name)
    for name in added:
        await admin.add_profile(name)
    moment = utc_now()
    third = await context.fleet.gologin.sync_profiles()
    assert (third.seen, third.created, third.updated, third.gone) == (
        MANY,
        len(added),
        len(renamed),
        len(removed),
    )
    assert (third.returned, third.conflicts) == (0, 0)
    assert await changed_since(database, moment) == len(added) + len(renamed) + len(removed)
    assert await ids(database, ~Profile.is_active) == {profile_id_of(name) for name in removed}
    new_names = {profile_id_of(name) for name in renamed}
    assert await ids(database, Profile.profile_name.endswith("_new")) == new_names

    for name in removed:
        await admin.add_profile(name)
    fourth = await context.fleet.gologin.sync_profiles()
    assert (fourth.returned, fourth.created, fourth.updated, fourth.gone) == (len(removed), 0, 0, 0)
    assert await ids(database, ~Profile.is_active) == set()


@pytest.mark.databases("sqlite", "postgresql")
async def test_every_page_costs_the_same_statements_however_many_there_are(
    context: Context, admin: SandboxAdmin
):
    statements = Statements(context.database)
    marks: list[int] = []

    async def note(_call: int) -> None:
        marks.append(statements.all)

    _, syncs = watch(context, note)

    async def costs(first_page: int = 2) -> set[int]:
        """Statements of each page from `first_page`; the first of all finds no row for the budget yet."""
        marks.clear()
        await syncs.run()
        return {after - before for before, after in itertools.pairwise(marks[first_page - 1 :])}

    await admin.reset_profiles(FEW)
    new, unchanged = await costs(), await costs()
    await admin.reset_profiles(MANY)
    new_of_many, unchanged_of_many = await costs(FEW // PAGE + 1), await costs()
    assert len(new) == len(unchanged) == 1
    assert (new_of_many, unchanged_of_many) == (new, unchanged)
    assert (unchanged, new) == ({2}, {3}), "the budget's place, one read, and one write if anything changed"


@pytest.mark.databases("sqlite")
async def test_a_profile_that_moved_to_a_page_that_was_read_is_not_lost(
    context: Context, database: Database, admin: SandboxAdmin
):
    await admin.reset_profiles(FEW)
    await context.fleet.gologin.sync_profiles()
    await admin.remove_profile(account(200))

    async def remove_an_early_one(call: int) -> None:
        if call == 3:
            await admin.remove_profile(account(10))

    watched, syncs = watch(context, remove_an_early_one)
    result = await syncs.run()
    moved = profile_id_of(account(91))
    assert sorted(watched.asked_for) == sorted([moved, profile_id_of(account(200))])
    assert watched.pages == list(range(1, FIRST_PASS + 1)), "few are asked for by themselves"
    assert result.gone == 1
    assert await ids(database, ~Profile.is_active) == {profile_id_of(account(200))}
    # The one that went after it was seen is found gone by the next pass.
    assert (await syncs.run()).gone == 1
    assert await ids(database, ~Profile.is_active) == {profile_id_of(account(n)) for n in (10, 200)}


@pytest.mark.databases("sqlite")
async def test_many_moved_profiles_are_searched_in_a_second_pass(
    context: Context, database: Database, admin: SandboxAdmin
):
    """Profiles that move during the second pass, over the same place, are met all the same."""
    await admin.reset_profiles(FEW)
    await context.fleet.gologin.sync_profiles()
    gone = [account(number) for number in range(250, 260)]
    for name in gone:
        await admin.remove_profile(name)

    removals = {3: 15, FIRST_PASS + 2: 30, FIRST_PASS + 6: 30}

    async def remove_early_ones(call: int) -> None:
        for name in (await admin.info()).accounts[: removals.get(call, 0)]:
            await admin.remove_profile(name)

    watched, syncs = watch(context, remove_early_ones, max_lookups=0)
    result = await syncs.run()
    assert watched.asked_for == []
    assert len(watched.pages) > FIRST_PASS, "many are looked for in the list"
    assert result.gone == len(gone)
    assert await ids(database, ~Profile.is_active) == {profile_id_of(name) for name in gone}
