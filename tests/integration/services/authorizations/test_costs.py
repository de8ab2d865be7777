"""An attempt on PostgreSQL costs the same, however many sessions there are: number of statements, plans."""

from collections.abc import AsyncIterator

import pytest_asyncio
from sqlalchemy import text

from app.clients.oauth.oauth2 import ProviderUser
from app.context import Context
from app.models import SessionStage, utc_now
from app.services.authorizations.stages import StageLog
from benchmarks.waiting_rows import add_profiles, add_waiting, analyze
from tests.fixtures.api import opener
from tests.fixtures.costs import Statement, explained
from tests.fixtures.factories import new_profile, new_session, new_tokens
from tests.fixtures.settings import MakeSettings

MANY = 100_000
MANY_ROWS = (
    """
    INSERT INTO authorization_attempts (session_id, number, started_at)
    SELECT 's' || n, 1, now() FROM generate_series(1, CAST(:many AS int)) AS n
    """,
    """
    INSERT INTO credentials (
        account_id, api_app, provider_user_id, access_token, scopes, status, version, refresh_failures,
        refresh_refusals, created_at, updated_at
    )
    SELECT 'account_' || n, 'AIOTT1', n, '', '[]', 'active', 1, 0, 0, now(), now()
    FROM generate_series(1, CAST(:many AS int)) AS n
    """,
    """
    INSERT INTO account_limits (account_id, api_app, limited_until, limited_by)
    SELECT 'account_' || n, 'AIOTT1', now() + interval '1 day', 'tests' FROM generate_series(1, CAST(:many AS int)) AS n
    """,
)


@pytest_asyncio.fixture
async def context(
    make_settings: MakeSettings, postgresql_url: str, no_retries: None
) -> AsyncIterator[Context]:
    async with opener(make_settings, postgresql_url)(serve_workers=False) as opened:
        async with opened.context.database.transaction() as db:
            await add_profiles(db, 1, MANY)
            await add_waiting(db, 1, MANY)
            for statement in MANY_ROWS:
                await db.execute(text(statement), {"many": MANY})
        await analyze(opened.context.database)
        yield opened.context


async def test_attempt_takes_thirteen_statements_and_scans_no_table(context: Context):
    profile = new_profile(account_id="alice")
    row = new_session(profile)
    async with context.database.transaction() as db:
        db.add_all([profile, row])
    runs, leases = context.sessions.runs, context.fleet.leases
    with explained(context.database, all_tasks=True) as statements:  # a task of its own releases the profile
        job = await runs.claim(row.session_id)
        async with leases.hold(job.profile_id) as token:
            assert await leases.note_browser(job.profile_id, token, "ws://127.0.0.1:1/devtools/browser/1")
            stages = StageLog(job)
            stages.add(SessionStage.PROFILE_STARTING, utc_now())
            stages.add(SessionStage.BROWSER_ATTACHED, utc_now())
            await runs.note_stages([stages.take()])
            stages.add(SessionStage.CODE_RECEIVED, utc_now())
            user = ProviderUser(id="1", username="alice")
            await runs.complete(job, user, new_tokens(), progress=stages.take())
            await runs.note_limits(job, user)
    assert scanned(statements) == []
    assert len(statements) == 13, [each.text[:60] for each in statements]
    await check_group(context)


async def check_group(context: Context) -> None:
    """Stages of many sessions are written in two statements, too."""
    profiles = [new_profile(account_id=f"a{number}") for number in range(10)]
    rows = [new_session(profile) for profile in profiles]
    async with context.database.transaction() as db:
        db.add_all([*profiles, *rows])
    group = []
    for row in rows:
        stages = StageLog(await context.sessions.runs.claim(row.session_id))
        stages.add(SessionStage.PROFILE_STARTING, utc_now())
        group.append(stages.take())
    with explained(context.database) as statements:
        await context.sessions.runs.note_stages(group)
    assert scanned(statements) == []
    assert [each.text.split()[0] for each in statements] == ["SET", "WITH", "INSERT"]


def scanned(statements: list[Statement]) -> list[str]:
    return [f"{sorted(each.scanned)}: {each.text}" for each in statements if each.scanned]
