"""`kill -9` at every step of a refresh: shortly on both databases, `make kills` at length.

After each kill a new process starts. In the end each account has a token that works, also where that took a browser:
there, and only there, nobody could know whether the refresh token was spent. None is spent twice.
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from app.context import Context, open_context
from app.models import CredentialStatus
from app.services.tokens.refresh_leases import AMBIGUOUS
from app.utils.exceptions import ReauthorizationRequiredException
from sandbox.demo.service_process import ServiceProcess
from sandbox.process import SandboxProcess
from tests.e2e.children import Command, Commands, commands
from tests.e2e.harness import ServiceHarness, environment_for
from tests.fixtures.tokens import TokenChain
from tests.fixtures.waiting import eventually


@dataclass(frozen=True)
class Step:
    """`point`: of `tests.fixtures.kill_points`, or what the sandbox's fault makes of the call."""

    point: str
    done: str
    repaired: bool
    """By a new authorization in its browser; else its tokens are there, or are got by the next process."""
    fault: tuple[str, dict[str, Any]] | None = None
    revoked: bool = False


STEPS: Final = (
    Step("due", "nothing", False),
    Step("taking", "marked, not committed", False),
    Step("taken", "marked", True),
    Step("asked", "the call is made, nothing is rotated", True, fault=("hang", {})),
    Step("rotated", "the provider has rotated", True, fault=("hang_after", {})),
    Step("answered", "the answer is here", True),
    Step("saving", "saved, not committed", True),
    Step("saved", "saved", False),
    Step("spilling", "not taken by the database, half spilled", True),
    Step("spilled", "not taken by the database, spilled", False),
    Step("picked_up", "saved, and spilled still", False),
    Step("breaking", "told that it is revoked, not committed", True, revoked=True),
    Step("giving_back", "told to try later, not committed", True, fault=("status", {"status": 503})),
)
AT_LENGTH: Final = "KILLS" in os.environ
KILLS: Final = int(os.environ.get("KILLS", len(STEPS)))

KILLED: Final = {"LEASE_SECONDS": "1", "OAUTH_API_TIMEOUT": "5", "REPAIR_APPS": "[]"}
"""What differs in the processes that are killed: a refresh's lease is the sum; repairs are left to the last one."""


@dataclass
class Killed:
    step: Step
    chain: TokenChain


@asynccontextmanager
async def surroundings(
    folder: Path, database_url: str
) -> AsyncIterator[tuple[ServiceHarness, Context, Commands]]:
    """The house's service is not started."""
    changes = {
        "repair_interval": 0.2,
        "repair_at_once": 8,  # as many as the short form needs, without a browser
        "max_attempts": 5,
        "token_spill_folder": folder / "spilled",
    }
    async with SandboxProcess(accounts=KILLS, data_dir=folder / "profiles") as sandbox:
        environment = environment_for(sandbox, folder, database_url=database_url, **changes)
        harness = ServiceHarness(sandbox, ServiceProcess(folder, environment), environment, folder)
        async with open_context(harness.settings) as context, commands(folder / "killed") as run:
            await context.fleet.gologin.sync_profiles()
            yield harness, context, run


async def kill_at(
    step: Step, chain: TokenChain, harness: ServiceHarness, run: Commands, earlier: Sequence[Killed]
) -> None:
    """A new process, which first gets for earlier accounts what can be got without a browser."""
    if step.revoked:
        await chain.admin.revoke_grants(chain.account)
    if step.fault is not None:
        kind, details = step.fault
        await chain.admin.set_fault("provider.token", kind, account=chain.account, times=1, **details)
    watched = {"KILL_POINT": step.point, "KILL_ACCOUNT": chain.account}
    command = await run.start(
        "serve", environment=harness.environment | KILLED | watched, prelude="tests.fixtures.kill_points"
    )
    try:
        await eventually(lambda: are_settled([each for each in earlier if not each.step.repaired]), 60)
        await chain.make_due()
        await eventually(lambda: is_there(step, chain, command), 60)
    finally:
        command.kill()
    assert (await command.ended()).code == -9


async def is_there(step: Step, chain: TokenChain, command: Command) -> bool:
    if step.point == "asked":
        return await chain.calls() == 2  # the code's exchange, and this one
    if step.point == "rotated":
        return await chain.refreshes() == 1
    return psutil.Process(command.pid).status() == psutil.STATUS_STOPPED


async def are_settled(killed: Sequence[Killed]) -> bool:
    rows = [await each.chain.active_row() for each in killed]
    return all(row.status is CredentialStatus.ACTIVE and row.version == 2 for row in rows)


async def repair(harness: ServiceHarness, killed: Sequence[Killed]) -> None:
    """The service does it all, in real browsers."""
    await harness.service.start()
    try:
        await eventually(lambda: are_settled(killed), 60 + 5 * KILLS)
    finally:
        await harness.service.stop()


async def repair_without_browser(context: Context, killed: Sequence[Killed]) -> None:
    """The service's workers find what must be repaired; the authorizations that they ask for are given by HTTP."""
    refresh, repair = context.workers.get("refresh"), context.workers.get("repair")
    repaired = [each for each in killed if each.step.repaired]

    async def are_broken() -> bool:
        await refresh.run_once()
        rows = [await each.chain.active_row() for each in repaired]
        return all(row.status is CredentialStatus.REAUTHORIZATION_REQUIRED for row in rows)

    await context.tokens.refresher.pick_up_spilled()
    await eventually(are_broken, 60)
    await refresh.finish_started()
    await repair.run_once()
    for each in repaired:
        with pytest.raises(ReauthorizationRequiredException) as caught:
            await each.chain.get_access_token()
        assert caught.value.data["session_id"], each.step
        await each.chain.authorize()
    assert await are_settled(killed)


async def check_outcome(one: Killed) -> None:
    chain, point = one.chain, one.step.point
    row = await chain.active_row()
    assert (row.spending_version, row.lease_token) == (None, None), point
    broken = [event.data["reason"] for event in await chain.events("credential.broken")]
    assert broken == ([AMBIGUOUS] if one.step.repaired else []), point
    assert len(await chain.events("credential.recovered")) == len(broken), point
    for force, version in ((False, 2), (True, 3)):  # the chain goes on
        handed = await chain.get_access_token(force=force)
        assert handed.row.version == version, point
        assert (await chain.who(handed.access_token)).username == chain.account, point
    assert await chain.usable_grants() == 1, point


@pytest.mark.begin_early
@pytest.mark.timeout(120 + 10 * KILLS)
@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)
async def test_no_chain_is_broken_silently(tmp_path: Path, database_url: str):
    killed: list[Killed] = []
    async with surroundings(tmp_path, database_url) as (harness, context, run):
        for step, account in zip(cycle(STEPS), harness.sandbox.info.accounts, strict=False):
            chain = TokenChain(context, harness.admin, account)
            await chain.authorize()
            await kill_at(step, chain, harness, run, killed)
            killed.append(Killed(step, chain))
        await (repair(harness, killed) if AT_LENGTH else repair_without_browser(context, killed))
        for one in killed:
            await check_outcome(one)
        assert (await harness.admin.stats()).refresh_tokens_reused_by_account == {}
    print(f"\n{table(killed)}")


def table(killed: Sequence[Killed]) -> str:
    """Return the table of the kills that passed the checks."""
    lines = []
    for step in STEPS:
        count = sum(one.step is step for one in killed)
        end = "a new authorization" if step.repaired else "no browser"
        lines.append(f"{count:3} x {step.point:12} {step.done:42} then {end}")
    return "\n".join(lines)
