"""The provider's rate limit, learned from answers that succeed: it is kept before a call is refused."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from app.config import Settings
from app.context import Context, open_context
from app.models import Credential, utc_now
from app.utils.exceptions import TokenExpiredException
from sandbox.admin_client import SandboxAdmin
from tests.fixtures.settings import MakeSettings
from tests.fixtures.tokens import TokenChain, due_chains

LIMIT, ACCOUNTS = 30, 100
OTHER_APP = "AIOTT3"


async def left(context: Context, app: str) -> int:
    async with context.database.reading() as db:
        query = select(func.count()).where(Credential.api_app == app, Credential.version == 1)
        return await db.scalar(query) or 0


@asynccontextmanager
async def refreshing(settings: Settings, admin: SandboxAdmin, *, processes: int) -> AsyncIterator[Context]:
    """The refresh workers of so many processes, at accounts of two apps that are all due."""
    async with AsyncExitStack() as stack:
        contexts = [await stack.enter_async_context(open_context(settings)) for _ in range(processes)]
        await due_chains(contexts[0], admin, ACCOUNTS)
        await due_chains(contexts[0], admin, 20, OTHER_APP)
        workers = [context.workers.get("refresh") for context in contexts]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        yield contexts[0]
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)


async def answers(admin: SandboxAdmin) -> Counter[int | None]:
    return Counter(one.status for one in await admin.requests(endpoint="provider.token", limit=10_000))


@pytest.mark.databases("sqlite")
async def test_app_keeps_its_limit_and_delays_no_other(sandbox_settings: MakeSettings, admin: SandboxAdmin):
    await admin.clear_stats()
    await admin.change_settings(token_rate_limits={"AIOTT1": LIMIT}, token_rate_window=1, latency_ms=20)
    async with refreshing(sandbox_settings(), admin, processes=1) as context, asyncio.timeout(60):
        while await left(context, OTHER_APP):
            await asyncio.sleep(0.01)
        assert await left(context, "AIOTT1") >= ACCOUNTS - 2 * LIMIT, "the other app did not wait for it"
        while await left(context, "AIOTT1"):
            await asyncio.sleep(0.05)
    assert await answers(admin) == {200: ACCOUNTS + 20}


async def test_processes_that_count_at_the_same_time_have_few_calls_refused(
    sandbox_settings: MakeSettings, admin: SandboxAdmin
):
    """Each of four takes half of what is left at most, after one answer: 4 + 4 * 13 calls, of which 30 are answered."""
    await admin.clear_stats()
    await admin.change_settings(token_rate_limits={"AIOTT1": LIMIT}, token_rate_window=600, latency_ms=20)
    async with refreshing(sandbox_settings(), admin, processes=4) as context, asyncio.timeout(60):
        while await left(context, "AIOTT1") > ACCOUNTS - LIMIT or await left(context, OTHER_APP):
            await asyncio.sleep(0.01)
    told = await answers(admin)
    assert told[200] == LIMIT + 20
    assert told[429] <= 26


async def test_the_last_call_of_a_window_stops_the_app_in_all_processes(
    chain: TokenChain, sandbox_settings: MakeSettings
):
    await chain.admin.change_settings(token_rate_limits={chain.app: 1}, token_rate_window=600)
    await chain.make_due(lives_for=-1)
    assert (await chain.get_access_token()).row.version == 2
    limited_for = (await chain.app_state()).limited_until - utc_now()
    assert timedelta(seconds=590) < limited_for < timedelta(seconds=602)
    await chain.make_due(lives_for=-1)
    async with open_context(sandbox_settings()) as other:
        for context in (chain.context, other):
            with pytest.raises(TokenExpiredException, match="limits the rate"):
                await chain.get_access_token(by=context)
            assert await context.workers.get("refresh").run_once() == 0
    assert (await chain.calls(), await chain.refreshes()) == (2, 1), "the exchange and one refresh"


async def test_a_process_that_knows_no_limit_finds_out_with_a_few_calls(
    sandbox_settings: MakeSettings, admin: SandboxAdmin
):
    await admin.change_settings(latency_ms=100)
    async with open_context(sandbox_settings()) as process:
        await due_chains(process, admin, 12)
        worker = process.workers.get("refresh")
        assert (await worker.run_once(), await worker.run_once()) == (5, 0)
        await worker.finish_started()
        assert await worker.run_once() == 7, "the answers named no limit"
        await worker.finish_started()
