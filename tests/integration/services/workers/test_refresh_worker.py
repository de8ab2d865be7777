"""The refresh worker: what is due, many at once, one at a time for each account; and an end without loose threads."""

import asyncio

import pytest
from sqlalchemy import text, update

from app.context import Context, open_context
from app.models import Credential, CredentialStatus, utc_now
from app.services.batches.account_actions import AccountAction
from app.services.keys.service import COMMAND_LINE
from app.services.tokens.account_views import AccountSelection
from sandbox.admin_client import SandboxAdmin
from tests.fixtures.costs import statements_of
from tests.fixtures.factories import new_tokens
from tests.fixtures.settings import MakeSettings
from tests.fixtures.tokens import TokenChain, due_chains
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


async def versions(chains: list[TokenChain]) -> list[int]:
    return [(await chain.active_row()).version for chain in chains]


async def is_forgotten(chain: TokenChain) -> bool:
    return await chain.row() is None


async def test_worker_refreshes_only_due_tokens(chain: TokenChain, admin: SandboxAdmin):
    due = await due_chains(chain.context, admin, 3)
    worker = chain.context.workers.get("refresh")
    assert await worker.run_once() == 3
    await worker.finish_started()
    assert await versions([*due, chain]) == [2, 2, 2, 1]
    assert await worker.run_once() == 0


@pytest.mark.databases("sqlite", "postgresql")
async def test_look_at_nothing_due_is_one_statement_and_waits_for_no_writer(chain: TokenChain):
    database = chain.context.database
    async with database.transaction() as db:  # with SQLite's lock
        await db.execute(update(Credential).values(provider_user_id="2"))
        with statements_of(database) as seen:
            async with asyncio.timeout(5):
                assert await chain.context.workers.get("refresh").run_once() == 0
    assert len(seen) == 1
    await chain.make_due()
    assert await chain.context.workers.get("refresh").run_once() == 1


async def test_a_due_row_without_a_refresh_token_is_left_alone(chain: TokenChain):
    await chain.store(new_tokens(refresh_token=None))
    await chain.make_due()
    assert await chain.context.workers.get("refresh").run_once() == 0


@pytest.mark.databases("sqlite")
async def test_worker_refreshes_as_many_at_once_as_allowed(
    sandbox_settings: MakeSettings, sandbox_context: Context, admin: SandboxAdmin
):
    due = await due_chains(sandbox_context, admin, 5)
    for chain in due:
        await admin.set_fault("provider.token", "delay", seconds=0.3, times=1, account=chain.account)
    async with open_context(sandbox_settings(refresh_concurrency=3)) as process:
        worker = process.workers.get("refresh")
        assert await worker.run_once() == 3
        assert len(worker.in_flight) == 3
        while await worker.run_once():
            assert len(worker.in_flight) <= 3
        await worker.finish_started()
    assert await versions(due) == [2] * 5


@pytest.mark.databases("sqlite", "postgresql")
async def test_two_processes_refresh_each_account_once(
    sandbox_settings: MakeSettings, sandbox_context: Context, admin: SandboxAdmin
):
    due = await due_chains(sandbox_context, admin, 12)
    async with open_context(sandbox_settings()) as other:
        workers = [process.workers.get("refresh") for process in (sandbox_context, other)]
        while sum(await asyncio.gather(*(worker.run_once() for worker in workers))):
            await asyncio.gather(*(worker.finish_started() for worker in workers))
    assert [await chain.refreshes() for chain in due] == [1] * 12


@pytest.mark.databases("sqlite")
async def test_a_stop_waits_for_what_is_in_flight_and_takes_no_more(
    sandbox_settings: MakeSettings, sandbox_context: Context, admin: SandboxAdmin
):
    due = await due_chains(sandbox_context, admin, 2)
    for chain in due:
        await admin.set_fault("provider.token", "delay", seconds=0.5, times=1, account=chain.account)
    async with open_context(sandbox_settings(refresh_concurrency=1)) as process:
        worker = process.workers.get("refresh")
        task = asyncio.create_task(worker.run())
        await eventually(lambda: worker.in_flight)
        worker.stop()
        await task
    assert sorted(await versions(due)) == [1, 2]
    rows = [await chain.active_row() for chain in due]
    assert [row.lease_token for row in rows] == [None, None]


@pytest.mark.databases("sqlite")
async def test_a_process_that_closes_waits_for_the_refreshes_of_its_callers(
    chain: TokenChain, sandbox_settings: MakeSettings
):
    await chain.admin.set_fault("provider.token", "delay", seconds=0.5, times=1, account=chain.account)
    await chain.make_due()
    async with open_context(sandbox_settings()) as process:
        asking = asyncio.create_task(chain.get_access_token(by=process))
        await eventually(chain.is_spending)
        asking.cancel()
    row = await chain.active_row()
    assert (row.version, row.spending_version) == (2, None)


@pytest.mark.databases("sqlite")
async def test_idle_worker_looks_for_revocations_now_and_then_and_when_it_is_told(
    chain: TokenChain, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("app.services.workers.refresh_worker._POLL_INTERVAL", 0.01)
    monkeypatch.setattr("app.services.workers.refresh_worker._REVOKE_INTERVAL", 3600.0)
    context = chain.context
    worker = context.workers.get("refresh")
    with statements_of(context.database) as seen:
        task = asyncio.create_task(worker.run())
        await eventually(lambda: len(seen) > 10)
        assert sum("revoking" in parameters for _, parameters in seen) == 1
    selection = AccountSelection(account_ids=[chain.account])
    async with context.database.transaction() as db:
        await context.accounts.actions.run(
            db, AccountAction.REVOKE, selection, expected_count=1, caller=COMMAND_LINE
        )
    await eventually(lambda: is_forgotten(chain))
    worker.stop()
    await task


@pytest.mark.databases("sqlite")
async def test_failed_look_for_revocations_is_repeated_soon(
    chain: TokenChain, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("app.services.workers.refresh_worker._POLL_INTERVAL", 0.01)
    monkeypatch.setattr("app.services.workers.refresh_worker._REVOKE_INTERVAL", 3600.0)
    await chain.change(status=CredentialStatus.REVOKING, refresh_due_at=utc_now())
    worker = chain.context.workers.get("refresh")
    async with chain.context.database.transaction() as db:
        await db.execute(text("ALTER TABLE credentials RENAME TO away"))
    task = asyncio.create_task(worker.run())
    await eventually(lambda: worker.status.consecutive_failures > 1)
    async with chain.context.database.transaction() as db:
        await db.execute(text("ALTER TABLE away RENAME TO credentials"))
    await eventually(lambda: is_forgotten(chain))
    worker.stop()
    await task
    assert await chain.calls("provider.revoke") == 1


async def test_many_tokens_do_not_come_due_together(chain: TokenChain):
    dues = set()
    for _ in range(20):
        await chain.store(new_tokens())
        row = await chain.active_row()
        assert 7200 - 900 - 1800 - 5 < (row.refresh_due_at - utc_now()).total_seconds() <= 7200 - 900
        dues.add(round((row.token_expires_at - row.refresh_due_at).total_seconds()))
    assert len(dues) > 10
