"""A token that works now: handed out, refreshed once for any number of callers, and what each failure does to it."""

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from app.context import Context, open_context
from app.models import Credential, CredentialStatus, utc_now
from app.services.tokens.refresh_leases import AMBIGUOUS, MAX_REFUSALS, REFRESH_REFUSED
from app.utils.exceptions import (
    AppLimitedException,
    AppPausedException,
    ReauthorizationRequiredException,
    TokenExpiredException,
    TokenNotFoundException,
    UnknownApiAppException,
)
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.plainbook import consent, providers_file, signed_in
from tests.fixtures.settings import MakeSettings
from tests.fixtures.tokens import TokenChain
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite")


async def test_a_fresh_token_is_handed_out_without_a_call(chain: TokenChain):
    handed = await chain.get_access_token()
    assert (await chain.who(handed.access_token)).username == chain.account
    assert (await chain.refreshes(), handed.row.version) == (0, 1)
    (read,) = await chain.events("token.read")
    assert (read.actor, read.data["version"]) == ("tests", 1)


@pytest.mark.databases("sqlite", long="postgresql")
async def test_a_due_token_is_refreshed_once_and_works(chain: TokenChain):
    await chain.make_due()
    handed = [await chain.get_access_token(), await chain.get_access_token()]
    assert (await chain.who(handed[0].access_token)).username == chain.account
    assert handed[0].access_token == handed[1].access_token
    assert await chain.refreshes() == 1
    row = await chain.active_row()
    assert (row.version, row.spending_version, row.lease_token) == (2, None, None)
    assert row.refreshed_at is not None
    assert row.token_expires_at > row.refresh_due_at > utc_now()
    assert [event.data["version"] for event in await chain.events("credential.refreshed")] == [2]


async def test_caller_that_asks_for_a_longer_life_gets_it(chain: TokenChain):
    await chain.change(token_expires_at=utc_now() + timedelta(seconds=300))
    assert (await chain.get_access_token(min_ttl=100)).row.version == 1
    assert (await chain.get_access_token(min_ttl=600)).row.version == 2
    assert await chain.refreshes() == 1


async def test_a_forced_refresh_brings_a_new_one_however_fresh_the_old_is(chain: TokenChain):
    assert (await chain.get_access_token(force=True)).row.version == 2
    assert await chain.refreshes() == 1


@pytest.mark.databases("sqlite", "postgresql")
async def test_100_callers_in_two_processes_cause_one_refresh(
    chain: TokenChain, sandbox_settings: MakeSettings
):
    await chain.admin.set_fault("provider.token", "delay", seconds=0.5, times=1, account=chain.account)
    async with open_context(sandbox_settings()) as other:
        await chain.make_due(lives_for=-1)
        handed = await asyncio.gather(
            *(chain.get_access_token(by=process) for _ in range(50) for process in (chain.context, other))
        )
    assert await chain.refreshes() == 1
    assert len({one.access_token.get_secret_value() for one in handed}) == 1
    assert (await chain.who(handed[0].access_token)).username == chain.account


async def test_a_caller_who_leaves_takes_no_refresh_with_him(chain: TokenChain):
    await chain.admin.set_fault("provider.token", "delay", seconds=0.3, times=1, account=chain.account)
    await chain.make_due()
    first = asyncio.create_task(chain.get_access_token())
    await eventually(chain.is_spending)
    first.cancel()
    assert (await chain.get_access_token()).row.version == 2
    assert await chain.refreshes() == 1


@pytest.mark.databases("sqlite", "postgresql")
async def test_the_wait_for_another_process_has_an_end(chain: TokenChain, sandbox_settings: MakeSettings):
    await chain.make_due(lives_for=20)
    later = utc_now() + timedelta(hours=1)
    await chain.change(spending_version=1, lease_token="of-another-process", lease_expires_at=later)
    async with open_context(sandbox_settings(lease_seconds=0.2, oauth_api_timeout=0.2)) as process:
        assert (await chain.get_access_token(by=process)).row.version == 1
        await chain.change(token_expires_at=utc_now())
        with pytest.raises(TokenExpiredException, match="another process is at it"):
            await chain.get_access_token(by=process)
        with pytest.raises(TokenExpiredException, match="another process is at it"):
            await chain.get_access_token(force=True, by=process)
    assert await chain.refreshes() == 0


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_marker_without_a_result_is_never_spent_again(chain: TokenChain):
    await chain.make_due()
    gone = utc_now() - timedelta(seconds=1)
    await chain.change(spending_version=1, lease_token="of-a-dead-process", lease_expires_at=gone)
    for _ in range(2):
        with pytest.raises(ReauthorizationRequiredException):
            await chain.get_access_token()
    row = await chain.active_row()
    assert (row.status, row.refresh_error_code) == (CredentialStatus.REAUTHORIZATION_REQUIRED, AMBIGUOUS)
    assert row.refresh_due_at is None
    assert await chain.refreshes() == 0
    (broken,) = await chain.events("credential.broken")
    assert broken.data == {"version": 1, "reason": AMBIGUOUS}


@pytest.mark.parametrize("status", [500, 503, 402])
async def test_failure_of_the_provider_keeps_the_token(chain: TokenChain, status: int):
    await chain.admin.set_fault("provider.token", "status", status=status, times=2, account=chain.account)
    await chain.make_due()
    assert (await chain.get_access_token()).row.version == 1, "it lives for some seconds more"
    await chain.change(token_expires_at=utc_now() - timedelta(seconds=1))
    with pytest.raises(TokenExpiredException, match="could not be refreshed now"):
        await chain.get_access_token()
    row = await chain.active_row()
    assert (row.status, row.spending_version, row.lease_token) == (CredentialStatus.ACTIVE, None, None)
    assert (row.refresh_failures, row.refresh_due_at > utc_now()) == (2, True)
    assert (await chain.get_access_token()).row.refresh_failures == 0
    assert await chain.refreshes() == 1


async def test_an_error_page_that_hides_a_rotation_ends_in_a_new_authorization(chain: TokenChain):
    """The page keeps the token, as any 5xx does; the second try costs nothing that was not lost."""
    await chain.admin.set_fault("provider.token", "html_after", times=1, account=chain.account)
    await chain.make_due()
    assert (await chain.get_access_token()).row.refresh_error_code == "TWITTER_API_ERROR"
    with pytest.raises(ReauthorizationRequiredException):
        await chain.get_access_token()
    assert (await chain.active_row()).refresh_error_code == "INVALID_GRANT"
    stats = await chain.admin.stats()
    assert stats.refresh_tokens_reused_by_account[chain.account] == 1


async def test_a_rate_limit_stops_the_calls_of_the_app(chain: TokenChain):
    await chain.admin.set_fault("provider.token", "rate_limited", seconds=600, times=1, account=chain.account)
    await chain.make_due()
    assert (await chain.get_access_token()).row.version == 1
    state = await chain.app_state()
    assert timedelta(seconds=500) < state.limited_until - utc_now() < timedelta(seconds=601)
    await chain.make_due(lives_for=-1)
    with pytest.raises(TokenExpiredException, match="limits the rate") as caught:
        await chain.get_access_token()
    assert 500 < caught.value.retry_after <= 600
    with pytest.raises(AppLimitedException):
        await chain.get_access_token(force=True)
    worker = chain.context.workers.get("refresh")
    assert await worker.run_once() == 0
    assert (await chain.calls(), await chain.refreshes()) == (2, 0), "the exchange and one try"
    async with chain.context.database.transaction() as db:
        await chain.context.tokens.apps.resume(db, chain.app, actor="tests")
    assert await worker.run_once() == 1
    await worker.finish_started()
    assert (await chain.active_row()).version == 2


async def test_a_spent_token_breaks_the_chain(chain: TokenChain):
    await chain.admin.revoke_grants(chain.account)
    await chain.make_due()
    with pytest.raises(ReauthorizationRequiredException) as caught:
        await chain.get_access_token()
    assert caught.value.data == {"session_id": None}
    row = await chain.active_row()
    assert (row.status, row.refresh_error_code) == (
        CredentialStatus.REAUTHORIZATION_REQUIRED,
        "INVALID_GRANT",
    )
    assert len(await chain.events("credential.broken")) == 1
    await chain.authorize()
    assert (await chain.get_access_token()).row.version == 2
    assert len(await chain.events("credential.recovered")) == 1


async def test_a_refused_client_counts_on_the_app_and_touches_no_account(
    chain: TokenChain, sandbox_settings: MakeSettings
):
    apps = {name: app.model_dump() for name, app in chain.context.settings.oauth_apps.items()}
    apps[chain.app] = apps[chain.app] | {"client_secret": "wrong"}
    async with open_context(sandbox_settings(oauth_apps=apps, app_pause_after=2)) as misconfigured:
        for _ in range(2):
            await chain.make_due()
            assert (await chain.get_access_token(by=misconfigured)).row.version == 1
        assert (await chain.app_state()).paused_at is not None
        with pytest.raises(AppPausedException):
            await chain.get_access_token(force=True, by=misconfigured)
        assert await misconfigured.workers.get("refresh").run_once() == 0
    row = await chain.active_row()
    assert (row.status, row.refresh_error_code) == (CredentialStatus.ACTIVE, "INVALID_CLIENT")
    async with chain.context.database.transaction() as db:
        assert (await chain.context.tokens.apps.resume(db, chain.app, actor="tests")).was_paused
    assert (await chain.get_access_token()).row.version == 2


UNKNOWN = {"error": "something_else", "error_description": "No."}


async def refused(chain: TokenChain, times: int, **fault: Any) -> Credential:
    answer = {"status": 400, "body": UNKNOWN} | fault
    for _ in range(times):
        await chain.make_due()
        await chain.admin.set_fault("provider.token", "status", account=chain.account, times=1, **answer)
        with suppress(ReauthorizationRequiredException):
            await chain.get_access_token()
    return await chain.active_row()


@pytest.mark.databases("sqlite", long="postgresql")
async def test_a_refusal_for_an_unknown_reason_counts_as_a_dead_token_after_some_in_a_row_over_a_day(
    chain: TokenChain,
):
    row = await refused(chain, MAX_REFUSALS)
    assert (row.status, row.refresh_refusals) == (CredentialStatus.ACTIVE, MAX_REFUSALS), "within a day"
    await chain.change(refused_since=utc_now() - timedelta(hours=25), refresh_refusals=2)
    row = await refused(chain, 1)
    assert (row.status, row.refresh_refusals) == (CredentialStatus.ACTIVE, 3), "too few"
    row = await refused(chain, 1, status=503)
    assert row.refresh_refusals == 3, "nothing was judged"
    row = await refused(chain, 2)
    assert (row.status, row.refresh_error_code) == (
        CredentialStatus.REAUTHORIZATION_REQUIRED,
        REFRESH_REFUSED,
    )
    await chain.authorize()
    row = await chain.active_row()
    assert (row.refresh_refusals, row.refused_since) == (0, None)


async def test_a_refresh_that_succeeds_ends_the_row_of_refusals(chain: TokenChain):
    await refused(chain, 2)
    await chain.make_due()
    assert (await chain.get_access_token()).row.version == 2
    row = await chain.active_row()
    assert (row.refresh_refusals, row.refused_since) == (0, None)


async def test_refusals_of_the_app_and_of_the_account_do_not_count_against_the_token(chain: TokenChain):
    await refused(chain, 1, status=403, body={"reason": "client-not-enrolled"})
    await refused(chain, 1, status=402)
    row = await refused(chain, 1, status=403, body={"errors": [{"code": 326, "message": "locked"}]})
    assert (row.status, row.refresh_refusals) == (CredentialStatus.ACTIVE, 0)
    state = await chain.app_state()
    assert state is not None
    assert state.failures_in_a_row == 2, "credits count as the app's, as everywhere else"


async def test_failures_of_the_app_count_in_a_row(chain: TokenChain):
    async with chain.context.database.transaction() as db:
        await chain.context.tokens.apps.count_failure(db, chain.app, UnknownApiAppException("x", []))
    await chain.get_access_token(force=True)
    assert (await chain.app_state()).failures_in_a_row == 0


@pytest.mark.parametrize("kind", ["hang_after", "drop_after", "truncated_json", "drop"])
async def test_an_answer_that_is_lost_is_ambiguous(
    chain: TokenChain, sandbox_settings: MakeSettings, kind: str
):
    await chain.admin.set_fault("provider.token", kind, times=1, account=chain.account)
    await chain.make_due()
    timeout = 1 if kind == "hang_after" else 15
    async with open_context(sandbox_settings(oauth_api_timeout=timeout)) as process:
        for _ in range(2):
            with pytest.raises(ReauthorizationRequiredException):
                await chain.get_access_token(by=process)
    assert await chain.refreshes() == (0 if kind == "drop" else 1)
    assert await chain.calls() == 2, "the exchange and one try"
    assert (await chain.active_row()).refresh_error_code == AMBIGUOUS


async def test_a_provider_that_was_never_reached_has_not_acted(
    chain: TokenChain, sandbox_settings: MakeSettings
):
    await chain.make_due()
    async with open_context(sandbox_settings(x_api_url="http://127.0.0.1:9")) as process:
        assert (await chain.get_access_token(by=process)).row.version == 1
    assert (await chain.get_access_token()).row.version == 2


async def test_an_app_that_is_gone_from_the_settings_breaks_no_chain(chain: TokenChain):
    gone = replace(chain, app="GONE1")
    await gone.store(await chain.tokens())
    await gone.make_due()
    worker = chain.context.workers.get("refresh")
    assert await worker.run_once() == 1
    await worker.finish_started()
    row = await gone.active_row()
    assert (row.status, row.refresh_error_code) == (CredentialStatus.ACTIVE, "UNKNOWN_API_APP")
    assert (row.spending_version, row.refresh_due_at > utc_now()) == (None, True)


async def test_a_provider_whose_refresh_tokens_do_not_rotate_keeps_the_old_one(
    sandbox_settings: MakeSettings,
    info: SandboxInfo,
    admin: SandboxAdmin,
    profile: ProfileInfo,
    tmp_path: Path,
):
    app = info.plainbook_app.model_dump() | {"provider": "plainbook"}
    settings = sandbox_settings(oauth_apps={"PLAIN1": app}, providers_file=providers_file(info, tmp_path))
    async with open_context(settings) as context:
        chain = TokenChain(context, admin, profile.account, app="PLAIN1")
        request = await context.tokens.oauth.generate_auth_url("PLAIN1")
        async with await signed_in(admin, chain.account) as browser:
            callback = (await consent(browser, request.url, chain.account)).headers["location"]
        await chain.exchange(callback, request)
        before = await chain.tokens()
        for version in (2, 3):
            await chain.make_due()
            assert (await chain.get_access_token()).row.version == version
        after = await chain.tokens()
    assert (after.refresh_token, after.access_token != before.access_token) == (before.refresh_token, True)


@pytest.mark.parametrize("expires_in", [1, 0, -5, "0"])
async def test_refreshes_of_an_account_have_an_interval_whatever_the_answers_say(
    chain: TokenChain, expires_in: object
):
    """Each refresh spends a refresh token."""
    body = {"expires_in": expires_in}
    await chain.admin.set_fault("provider.token", "alter", body=body, account=chain.account)
    await chain.make_due(lives_for=-1)
    worker = chain.context.workers.get("refresh")
    assert await worker.run_once() == 1
    await worker.finish_started()
    row = await chain.active_row()
    assert (row.version, row.refresh_due_at >= utc_now() + timedelta(seconds=50)) == (2, True)
    assert (row.token_expires_at is None) is (expires_in != 1), "0 or less is unknown"

    past = utc_now() - timedelta(seconds=1)
    await chain.change(refresh_due_at=past, token_expires_at=past)
    assert await worker.run_once() == 0
    with pytest.raises(TokenExpiredException, match="was refreshed just now") as caught:
        await chain.get_access_token()
    assert 50 < caught.value.retry_after <= 60
    assert (await chain.calls(), await chain.refreshes()) == (2, 1), "the exchange and one refresh"

    assert (await chain.get_access_token(force=True)).row.version == 3
    await chain.change(token_expires_at=utc_now() + timedelta(seconds=5))
    assert (await chain.get_access_token()).row.version == 3, "one that still works is better than none"


@pytest.mark.databases("sqlite", long="postgresql")
async def test_an_account_is_refreshed_again_after_the_interval(
    chain: TokenChain, sandbox_settings: MakeSettings
):
    async with open_context(sandbox_settings(refresh_min_interval=100)) as process:
        for refreshed_at in (timedelta(seconds=-101), timedelta(days=1)):
            await chain.make_due(lives_for=-1)
            await chain.change(refreshed_at=utc_now() + refreshed_at)
            version = (await chain.active_row()).version
            assert (await chain.get_access_token(by=process)).row.version == version + 1
            await chain.make_due(lives_for=-1)
            await chain.change(refreshed_at=utc_now() + refreshed_at)
            assert await process.workers.get("refresh").run_once() == 1
            await process.workers.get("refresh").finish_started()


@pytest.mark.databases("sqlite", long="postgresql")
@pytest.mark.parametrize("taken_by", ["caller", "worker"])
async def test_a_lost_answer_is_found_within_the_interval(chain: TokenChain, taken_by: str):
    await chain.make_due(lives_for=-1)
    gone = utc_now() - timedelta(seconds=1)
    await chain.change(spending_version=1, lease_expires_at=gone, refreshed_at=gone)
    if taken_by == "worker":
        assert await chain.context.workers.get("refresh").run_once() == 0
    with pytest.raises(ReauthorizationRequiredException):
        await chain.get_access_token()


async def test_a_lifetime_that_is_not_named_is_the_providers_default(chain: TokenChain):
    await chain.admin.set_fault(
        "provider.token", "alter", body={"expires_in": None}, times=1, account=chain.account
    )
    await chain.make_due(lives_for=-1)
    row = (await chain.get_access_token()).row
    assert (row.version, row.token_expires_at) == (2, None)
    left = (row.refresh_due_at - utc_now()).total_seconds()
    assert 7200 - 900 - 1800 - 5 < left <= 7200 - 900, "X's two hours, less the margin"


async def test_a_refresh_without_a_new_refresh_token_keeps_the_old_one(chain: TokenChain):
    before = (await chain.tokens()).refresh_token
    await chain.admin.set_fault(
        "provider.token", "alter", body={"refresh_token": None}, times=1, account=chain.account
    )
    await chain.make_due(lives_for=-1)
    row = (await chain.get_access_token()).row
    assert (row.version, (await chain.tokens()).refresh_token) == (2, before)
    assert row.refresh_due_at is not None


async def test_tokens_that_cannot_be_used_are_revoked_and_the_account_authorised_anew(chain: TokenChain):
    await chain.admin.set_fault(
        "provider.token", "alter", body={"token_type": "mac"}, times=1, account=chain.account
    )
    await chain.make_due(lives_for=-1)
    with pytest.raises(ReauthorizationRequiredException):
        await chain.get_access_token()
    assert (await chain.active_row()).version == 1, "nothing of it is handed out as a bearer token"
    assert await chain.usable_grants() == 0


async def test_a_forgotten_account_has_no_token(chain: TokenChain, sandbox_context: Context):
    async with sandbox_context.database.transaction() as db:
        await db.execute(delete(Credential))
    with pytest.raises(TokenNotFoundException):
        await chain.get_access_token()


@pytest.mark.databases("sqlite", "postgresql")
async def test_1000_callers_in_four_processes_cause_one_refresh(
    chain: TokenChain, sandbox_settings: MakeSettings
):
    await chain.admin.set_fault("provider.token", "delay", seconds=0.3, times=1, account=chain.account)
    await chain.make_due(lives_for=-1)
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(open_context(sandbox_settings(database_pool_size=5)))
            for _ in range(4)
        ]
        handed = await asyncio.gather(
            *(chain.get_access_token(by=process) for _ in range(250) for process in processes)
        )
    assert await chain.refreshes() == 1
    assert len({one.access_token.get_secret_value() for one in handed}) == 1
    assert (await chain.who(handed[0].access_token)).username == chain.account
    assert len(await chain.events("token.read")) == 1000
