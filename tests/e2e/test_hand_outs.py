"""A thousand callers at once, in four services on one PostgreSQL: one refresh, and one token that works."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from app.context import open_context
from sandbox.process import SandboxProcess
from tests.e2e.fleet import another_service
from tests.e2e.harness import APP, open_harness
from tests.fixtures.tokens import due_chains

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVICES, CALLERS = 4, 250
"""Callers of each service."""


@pytest.mark.long
async def test_1000_callers_of_4_services_cause_one_refresh(
    sandbox: SandboxProcess, folder: Path, postgresql_url: str
):
    changes = {"database_url": postgresql_url, "database_pool_size": 8}
    async with AsyncExitStack() as stack:
        harness = await stack.enter_async_context(open_harness(sandbox, folder, **changes))
        others = [stack.enter_async_context(another_service(harness)) for _ in range(SERVICES - 1)]
        services = [harness.service, *(await asyncio.gather(*others))]
        context = await stack.enter_async_context(open_context(harness.settings))
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=service.url,
                    headers={"X-API-Key": harness.key},
                    limits=httpx.Limits(max_connections=CALLERS),
                    timeout=60,
                    trust_env=False,
                )
            )
            for service in services
        ]
        await sandbox.admin.set_fault("provider.token", "delay", seconds=0.5, times=1)
        (chain,) = await due_chains(context, sandbox.admin, 1)  # the services' workers see it, too

        async def ask(client: httpx.AsyncClient) -> str:
            answer = await client.get(f"/accounts/{chain.account}/token", params={"api_app": APP})
            assert answer.status_code == 200, answer.text
            return str(answer.json()["data"]["access_token"])

        tokens = await asyncio.gather(*(ask(client) for client in clients for _ in range(CALLERS)))
        assert await chain.refreshes() == 1
        assert len(tokens) == SERVICES * CALLERS
        assert len(set(tokens)) == 1
        assert await harness.owner(tokens[0]) == chain.account
        assert len(await chain.events("token.read")) == SERVICES * CALLERS, "every read is in the audit"
