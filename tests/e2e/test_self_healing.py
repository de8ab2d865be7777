"""A chain that its owner has revoked is repaired in a real browser; a person is asked only where that fails."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from app.models import AuthorizationSession, Event, WorkerRun
from sandbox.process import SandboxProcess
from tests.e2e.harness import APP, ServiceHarness, open_harness
from tests.fixtures.waiting import eventually

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("self_healing"),
    pytest.mark.timeout(240),
]

A_DAY = 2


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def healing(sandbox: SandboxProcess, folder: Path) -> AsyncIterator[ServiceHarness]:
    # Attempts are for a browser that does not come up on a busy machine.
    changes = {"repair_interval": 0.1, "repair_per_day": A_DAY, "max_attempts": 5, "retry_wait": 0.1}
    async with open_harness(sandbox, folder, **changes) as harness:
        yield harness


async def call(harness: ServiceHarness, method: str, account: str, action: str) -> dict[str, Any]:
    answer = await harness.call(method, f"/accounts/{account}/{action}", params={"api_app": APP})
    body: dict[str, Any] = answer.json()
    return body


async def import_tokens(harness: ServiceHarness, account: str) -> None:
    """Tokens of the account, for which no browser is started."""
    (grant,) = await harness.admin.give_grants(APP, [account])
    file = harness.folder / "tokens.csv"
    row = f"{account},{APP},{grant.access_token},{grant.refresh_token}"
    file.write_text(f"account_id,api_app,access_token,refresh_token\n{row}\n")
    assert "1 stored" in await harness.service.run("accounts", "import", str(file))


async def session_of_repair(harness: ServiceHarness, account: str) -> str:
    """As the hand-out names it."""

    async def named() -> str | None:
        body = await call(harness, "GET", account, "token")
        assert body["error_code"] == "REAUTHORIZATION_REQUIRED", body
        found: str | None = body["data"]["session_id"]
        return found

    return str(await eventually(named, 60))


async def repairs_of(harness: ServiceHarness, account: str) -> list[AuthorizationSession]:
    query = select(AuthorizationSession).where(
        AuthorizationSession.account_id == account, AuthorizationSession.requested_by == "self-healing"
    )
    async with harness.reading() as db:
        return list(await db.scalars(query))


async def event_types(harness: ServiceHarness, account: str) -> list[str]:
    query = select(Event.event_type).where(Event.account_id == account).order_by(Event.id)
    async with harness.reading() as db:
        return list(await db.scalars(query))


async def next_look(harness: ServiceHarness) -> None:
    """A further look for broken accounts has ended."""

    async def last() -> Any:
        async with harness.reading() as db:
            return await db.scalar(select(WorkerRun.last_success_at).where(WorkerRun.name == "repair"))

    known = await last()

    async def is_later() -> bool:
        return bool(await last() != known)

    await eventually(is_later, 60)


async def test_revoked_chain_is_repaired(healing: ServiceHarness, account: str):
    session = await healing.authorize(account)
    assert session["status"] == "completed", session
    await healing.admin.revoke_grants(account)
    await healing.admin.set_fault("local.start", "delay", account=account, seconds=4, times=1)
    assert (await call(healing, "POST", account, "verify"))["error_code"] == "REAUTHORIZATION_REQUIRED"
    session = await healing.ended(await session_of_repair(healing, account))
    assert session["status"] == "completed", session
    handed = (await call(healing, "GET", account, "token"))["data"]
    assert await healing.owner(handed["access_token"]) == account
    assert (await call(healing, "POST", account, "verify"))["data"]["is_same_account"]
    types = [kind for kind in await event_types(healing, account) if kind.startswith("credential.")]
    assert types == ["credential.stored", "credential.broken", "credential.recovered"]
    assert len(await repairs_of(healing, account)) == 1
    await healing.nothing_left(account)


@pytest.mark.long
async def test_failed_repair_asks_for_a_person_once(healing: ServiceHarness, account: str):
    """The next session of its own would come a day later."""
    await import_tokens(healing, account)
    await healing.admin.revoke_grants(account)
    await healing.admin.set_fault("provider.authorize", "signed_out", account=account)
    assert (await call(healing, "POST", account, "verify"))["error_code"] == "REAUTHORIZATION_REQUIRED"

    async def tried() -> list[AuthorizationSession]:
        sessions = await repairs_of(healing, account)
        return sessions if sessions and all(each.completed_at for each in sessions) else []

    sessions = await eventually(tried)
    assert {(each.status, each.error_code) for each in sessions} == {("needs_attention", "LOGIN_REQUIRED")}
    for _ in range(2):  # the first may have begun before
        await next_look(healing)
    assert len(await repairs_of(healing, account)) == 1
    answer = await call(healing, "GET", account, "token")
    assert (answer["error_code"], answer["data"]) == ("REAUTHORIZATION_REQUIRED", {"session_id": None})

    await healing.admin.clear_faults(account)  # a person has signed in
    assert (await healing.authorize(account))["status"] == "completed"
    handed = (await call(healing, "GET", account, "token"))["data"]
    assert await healing.owner(handed["access_token"]) == account
    assert (await event_types(healing, account)).count("credential.recovered") == 1
