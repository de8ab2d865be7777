"""Self-healing: a broken account is authorised anew by itself, within limits."""

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from app.context import Context
from app.models import ActorKind, AuthorizationSession, CredentialStatus, SessionStatus, utc_now
from app.services.authorizations.repair import REPAIRER
from app.utils.exceptions import ReauthorizationRequiredException
from tests.fixtures.factories import AddRow, new_tokens
from tests.fixtures.services import OpenContext
from tests.fixtures.tokens import TokenChain

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

BROKEN = CredentialStatus.REAUTHORIZATION_REQUIRED


async def broken(context: Context, account: str) -> TokenChain:
    chain = TokenChain(context, None, account)
    await chain.store(new_tokens())
    await chain.change(status=BROKEN, refresh_due_at=None)
    return chain


async def sessions(context: Context) -> list[AuthorizationSession]:
    async with context.database.reading() as db:
        rows = await db.scalars(select(AuthorizationSession).order_by(AuthorizationSession.id))
        return list(rows)


async def end_sessions(context: Context) -> None:
    async with context.database.transaction() as db:
        await db.execute(update(AuthorizationSession).values(status=SessionStatus.FAILED))


async def repair(context: Context) -> None:
    await context.workers.get("repair").run_once()


async def test_a_broken_account_gets_one_session_and_its_callers_the_id(
    context: Context, add_profile: AddRow
):
    await add_profile(account_id="alice")
    chain = await broken(context, "alice")
    for _ in range(2):
        await repair(context)
    (made,) = await sessions(context)
    assert (made.account_id, made.priority, made.requested_by) == ("alice", 0, "self-healing")
    with pytest.raises(ReauthorizationRequiredException, match=made.session_id) as caught:
        await chain.get_access_token()
    assert caught.value.data == {"session_id": made.session_id}


async def test_an_account_whose_session_is_open_gets_no_second(
    context: Context, add_profile: AddRow, add_session: AddRow
):
    mine = await add_session(await add_profile(account_id="alice"))
    await broken(context, "alice")
    await repair(context)
    assert [row.session_id for row in await sessions(context)] == [mine.session_id]


async def test_a_whole_account_is_left_alone(context: Context, add_profile: AddRow):
    await add_profile(account_id="alice")
    chain = await broken(context, "alice")
    await chain.change(status=CredentialStatus.ACTIVE)
    await repair(context)
    assert await sessions(context) == []


async def test_repairs_of_a_day_have_a_limit(open_services: OpenContext, add_profile: AddRow):
    await add_profile(account_id="alice")
    async with open_services(repair_per_day=2) as context:
        await broken(context, "alice")
        for _ in range(4):
            await repair(context)
            await end_sessions(context)
        assert len(await sessions(context)) == 2
        async with context.database.transaction() as db:
            yesterday = utc_now() - timedelta(hours=25)
            await db.execute(update(AuthorizationSession).values(created_at=yesterday))
        await repair(context)
        assert len(await sessions(context)) == 3


@pytest.mark.databases("sqlite", "postgresql")
async def test_repairs_at_once_have_a_limit(open_services: OpenContext, add_profile: AddRow):
    async with open_services(repair_at_once=2) as context:
        for account in ("a", "b", "c"):
            await add_profile(account_id=account)
            await broken(context, account)
        await repair(context)
        assert len(await sessions(context)) == 2
        await end_sessions(context)
        await repair(context)
        assert {row.account_id for row in await sessions(context)} >= {"a", "b"}
        assert len(await sessions(context)) == 4


async def end_with(context: Context, error_code: str | None, status: SessionStatus, *, hours: float) -> None:
    ended = {"status": status, "error_code": error_code, "completed_at": utc_now() - timedelta(hours=hours)}
    async with context.database.transaction() as db:
        await db.execute(update(AuthorizationSession).values(**ended))


FAILED, ATTENTION, CANCELLED = SessionStatus.FAILED, SessionStatus.NEEDS_ATTENTION, SessionStatus.CANCELLED


@pytest.mark.parametrize(
    ("code", "status", "hours", "of_a_caller"),
    [
        ("ACCOUNT_LOCKED", ATTENTION, 23, False),
        ("ACCOUNT_LOCKED", ATTENTION, 23, True),
        ("LOGIN_REQUIRED", ATTENTION, 23, False),
        ("ACCOUNT_MISMATCH", FAILED, 23, True),
        ("CONSENT_DECLINED", FAILED, 23, False),
        ("CANCELLED", CANCELLED, 23, False),
        ("INVALID_CLIENT", FAILED, 0.2, False),
        ("BROWSER_CRASHED", FAILED, 0.2, False),
        ("AUTH_TIMEOUT", SessionStatus.TIMEOUT, 0.2, False),
    ],
)
async def test_self_healing_keeps_off_what_has_just_failed_and_for_a_day_what_needs_a_person(
    context: Context, add_profile: AddRow, code: str, status: SessionStatus, hours: float, of_a_caller: bool
):
    await add_profile(account_id="alice")
    await broken(context, "alice")
    await repair(context)
    if of_a_caller:
        async with context.database.transaction() as db:
            await db.execute(update(AuthorizationSession).values(requested_by="billing"))
    await end_with(context, code, status, hours=hours)
    await repair(context)
    assert len(await sessions(context)) == 1
    await end_with(context, code, status, hours=hours + 1.5)
    await repair(context)
    assert len(await sessions(context)) == 2


async def test_self_healing_starts_again_after_an_authorization_in_between(
    context: Context, add_profile: AddRow, add_session: AddRow
):
    profile = await add_profile(account_id="alice")
    await add_session(
        profile, status=ATTENTION, error_code="ACCOUNT_LOCKED", completed_at=utc_now() - timedelta(hours=2)
    )
    await add_session(profile, status=SessionStatus.COMPLETED, completed_at=utc_now() - timedelta(hours=1))
    await broken(context, "alice")
    await repair(context)
    assert len(await sessions(context)) == 3


@pytest.mark.parametrize("apps", [[], ["OTHER"]])
async def test_repair_is_only_for_the_apps_of_the_settings(
    open_services: OpenContext, add_profile: AddRow, apps: list[str]
):
    await add_profile(account_id="alice")
    async with open_services(repair_apps=apps) as context:
        await broken(context, "alice")
        await repair(context)
        assert await sessions(context) == []


async def test_repair_is_not_for_a_paused_app(open_services: OpenContext, add_profile: AddRow):
    await add_profile(account_id="alice")
    async with open_services(app_pause_after=1) as context:
        await broken(context, "alice")
        async with context.database.transaction() as db:
            await context.tokens.apps.count_failure(db, "AIOTT1", ReauthorizationRequiredException("x", None))
        await repair(context)
        assert await sessions(context) == []


async def test_accounts_without_a_profile_do_not_stand_before_the_others(
    open_services: OpenContext, add_profile: AddRow
):
    async with open_services(repair_at_once=1) as context:
        lost = await broken(context, "lost")
        await add_profile(account_id="alice")
        await broken(context, "alice")
        await repair(context)
        assert (await lost.active_row()).refresh_due_at > utc_now()
        await repair(context)
        assert [row.account_id for row in await sessions(context)] == ["alice"]
        await add_profile(account_id="lost")
        await end_sessions(context)
        await lost.change(
            refresh_due_at=utc_now() - timedelta(seconds=1), updated_at=utc_now() - timedelta(1)
        )
        await repair(context)
        assert [row.account_id for row in await sessions(context)] == ["alice", "lost"]


async def test_token_that_cannot_be_refreshed_is_authorised_anew_on_request(
    open_services: OpenContext, add_profile: AddRow
):
    await add_profile(account_id="alice")
    async with open_services(repair_per_day=2) as context:
        chain = TokenChain(context, None, "alice")
        for count in (1, 2, 2):
            await chain.store(new_tokens(refresh_token=None, expires_in=0))
            before = len(await sessions(context))
            await repair(context)
            assert len(await sessions(context)) == before, "nobody uses it"
            with pytest.raises(ReauthorizationRequiredException):
                await chain.get_access_token()
            await repair(context)
            assert len(await sessions(context)) == count
            await end_sessions(context)


async def test_repair_reports_its_new_tokens(context: Context, add_profile: AddRow):
    await add_profile(account_id="alice")
    chain = await broken(context, "alice")
    await repair(context)
    await chain.store(new_tokens())
    (recovered,) = await chain.events("credential.recovered")
    assert recovered.data["version"] == 2
    assert (await chain.get_access_token()).row.version == 2
    assert (REPAIRER.name, REPAIRER.kind) == ("self-healing", ActorKind.SELF_HEALING)


async def test_sessions_of_a_key_that_is_named_like_self_healing_are_not_its_own(
    open_services: OpenContext, add_profile: AddRow, add_session: AddRow
):
    """Such a key may stand in an old database; its waiting sessions must not take self-healing's places."""
    waiting = await add_profile(account_id="waiting")
    await add_session(waiting, requested_by="self-healing")
    await add_session(
        await add_profile(account_id="alice"), requested_by="self-healing", status=SessionStatus.FAILED
    )
    async with open_services(repair_at_once=1, repair_per_day=1) as context:
        await broken(context, "alice")
        await repair(context)
        made = (await sessions(context))[-1]
    assert (made.account_id, made.requested_by_kind) == ("alice", ActorKind.SELF_HEALING)
