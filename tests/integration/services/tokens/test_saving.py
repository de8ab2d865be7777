"""New tokens outlive a database that does not take them, and never overwrite newer ones."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import delete

from app.context import Context, open_context
from app.models import Credential, CredentialStatus, utc_now
from app.services.oauth.app_state import AppStates
from app.services.oauth.rate_limits import ProviderRateLimits
from app.services.tokens.refresh_leases import AMBIGUOUS, RefreshLeases
from app.services.tokens.refresh_results import RefreshClaim
from app.services.workers.refresh_worker import TokenRefreshWorker
from app.utils.exceptions import DatabaseUnavailableException, ReauthorizationRequiredException
from tests.fixtures.factories import new_tokens
from tests.fixtures.logs import LogLines
from tests.fixtures.settings import MakeSettings
from tests.fixtures.tokens import TokenChain, spill_of
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

Refuse = Callable[[int], None]


@pytest.fixture
def refuse_saves(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """`refuse_saves(2)`: the database does not take the next two results."""
    save = RefreshLeases.save

    def refuse(times: int) -> None:
        left = times

        async def refusing(self: RefreshLeases, *values: Any, **named: Any) -> bool:
            nonlocal left
            left -= 1
            if left >= 0:
                raise DatabaseUnavailableException("it does not answer")
            return await save(self, *values, **named)

        monkeypatch.setattr(RefreshLeases, "save", refusing)

    return refuse


@pytest_asyncio.fixture
async def process(chain: TokenChain, sandbox_settings: MakeSettings, tmp_path: Path):
    """One that gives up a save after a short time, and spills to a folder of its own."""
    settings = sandbox_settings(lease_seconds=0.3, token_spill_folder=tmp_path / "spilled")
    async with open_context(settings) as opened:
        yield opened


def spilled(folder: Path) -> list[Path]:
    return sorted((folder / "spilled").glob("*"))


@asynccontextmanager
async def running(worker: TokenRefreshWorker):
    task = asyncio.create_task(worker.run())
    yield
    worker.stop()
    await task


async def taken(chain: TokenChain) -> RefreshClaim:
    """The right to refresh the account, as a process has it before the call."""
    await chain.make_due()
    (held,) = await chain.context.tokens.leases.take_due(10)
    return held


async def late_result(chain: TokenChain, held: RefreshClaim) -> None:
    """Save the tokens of a call as a process does."""
    refresher = chain.context.tokens.refresher
    await refresher.save(held, new_tokens(), utc_now())


async def test_a_save_that_fails_a_few_times_loses_nothing(
    chain: TokenChain, sandbox_settings: MakeSettings, refuse_saves: Refuse, tmp_path: Path
):
    await chain.make_due(lives_for=-1)
    refuse_saves(2)
    async with open_context(sandbox_settings(token_spill_folder=tmp_path / "spilled")) as patient:
        handed = await chain.get_access_token(by=patient)
    assert (await chain.who(handed.access_token)).username == chain.account
    assert (await chain.refreshes(), spilled(tmp_path)) == (1, [])


@pytest.mark.databases("sqlite")
async def test_a_folder_that_cannot_be_written_keeps_no_save_from_memory(
    chain: TokenChain, sandbox_settings: MakeSettings, refuse_saves: Refuse, tmp_path: Path
):
    (tmp_path / "file").write_text("")
    await chain.make_due(lives_for=-1)
    refuse_saves(2)
    async with open_context(sandbox_settings(token_spill_folder=tmp_path / "file" / "folder")) as process:
        assert (await chain.get_access_token(by=process)).row.version == 2
    assert await chain.refreshes() == 1


async def test_a_save_that_fails_for_ever_is_picked_up_at_the_next_start(
    chain: TokenChain, process: Context, refuse_saves: Refuse, tmp_path: Path
):
    await chain.make_due(lives_for=-1)
    before = (await chain.tokens()).refresh_token
    refuse_saves(10**6)
    with pytest.raises(DatabaseUnavailableException):
        await chain.get_access_token(by=process)
    (file,) = spilled(tmp_path)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    issued = (await chain.admin.issued()).all()
    content = file.read_text()
    assert not [secret for secret in [*issued, chain.account] if secret in content or secret in file.name]

    refuse_saves(0)
    answered_at = utc_now()
    async with running(process.workers.get("refresh")):
        await eventually(lambda: not spilled(tmp_path))
    row = await chain.active_row()
    assert (row.version, row.spending_version, row.status) == (2, None, CredentialStatus.ACTIVE)
    assert row.token_expires_at < answered_at + timedelta(seconds=7200), "it lives from the answer on"
    tokens = await chain.tokens()
    assert (await chain.who(tokens.access_token)).username == chain.account
    assert (tokens.refresh_token != before, await chain.refreshes()) == (True, 1)
    assert (await chain.get_access_token(force=True)).row.version == 3, "the chain goes on"


async def test_spilled_tokens_repair_a_chain_taken_for_broken(
    chain: TokenChain, process: Context, refuse_saves: Refuse, tmp_path: Path
):
    await chain.make_due(lives_for=-1)
    refuse_saves(10**6)
    with pytest.raises(DatabaseUnavailableException):
        await chain.get_access_token(by=process)
    await chain.change(lease_expires_at=utc_now() - timedelta(seconds=1))
    with pytest.raises(ReauthorizationRequiredException):
        await chain.get_access_token()
    assert (await chain.active_row()).refresh_error_code == AMBIGUOUS
    refuse_saves(0)
    async with running(process.workers.get("refresh")):
        await eventually(lambda: not spilled(tmp_path))
    assert (await chain.who((await chain.get_access_token()).access_token)).username == chain.account
    assert await chain.refreshes() == 1


@pytest.mark.databases("sqlite")
async def test_file_that_no_key_opens_stays_and_is_reported(
    process: Context, tmp_path: Path, log_lines: LogLines
):
    folder = tmp_path / "spilled"
    folder.mkdir()
    (folder / "other.sealed").write_text("lost:AAAA")
    (folder / "half.partial").write_text("dev:AA")
    async with running(process.workers.get("refresh")):
        await eventually(
            lambda: [line for line in log_lines() if line["event"] == "credential.spill_unreadable"]
        )
    assert [file.name for file in spilled(tmp_path)] == ["half.partial", "other.sealed"]


async def test_a_result_older_than_newer_tokens_is_dropped(chain: TokenChain):
    held = await taken(chain)
    newer = await chain.authorize()
    await late_result(chain, held)
    tokens = await chain.tokens()
    assert (tokens.access_token, tokens.refresh_token) == (newer.access_token, newer.refresh_token)
    assert (await chain.active_row()).version == 2
    assert (await chain.who(tokens.access_token)).username == chain.account, "nothing of it was revoked"


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_row_that_came_again_under_the_same_id_takes_no_old_result(chain: TokenChain):
    held = await taken(chain)
    async with chain.context.database.transaction() as db:
        await db.execute(delete(Credential))
    newer = await chain.authorize()
    await chain.change(id=held.credential_id)
    await late_result(chain, held)
    assert (await chain.tokens()).access_token == newer.access_token
    assert (await chain.active_row()).version == held.version == 1


async def test_a_lost_lease_changes_nothing_any_more(chain: TokenChain):
    held = await taken(chain)
    await chain.authorize()
    leases: RefreshLeases = chain.context.tokens.leases
    assert not await leases.break_chain(held, "INVALID_GRANT")
    await leases.give_back(held, DatabaseUnavailableException("x"))
    row = await chain.active_row()
    assert (row.status, row.refresh_failures) == (CredentialStatus.ACTIVE, 0)


async def test_a_failure_is_written_through_an_outage(chain: TokenChain, monkeypatch: pytest.MonkeyPatch):
    give_back: Callable[..., Awaitable[None]] = RefreshLeases.give_back
    failures = [DatabaseUnavailableException("x")] * 2

    async def failing(self: RefreshLeases, *values: Any) -> None:
        if failures:
            raise failures.pop()
        await give_back(self, *values)

    monkeypatch.setattr(RefreshLeases, "give_back", failing)
    await chain.admin.set_fault("provider.token", "status", status=503, times=1, account=chain.account)
    await chain.make_due()
    assert (await chain.get_access_token()).row.spending_version is None
    assert (await chain.get_access_token()).row.version == 2


async def test_a_row_that_no_key_opens_stops_no_other(chain: TokenChain):
    unreadable = TokenChain(chain.context, chain.admin, f"{chain.account}x")
    await unreadable.store(new_tokens())
    await unreadable.make_due()
    await unreadable.change(refresh_token="lost:AAAA")
    await chain.make_due()
    worker = chain.context.workers.get("refresh")
    assert await worker.run_once() == 1
    await worker.finish_started()
    assert (await chain.active_row()).version == 2
    row = await unreadable.active_row()
    assert (row.status, row.refresh_error_code) == (CredentialStatus.ACTIVE, "DECRYPTION_FAILED")
    assert row.refresh_due_at > utc_now()


ODD_ANSWERS = [
    ({"expires_in": 10**18}, {}),
    ({"expires_in": "7199.5"}, {}),
    ({"scope": ["tweet.read", "users.read"]}, {}),
    ({}, {"x-rate-limit-remaining": "0", "x-rate-limit-reset": str(10**18)}),
    ({}, {"x-rate-limit-remaining": "0", "x-rate-limit-reset": "1790000000000"}),
    ({}, {"x-rate-limit-remaining": "9" * 5000, "x-rate-limit-reset": "60"}),
    ({}, {"x-app-limit-24hour-remaining": "0", "x-app-limit-24hour-reset": "9" * 5000}),
]


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(("fields", "headers"), ODD_ANSWERS, ids=lambda value: str(value)[:40])
async def test_an_odd_answer_costs_no_tokens(
    chain: TokenChain, fields: dict[str, Any], headers: dict[str, str]
):
    before = (await chain.tokens()).refresh_token
    await chain.admin.set_fault(
        "provider.token", "alter", body=fields, headers=headers, times=1, account=chain.account
    )
    await chain.make_due(lives_for=-1)
    handed = await chain.get_access_token()
    assert (await chain.who(handed.access_token)).username == chain.account
    row = await chain.active_row()
    assert (row.version, row.spending_version, row.status) == (2, None, CredentialStatus.ACTIVE)
    assert row.token_expires_at < utc_now() + timedelta(days=3651)
    assert (await chain.tokens()).refresh_token != before
    state = await chain.app_state()
    if state is not None and state.limited_until is not None:
        assert state.limited_until < utc_now() + timedelta(days=1, seconds=1)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "1000000000000"},
        {"retry-after": "9" * 5000},
        {"x-rate-limit-remaining": "0", "x-rate-limit-reset": "1790000000000000"},
        {"x-rate-limit-reset": str(10**18)},
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_refusal_with_odd_headers_keeps_the_tokens(chain: TokenChain, headers: dict[str, str]):
    await chain.admin.set_fault(
        "provider.token", "status", status=429, headers=headers, times=1, account=chain.account
    )
    await chain.make_due()
    assert (await chain.get_access_token()).row.version == 1
    row = await chain.active_row()
    assert (row.status, row.spending_version, row.lease_token) == (CredentialStatus.ACTIVE, None, None)
    hour = utc_now() + timedelta(seconds=3601)
    assert utc_now() < row.refresh_due_at < hour
    assert utc_now() < (await chain.app_state()).limited_until < hour


@pytest.mark.databases("sqlite")
async def test_a_deep_answer_is_ambiguous_and_no_exception(chain: TokenChain):
    body = "[" * 200_000
    await chain.admin.set_fault("provider.token", "status", status=200, body=body, times=1)
    await chain.make_due()
    with pytest.raises(ReauthorizationRequiredException):
        await chain.get_access_token()
    assert (await chain.active_row()).refresh_error_code == AMBIGUOUS


@pytest.mark.databases("sqlite")
async def test_app_state_that_cannot_be_written_costs_no_tokens(
    chain: TokenChain, monkeypatch: pytest.MonkeyPatch, log_lines: LogLines
):
    async def failing(*values: Any) -> None:
        raise OverflowError

    monkeypatch.setattr(AppStates, "reset_failures", failing)
    await chain.make_due(lives_for=-1)
    assert (await chain.get_access_token()).row.version == 2
    assert [line["api_app"] for line in log_lines() if line["event"] == "app.not_noted"] == [chain.app]


@pytest.mark.databases("sqlite")
async def test_app_state_of_a_refusal_that_cannot_be_written_leaves_no_marker(
    chain: TokenChain, monkeypatch: pytest.MonkeyPatch
):
    async def failing(*values: Any, **named: Any) -> None:
        raise OverflowError

    monkeypatch.setattr(AppStates, "set_limit", failing)
    await chain.admin.set_fault("provider.token", "rate_limited", times=1, account=chain.account)
    await chain.make_due()
    assert (await chain.get_access_token()).row.spending_version is None


@pytest.mark.databases("sqlite")
async def test_a_limit_that_cannot_be_noted_costs_no_tokens(
    chain: TokenChain, monkeypatch: pytest.MonkeyPatch
):
    def failing(*values: Any, **named: Any) -> None:
        raise OverflowError

    monkeypatch.setattr(ProviderRateLimits, "note_answer", failing)
    await chain.make_due(lives_for=-1)
    assert (await chain.get_access_token()).row.version == 2


async def test_any_error_between_answer_and_save_keeps_the_tokens_on_the_disk(
    chain: TokenChain, process: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log_lines: LogLines
):
    await chain.make_due(lives_for=-1)
    with monkeypatch.context() as patch:

        async def failing(*values: Any, **named: Any) -> bool:
            raise OverflowError

        patch.setattr(RefreshLeases, "save", failing)
        with pytest.raises(OverflowError):
            await chain.get_access_token(by=process)
        assert len(spilled(tmp_path)) == 1
        refresher = process.tokens.refresher
        for _ in range(2):
            assert await refresher.pick_up_spilled() == 0
        assert len([line for line in log_lines() if line["event"] == "credential.not_saved"]) == 1
    assert await refresher.pick_up_spilled() == 1
    assert (await chain.active_row()).version == 2
    assert (await chain.who((await chain.tokens()).access_token)).username == chain.account


async def test_spilled_file_that_cannot_be_saved_does_not_block_others(
    chain: TokenChain, process: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    refresher, spill = process.tokens.refresher, spill_of(process)
    held = await taken(chain)
    bad = replace(held, account_id="bad")
    await spill.write(bad, new_tokens(), answered_at=utc_now())
    await spill.write(held, new_tokens(), answered_at=utc_now())
    save = RefreshLeases.save

    async def refusing(self: RefreshLeases, held: RefreshClaim, *values: Any, **named: Any) -> bool:
        if held.account_id == "bad":
            raise OverflowError
        return await save(self, held, *values, **named)

    monkeypatch.setattr(RefreshLeases, "save", refusing)
    assert await refresher.pick_up_spilled() == 1
    assert len(spilled(tmp_path)) == 1
    assert (await chain.active_row()).version == 2


@pytest.mark.databases("sqlite")
async def test_a_thousand_failures_in_a_row_still_have_a_next_try(chain: TokenChain):
    await chain.change(refresh_failures=5000)
    await chain.admin.set_fault("provider.token", "status", status=503, times=1, account=chain.account)
    await chain.make_due()
    assert (await chain.get_access_token()).row.refresh_failures == 5001
