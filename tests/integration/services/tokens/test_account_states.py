"""Each account has exactly one state, and the conditions in SQL agree with the functions."""

import random
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from app.context import Context
from app.models import (
    OPEN_STATUSES,
    AuthorizationSession,
    Base,
    Credential,
    CredentialStatus,
    Profile,
    SessionStatus,
    utc_now,
)
from app.services.shared.access import EVERYTHING
from app.services.shared.paging import PageRequest
from app.services.tokens import account_views
from app.services.tokens.account_states import AccountState, LastSession, count_accounts, find_state
from app.services.tokens.account_views import AccountSelection, AccountView
from tests.fixtures.factories import new_credential, new_profile, new_session

APPS = ("AIOTT1", "AIOTT2")
ACCOUNTS = 300
_FINAL = [status for status in SessionStatus if status not in OPEN_STATUSES]


def generate(seed: int) -> list[Base]:
    """Return rows of many accounts, in every combination that may occur."""
    chance = random.Random(seed)
    now = utc_now()
    rows: list[Base] = []
    for number in range(ACCOUNTS):
        account = f"account_{number}"
        rows += [
            new_profile(account_id=account, api_app=app, is_active=chance.random() < 0.8)
            for app in chance.choices((*APPS, None), k=chance.randint(0, 3))
        ]
        for app in APPS:
            if chance.random() < 0.5:
                expires_in = chance.choice([None, -3600, 60, 7200])
                rows.append(
                    new_credential(
                        account,
                        app,
                        status=chance.choice(list(CredentialStatus)),
                        token_expires_at=None if expires_in is None else now + timedelta(seconds=expires_in),
                    )
                )
            rows += _sessions(chance, account, app, now)
    return rows


def _sessions(chance: random.Random, account: str, app: str, now: datetime) -> list[AuthorizationSession]:
    profile = new_profile(account_id=account)
    rows = []
    for _ in range(chance.randint(0, 3)):
        status = chance.choice([*_FINAL, SessionStatus.NEEDS_ATTENTION])
        error_code = {
            SessionStatus.NEEDS_ATTENTION: "LOGIN_REQUIRED",
            SessionStatus.FAILED: chance.choice(["ACCOUNT_MISMATCH", "CONSENT_DECLINED", "BROWSER_CRASHED"]),
        }.get(status)
        # Some end at the same time.
        ended_at = now - timedelta(hours=chance.randint(0, 3))
        rows.append(
            new_session(profile, api_app=app, status=status, error_code=error_code, completed_at=ended_at)
        )
    if chance.random() < 0.1:
        rows.append(new_session(profile, api_app=app, status=chance.choice(OPEN_STATUSES)))
    return rows


def expected_states(
    rows: Sequence[Base], api_app: str | None, horizon: datetime
) -> dict[tuple[str, str | None], str]:
    """Return the state of each account, in one app or in all, as the functions say."""
    tokens = {(row.account_id, row.api_app): row for row in rows if isinstance(row, Credential)}
    sessions: dict[tuple[str, str], list[AuthorizationSession]] = {}
    for row in rows:
        if isinstance(row, AuthorizationSession):
            sessions.setdefault((row.account_id, row.api_app), []).append(row)
    last = {key: last_of(each) for key, each in sessions.items()}
    profiles = [row for row in rows if isinstance(row, Profile) and row.is_active]
    states: dict[tuple[str, str | None], str] = {}
    apps = APPS if api_app is None else (api_app,)
    for account in {f"account_{number}" for number in range(ACCOUNTS)}:
        own_apps = {profile.api_app for profile in profiles if profile.account_id == account}
        for app in apps:
            key = (account, app)
            state = find_state(tokens.get(key), last.get(key), horizon)
            is_known = key in tokens or app in own_apps
            is_any = None in own_apps and (api_app is not None or state is AccountState.NEEDS_PERSON)
            if is_known or is_any:
                states[key] = state
        has_none = not any(tokens.get((account, app)) for app in APPS)
        needs_person = any(session.needs_person for (name, _), session in last.items() if name == account)
        if api_app is None and None in own_apps and has_none and not needs_person:
            states[account, None] = AccountState.NEVER_AUTHORIZED
    return states


def last_of(sessions: Sequence[AuthorizationSession]) -> LastSession:
    def recency(row: AuthorizationSession) -> tuple[bool, float, int]:
        ended = row.completed_at.timestamp() if row.completed_at else 0.0
        return row.status in OPEN_STATUSES, ended, row.id

    row = max(sessions, key=recency)
    return LastSession(
        row.session_id, row.status, row.error_code, None, row.completed_at, is_repair=False, repairs_today=0,
        first_repair_at=None,
    )  # fmt: skip


async def read_all(
    context: Context, state: AccountState, api_app: str | None, size: int
) -> list[AccountView]:
    """Return all pages of a state."""
    views: list[AccountView] = []
    selection, request = AccountSelection(state, api_app), PageRequest(size=size)
    async with context.database.reading() as db:
        while True:
            page = await context.accounts.views.fetch_page(db, selection, request)
            views += page.rows
            if page.end is None:
                return views
            request = PageRequest(size=size, after=page.end)


@pytest.mark.parametrize("api_app", [None, "AIOTT1"])
@pytest.mark.parametrize("scan_limit", [pytest.param(10_000, marks=pytest.mark.long), 30])
async def test_sql_and_functions_agree_for_every_account(
    context: Context, monkeypatch: pytest.MonkeyPatch, api_app: str | None, scan_limit: int
):
    monkeypatch.setattr(account_views, "SCAN_LIMIT", scan_limit)
    rows = generate(random.randrange(1_000_000))
    async with context.database.transaction() as db:
        db.add_all(rows)
    expected = expected_states(rows, api_app, context.accounts.views.horizon(utc_now()))
    assert {state.value for state in AccountState} == set(expected.values())
    found: dict[tuple[str, str | None], str] = {}
    for state in AccountState:
        for view in await read_all(context, state, api_app, 20):
            key = (view.account_id, view.api_app)
            assert key not in found, "it has two states, or is listed twice"
            found[key] = state
            assert view.state is state
            assert (view.problem is None) == (state is AccountState.WORKING)
        async with context.database.reading() as db:
            keys = await context.accounts.views.select_keys(
                db, AccountSelection(state, api_app), access=EVERYTHING, limit=1000
            )
        assert sorted(keys, key=str) == sorted((key for key in found if found[key] == state), key=str)
    assert found == expected
    if api_app is None:
        async with context.database.reading() as db:
            counts = await count_accounts(db, context.accounts.views.horizon(utc_now()), paused_apps=())
        totals: Counter[str] = Counter()
        for each in counts:
            totals[each.state] += each.count
        assert totals == Counter(expected.values())
