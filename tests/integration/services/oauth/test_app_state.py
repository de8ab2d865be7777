"""Limits of the provider's calls: an operator sees and lifts them, and no consent is begun that they would cost."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import stamina
from sqlalchemy import select

from app.clients.oauth.rate_limits import RateLimit
from app.context import Context, open_context
from app.database import Database
from app.models import AccountLimit, AppState, Credential, CredentialStatus, utc_now
from app.services.browser.consent_tab import parse_callback
from app.services.oauth.app_state import AppStates, ResumeResult
from app.services.oauth.rate_limits import ProviderRateLimits
from app.utils.exceptions import TokenExpiredException, TwitterAPIException
from app.utils.waits import CallLimit, LimitOwner
from sandbox.admin_client import SandboxAdmin
from tests.fixtures.factories import AddRow, new_tokens
from tests.fixtures.settings import MakeSettings
from tests.fixtures.tokens import TokenChain

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OF_ACCOUNT = CallLimit(50_000, LimitOwner.ACCOUNT, "x-user-limit-24hour")
OF_APP = CallLimit(50_000, LimitOwner.APP, "x-app-limit-24hour")


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=1):
        yield


async def resume(context: Context, app: str) -> ResumeResult:
    async with context.database.transaction() as db:
        return await context.tokens.apps.resume(db, app, actor="tests")


async def note(context: Context, account: str, limit: CallLimit) -> None:
    async with context.database.transaction() as db:
        await context.tokens.apps.note_limit(db, account, "AIOTT1", limit)


def day_limit(name: str) -> dict[str, str]:
    return {
        "x-rate-limit-remaining": "0",
        "x-rate-limit-reset": str(int(time.time()) + 900),
        f"x-{name}-limit-24hour-remaining": "0",
        f"x-{name}-limit-24hour-reset": str(int(time.time()) + 50_000),
    }


async def refuse_refresh(chain: TokenChain, **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    await chain.admin.set_fault(
        "provider.token", "status", status=429, headers=named, times=1, account=chain.account
    )
    await chain.make_due()
    assert (await chain.get_access_token()).row.version == 1


async def test_a_unix_time_in_retry_after_limits_the_app_for_an_hour_at_most_and_resume_lifts_it(
    chain: TokenChain,
):
    await refuse_refresh(chain, retry_after=str(int(time.time()) + 57 * 365 * 86_400))
    async with chain.context.database.reading() as db:
        (row,) = await chain.context.tokens.apps.list_stopped(db)
    assert (row.api_app, row.limited_by, row.paused_at) == (chain.app, "retry-after", None)
    assert utc_now() + HOUR * 0.9 < row.limited_until <= utc_now() + HOUR
    worker = chain.context.workers.get("refresh")
    assert await worker.run_once() == 0
    assert await resume(chain.context, chain.app) == ResumeResult(was_paused=False, was_limited=True)
    assert (await chain.active_row()).refresh_due_at <= utc_now(), "it does not wait for the end of the limit"
    assert await worker.run_once() == 1
    await worker.finish_started()
    assert (await chain.active_row()).version == 2


@pytest.mark.databases("sqlite", "postgresql")
async def test_resume_lifts_a_limit_that_other_processes_have_in_memory(
    chain: TokenChain, sandbox_settings: MakeSettings
):
    await chain.admin.change_settings(token_rate_limits={chain.app: 1}, token_rate_window=600)
    await chain.make_due(lives_for=-1)
    assert (await chain.get_access_token()).row.version == 2
    await chain.admin.change_settings(token_rate_limits={})
    async with open_context(sandbox_settings()) as other:
        await resume(other, chain.app)
    await chain.make_due(lives_for=-1)
    assert (await chain.get_access_token()).row.version == 3
    await chain.make_due(lives_for=-1)
    assert await chain.context.workers.get("refresh").run_once() == 1
    await chain.context.workers.get("refresh").finish_started()


@pytest.mark.databases("sqlite")
async def test_a_limit_that_is_learned_after_the_resume_counts(chain: TokenChain):
    await refuse_refresh(chain, retry_after="600")
    await resume(chain.context, chain.app)
    await chain.admin.change_settings(token_rate_limits={chain.app: 1}, token_rate_window=600)
    await chain.make_due(lives_for=-1)
    assert (await chain.get_access_token()).row.version == 2
    await chain.make_due(lives_for=-1)
    with pytest.raises(TokenExpiredException, match="limits the rate"):
        await chain.get_access_token()


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("name", ["user", "app"])
async def test_a_spent_day_of_who_am_i_begins_no_further_consent(
    chain: TokenChain, add_session: AddRow, database: Database, name: str
):
    await chain.admin.set_fault("provider.me", "status", status=429, headers=day_limit(name), times=1)
    token = (await chain.tokens()).access_token
    with pytest.raises(TwitterAPIException) as caught:
        await chain.who(token)
    runs = chain.context.sessions.runs
    first = await add_session(account_id=chain.account)
    job = await runs.claim(first.session_id)
    wait = await runs.fail(job, caught.value)
    assert 49_000 < wait <= 50_000

    again = await add_session(account_id=chain.account, is_forced=True)
    other = await add_session()
    other_app = await add_session(account_id=chain.account, api_app="AIOTT2")
    assert await runs.claim(again.session_id) is None
    assert (await runs.claim(other.session_id) is None) is (name == "app")
    assert await runs.claim(other_app.session_id) is not None
    assert await runs.deliver_waiting() == 0
    async with database.reading() as db:
        attempts = await db.scalar(select(type(again).attempts).where(type(again).id == again.id))
    assert attempts == 0

    assert await resume(chain.context, chain.app) == ResumeResult(was_paused=False, was_limited=True)
    assert await runs.claim(again.session_id) is not None


@pytest.mark.databases("sqlite")
async def test_the_last_answer_of_who_am_i_begins_no_further_consent(chain: TokenChain, add_session: AddRow):
    """The account is verified; its session is stored all the same."""
    await chain.admin.set_fault("provider.me", "alter", headers=day_limit("user"), times=1)
    await chain.verify()
    again = await add_session(account_id=chain.account)
    assert await chain.context.sessions.runs.claim(again.session_id) is None


@pytest.mark.databases("sqlite")
async def test_a_completed_session_notes_the_limit_that_its_who_am_i_spent(
    chain: TokenChain, add_session: AddRow
):
    await chain.admin.set_fault("provider.me", "alter", headers=day_limit("user"), times=1)
    user = await chain.who((await chain.tokens()).access_token)
    runs = chain.context.sessions.runs
    job = await runs.claim((await add_session(account_id=chain.account)).session_id)
    await runs.complete(job, user, new_tokens())
    await runs.note_limits(job, user)
    again = await add_session(account_id=chain.account)
    assert await runs.claim(again.session_id) is None


@pytest.mark.databases("sqlite")
async def test_the_last_call_of_the_token_endpoint_begins_no_further_consent(
    chain: TokenChain, add_session: AddRow
):
    """A code of another consent could not be exchanged."""
    await chain.admin.change_settings(token_rate_limits={chain.app: 1}, token_rate_window=600)
    runs = chain.context.sessions.runs
    job = await runs.claim((await add_session(account_id=chain.account)).session_id)
    request = await chain.context.tokens.oauth.generate_auth_url(chain.app)
    code = parse_callback(await chain.admin.give_consent(request.url, chain.account), request, chain.account)
    tokens = await chain.context.tokens.oauth.exchange_code_for_tokens(
        chain.app, code=code, authorization=request
    )
    user = await chain.who(tokens.access_token)
    await runs.complete(job, user, tokens)
    await runs.note_limits(job, user)
    again = await add_session()
    assert await runs.claim(again.session_id) is None
    await resume(chain.context, chain.app)
    assert await runs.claim(again.session_id) is not None


async def test_a_limit_that_has_ended_stops_nothing_and_is_forgotten(
    context: Context, database: Database, add_session: AddRow
):
    row = await add_session()
    await note(context, row.account_id, OF_ACCOUNT._replace(seconds=-1))
    assert await context.sessions.runs.claim(row.session_id) is not None
    await note(context, "another", OF_ACCOUNT)
    async with database.reading() as db:
        assert (await db.scalars(select(AccountLimit.account_id))).all() == ["another"]


@pytest.mark.parametrize("limit", [OF_ACCOUNT, OF_APP])
async def test_a_broken_chain_is_not_repaired_before_who_am_i_can_be_asked(
    sandbox_context: Context, admin: SandboxAdmin, chain: TokenChain, limit: CallLimit
):
    await chain.change(status=CredentialStatus.REAUTHORIZATION_REQUIRED, refresh_due_at=None)
    repair = sandbox_context.workers.get("repair")._repair
    await note(sandbox_context, chain.account, limit)
    async with sandbox_context.database.reading() as db:
        assert (await db.execute(repair._broken_accounts(10))).all() == []
    await resume(sandbox_context, chain.app)
    async with sandbox_context.database.reading() as db:
        assert (await db.execute(repair._broken_accounts(10))).all() == [(chain.account, chain.app)]


@pytest.mark.databases("sqlite")
async def test_limits_that_cannot_be_noted_change_no_end(
    chain: TokenChain, add_session: AddRow, monkeypatch: pytest.MonkeyPatch
):
    async def failing(*values: Any) -> None:
        raise OverflowError

    monkeypatch.setattr(AppStates, "note_limit", failing)
    runs = chain.context.sessions.runs
    job = await runs.claim((await add_session()).session_id)
    error = TwitterAPIException(429, "x", retry_after=60)
    error.limit = OF_APP
    assert await runs.fail(job, error) >= 60
    await chain.admin.set_fault("provider.me", "alter", headers=day_limit("user"), times=1)
    assert (await chain.verify()).username == chain.account


async def test_resume_ends_the_waits_that_the_provider_asked_for_and_no_others(
    context: Context, database: Database, add_session: AddRow
):
    later = utc_now() + HOUR
    refused = await add_session(not_before=later, error_code="TWITTER_API_ERROR", attempts=1)
    asked = await add_session(not_before=later)
    await note(context, "any", OF_APP)
    await resume(context, "AIOTT1")
    assert await context.sessions.runs.claim(refused.session_id) is not None
    assert await context.sessions.runs.claim(asked.session_id) is None
    async with database.reading() as db:
        state = await db.get(AppState, "AIOTT1")
        assert (await db.scalars(select(Credential.id))).all() == []
    assert (state.limited_until, state.limited_by) == (None, None)
    assert state.resumed_at is not None


@pytest.mark.parametrize("limit", [OF_ACCOUNT, OF_APP], ids=["account", "app"])
async def test_a_shorter_limit_takes_nothing_from_a_longer_one(
    context: Context, database: Database, limit: CallLimit
):
    for seconds in (50_000, 60, 60_000):
        await note(context, "anna", limit._replace(seconds=seconds))
    model = AccountLimit if limit.owner is LimitOwner.ACCOUNT else AppState
    async with database.reading() as db:
        until = await db.scalar(select(model.limited_until))
    assert timedelta(seconds=59_000) < until - utc_now() <= timedelta(seconds=60_000)


@pytest.mark.databases("sqlite")
async def test_a_resume_stores_no_name_that_is_not_in_the_settings(context: Context):
    await resume(context, "made up by the caller")
    async with context.database.transaction() as db:
        assert await db.get(AppState, "made up by the caller") is None


async def test_resume_reaches_the_memory_of_processes_without_a_row_of_the_app(context: Context):
    """The only call of the process was an exchange whose session failed."""
    budgets = context.tokens.budgets
    budgets.note_answer("AIOTT1", RateLimit(0, time.time() + 600), asked_at=time.time())
    assert budgets.seconds_until_reset("AIOTT1") is not None
    await resume(context, "AIOTT1")
    async with context.database.reading() as db:
        budgets.forget(await context.tokens.apps.fetch_resume_times(db))
    assert budgets.seconds_until_reset("AIOTT1") is None


@pytest.mark.databases("sqlite")
async def test_a_server_error_asks_for_the_wait_of_its_retry_after_alone(chain: TokenChain):
    """A server error says nothing of calls that are used up, whatever its other headers are."""
    headers = day_limit("app") | {"x-app-limit-24hour-remaining": "9000"}
    await chain.admin.set_fault("provider.token", "status", status=503, headers=headers, times=1)
    await chain.make_due()
    with pytest.raises(TwitterAPIException, match="503") as caught:
        await chain.get_access_token(force=True)
    assert caught.value.retry_after is None
    state = await chain.app_state()
    assert state is None or state.limited_until is None


def test_a_later_answer_counts_though_its_window_is_shorter():
    budgets, now = ProviderRateLimits(apps=["A"]), time.time()
    budgets.note_answer("A", RateLimit(10, now + 80_000), asked_at=now - 1)
    budgets.note_answer("A", RateLimit(0, now + 600), asked_at=now)
    assert budgets.seconds_until_reset("A") == pytest.approx(600, abs=60)
    budgets.note_answer("A", RateLimit(3, now + 600.5), asked_at=now)
    assert budgets.seconds_until_reset("A") is not None, "it was overtaken"
