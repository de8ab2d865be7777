"""Keys are replaced while tokens are handed out and refreshed: no read fails, and no newer token is lost."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
import pytest_asyncio
from sqlalchemy import func, select, update

from app.context import Context, open_context
from app.models import Credential, Event
from app.services.tokens import key_audit, key_rotation
from app.services.tokens.key_rotation import RotationReport
from app.utils.exceptions import DecryptionException
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from tests.fixtures.key_lists import APP, access_token, fill, key_list
from tests.fixtures.services import OpenContext
from tests.fixtures.settings import MakeSettings
from tests.fixtures.tokens import TokenChain
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

BEFORE, AFTER = key_list("old", "new"), key_list("new", "old")


@pytest_asyncio.fixture
async def before(sandbox_settings: MakeSettings) -> AsyncIterator[Context]:
    """A process that writes by the old key, and knows the new one."""
    async with open_context(sandbox_settings(encryption_keys=BEFORE)) as context:
        yield context


@pytest_asyncio.fixture
async def after(sandbox_settings: MakeSettings) -> AsyncIterator[Context]:
    """One whose settings have been changed: it writes by the new key."""
    async with open_context(sandbox_settings(encryption_keys=AFTER)) as context:
        yield context


@pytest_asyncio.fixture
async def chain(before: Context, admin: SandboxAdmin, profile: ProfileInfo) -> TokenChain:
    made = TokenChain(before, admin, profile.account)
    await made.authorize()
    return made


@pytest_asyncio.fixture
async def chains(admin: SandboxAdmin, chain: TokenChain) -> AsyncIterator[list[TokenChain]]:
    """Five accounts."""
    more = [await admin.add_profile(f"{chain.account}_{number}"[:15]) for number in range(4)]
    found = [chain, *(replace(chain, account=profile.account) for profile in more)]
    for one in found[1:]:
        await one.authorize()
    yield found
    for profile in more:
        await admin.remove_profile(profile.account)


async def rotate(context: Context) -> RotationReport:
    return await key_rotation.rotate(context.database, context.tokens.vault, actor="tests", batch_size=20)


async def rows_of(context: Context) -> Sequence[Credential]:
    async with context.database.reading() as db:
        return (await db.scalars(select(Credential).order_by(Credential.id))).all()


async def key_ids(context: Context) -> set[str]:
    return set((await key_audit.audit(context.database, context.tokens.vault)).values)


async def test_two_key_lists_side_by_side_read_each_others_values(
    chain: TokenChain, before: Context, after: Context
):
    """A rolling deploy: each refreshes what the other has written."""
    for version, process in enumerate((after, before, after), start=2):
        for reader in (before, after):
            assert (await chain.get_access_token(by=reader)).row.version == version - 1
        assert (await chain.get_access_token(by=process, force=True)).row.version == version
    row = await chain.active_row()
    assert row.access_token.startswith("new:")
    assert (await chain.who((await chain.get_access_token(by=before)).access_token)).username == chain.account


async def test_rotation_changes_the_values_and_nothing_else(before: Context, after: Context):
    accounts = await fill(before, 45)
    rows = await rows_of(before)
    done: list[int] = []
    report = await key_rotation.rotate(
        after.database, after.tokens.vault, actor="tests", progress=done.append, batch_size=20
    )
    assert (report.rotated, report.left, report.is_complete, done) == (45, 0, True, [20, 40, 45])
    changed = await rows_of(after)
    for old, new, account in zip(rows, changed, accounts, strict=True):
        assert new.access_token.startswith("new:")
        assert new.refresh_token is not None
        assert new.refresh_token.startswith("new:")
        assert before.tokens.vault.access_token(new).get_secret_value() == access_token(account)
        assert before.tokens.vault.refresh_token(new) == after.tokens.vault.refresh_token(old)
        for name in ("version", "updated_at", "oauth_token_secret", "token_expires_at", "refresh_due_at"):
            assert getattr(old, name) == getattr(new, name)
    async with after.database.reading() as db:
        (event,) = await db.scalars(select(Event).where(Event.event_type == "secrets.rotated"))
    assert event.data == {
        "key_id": "new",
        "old_key_ids": ["old"],
        "rotated": 45,
        "unreadable": 0,
        "left": 0,
    }
    assert (await rotate(after)).rotated == 0


@pytest.mark.databases("sqlite", "postgresql")
async def test_key_ids_that_differ_by_case_alone_are_distinct(open_services: OpenContext):
    async with open_services(encryption_keys=key_list("K1", "k1")) as first:
        await fill(first, 3)
        assert (await rotate(first)).rotated == 0
    async with open_services(encryption_keys=key_list("k1", "K1")) as second:
        assert (await rotate(second)).rotated == 3
        assert await key_ids(second) == {"k1"}


@pytest.mark.databases("sqlite", "postgresql")
async def test_two_rotations_at_once_share_the_rows(
    before: Context, after: Context, open_services: OpenContext
):
    await fill(before, 200)
    async with open_services(encryption_keys=AFTER) as other:
        reports = await asyncio.gather(rotate(after), rotate(other))
    assert sum(report.rotated for report in reports) == 200
    assert all(report.is_complete for report in reports)
    assert await key_ids(after) == {"new"}


async def test_a_value_copied_to_another_row_is_found_and_left(before: Context, after: Context):
    first, second, third = await fill(before, 3)
    rows = {row.account_id: row for row in await rows_of(before)}
    async with before.database.transaction() as db:
        await db.execute(
            update(Credential)
            .where(Credential.account_id == second)
            .values(refresh_token=rows[first].refresh_token)
        )
    async with before.database.transaction() as db:
        await db.execute(
            update(Credential).where(Credential.account_id == third).values(access_token="not-encrypted")
        )
    with pytest.raises(DecryptionException):
        await before.tokens.credentials.get_access_token(third, APP, min_ttl=0, actor="tests")
    report = await rotate(after)
    assert (report.rotated, report.left, report.is_complete) == (1, 0, False)
    assert report.unreadable == [(second, APP), (third, APP)]
    found = await key_audit.audit(after.database, after.tokens.vault)
    assert found.unreadable == report.unreadable
    assert found.missing_key_ids == set()
    assert found.values == {"new": 2, "old": 2}
    kept = {row.account_id: row for row in await rows_of(after)}
    assert kept[second].refresh_token == rows[first].refresh_token


async def test_a_key_that_is_gone_is_named(open_services: OpenContext, after: Context):
    async with open_services(encryption_keys=key_list("gone")) as earlier:
        accounts = await fill(earlier, 30)
    report = await rotate(after)
    assert (report.rotated, len(report.unreadable)) == (0, 30)
    found = await key_audit.audit(after.database, after.tokens.vault)
    assert (found.missing_key_ids, found.values.total()) == ({"gone"}, 0)
    assert found.unreadable == [(account, APP) for account in accounts]


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_token_refreshed_meanwhile_is_not_overwritten(
    chain: TokenChain, after: Context, monkeypatch: pytest.MonkeyPatch
):
    """Between the read and the write of its batch, by a process that writes by the old key."""
    write = key_rotation._write
    written = []

    async def refreshed_first(*arguments):
        if not written:
            await chain.get_access_token(force=True)
        written.append(await write(*arguments))
        return written[-1]

    monkeypatch.setattr(key_rotation, "_write", refreshed_first)
    report = await rotate(after)
    assert (written, report.rotated, report.is_complete) == ([0, 1], 1, True)
    assert (await chain.get_access_token(force=True, by=after)).row.version == 3, (
        "the refresh token is the latest"
    )
    assert await chain.usable_grants() == 1


async def test_rows_that_keep_being_written_with_the_old_key_are_reported(
    chain: TokenChain, after: Context, monkeypatch: pytest.MonkeyPatch
):
    count = key_rotation.count_outdated

    async def refreshed_first(*arguments):
        await chain.get_access_token(force=True)
        return await count(*arguments)

    monkeypatch.setattr(key_rotation, "count_outdated", refreshed_first)
    report = await rotate(after)
    assert (report.left, report.is_complete) == (1, False)


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.databases("postgresql")
async def test_a_row_that_somebody_holds_is_not_waited_for(before: Context, after: Context):
    accounts = await fill(before, 50)
    held = select(Credential).where(Credential.account_id == accounts[7]).with_for_update()
    async with before.database.transaction() as db:
        await db.scalar(held)
        async with asyncio.timeout(30):
            report = await rotate(after)
    assert (report.rotated, report.left) == (49, 1)
    assert (await rotate(after)).rotated == 1


@pytest.mark.databases("sqlite", "postgresql")
async def test_rotation_under_hand_outs_and_refreshes(
    before: Context, after: Context, chains: list[TokenChain]
):
    """Two processes with different key lists go on all the time."""
    accounts = await fill(before, 300)
    stop, done = asyncio.Event(), Counter[str]()

    async def read(context: Context, step: int) -> None:
        for position in itertools.count(step, 7):
            account = accounts[position % len(accounts)]
            handed = await context.tokens.credentials.get_access_token(account, APP, min_ttl=0, actor="tests")
            assert handed.access_token.get_secret_value() == access_token(account)
            done["reads"] += 1
            if stop.is_set():
                return

    async def refresh(one: TokenChain, process: Context) -> None:
        while not stop.is_set():
            await one.get_access_token(force=True, by=process)
            done["refreshes"] += 1

    async with asyncio.TaskGroup() as group:
        for step, context in enumerate((before, after, before, after)):
            group.create_task(read(context, step))
        for one in chains:
            group.create_task(refresh(one, after))
        await eventually(lambda: done["reads"] > 10 and done["refreshes"] > 2, 30)
        under_way = done.copy()
        reports = await asyncio.gather(rotate(after), rotate(after))
        await eventually(lambda: under_way < done, 30)
        stop.set()
    assert sum(report.rotated for report in reports) >= 300
    assert await key_ids(after) == {"new"}
    assert (await key_audit.audit(after.database, after.tokens.vault)).values.total() == 2 * (
        300 + len(chains)
    )
    for one in chains:
        token = (await one.get_access_token(force=True, by=before)).access_token
        assert (await one.who(token)).username == one.account
    async with after.database.reading() as db:
        broken = await db.scalar(
            select(func.count()).select_from(Event).where(Event.event_type == "credential.broken")
        )
    assert broken == 0
