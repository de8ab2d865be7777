"""Accounts with their state and problem: pages of a list, and the accounts that a filter matches."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, case, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import (
    OPEN_STATUSES,
    AccountLimit,
    ActorKind,
    AuthorizationSession,
    Credential,
    Profile,
    utc_now,
)
from app.services.oauth.app_state import AppStates
from app.services.profiles.directory import ProfileDirectory
from app.services.shared import paging
from app.services.shared.access import EVERYTHING, AccessScope
from app.services.shared.paging import Page, PageRequest
from app.services.tokens import account_states
from app.services.tokens.account_problems import AccountFacts, Problem, RepairRule, find_problem
from app.services.tokens.account_states import AccountState, LastSession, find_state
from app.utils.exceptions import AppException

SCAN_LIMIT: Final = 10_000
"""Rows that one page looks at, and counts, at most."""

_Key = tuple[str, str | None]
"""Account and app; None: a profile for any app, without tokens."""
_Rows = Sequence[Credential] | Sequence[AuthorizationSession] | Sequence[Profile]


@dataclass(frozen=True)
class AccountSelection:
    """Filter of accounts; None matches all. Without a state: accounts with tokens."""

    state: AccountState | None = None
    api_app: str | None = None
    text: str | None = None
    """Part of the handle."""
    account_ids: Sequence[str] | None = None
    expires_since: datetime | None = None
    """Accounts whose active access token expires then or later; no `state` may be given with it or the next one."""
    expires_until: datetime | None = None
    """Accounts whose active access token expires before."""


@dataclass(frozen=True)
class AccountView:
    account_id: str
    api_app: str | None
    """OAuth app; None: an account without tokens whose profile is for any app."""
    state: AccountState
    problem: Problem | None
    """Problem; None when the account works."""
    credential: Credential | None
    """Tokens; None when there are none."""
    profile_created_at: datetime | None = None
    """Time of the profile's row, for an account without tokens."""


@dataclass(frozen=True)
class _List:
    """Accounts of a state, as rows of one table in the order of one of its indexes."""

    model: type[Credential] | type[AuthorizationSession] | type[Profile]
    indexed: Sequence[ColumnElement[bool]]
    """Conditions that an index serves in this order."""
    conditions: Sequence[ColumnElement[bool]] = ()
    """The other ones."""
    sort: str = "id"
    descending: bool = False


class AccountViews:
    """`expiring_within`: seconds before its expiry at which a token should have been refreshed already."""

    def __init__(
        self, *, directory: ProfileDirectory, apps: AppStates, rule: RepairRule, expiring_within: float
    ) -> None:
        self._directory = directory
        self._apps = apps
        self._rule = rule
        self._expiring_within = timedelta(seconds=expiring_within)

    def horizon(self, now: datetime) -> datetime:
        """Return the time up to which expiring tokens expire."""
        return now + self._expiring_within

    async def fetch_page(
        self,
        db: AsyncSession,
        filters: AccountSelection,
        request: PageRequest,
        *,
        access: AccessScope = EVERYTHING,
    ) -> Page[AccountView]:
        """Return a page of a state: the soonest to expire, the latest session or the oldest row first.

        At most ten statements, and `SCAN_LIMIT` rows are looked at.
        """
        # One time for the list and the states: what expires between two of them would be in a list of another state.
        now = utc_now()
        rows_of = _list_of(filters, self.horizon(now), access)
        request = PageRequest(request.number, request.size, rows_of.sort, rows_of.descending, request.after)
        model: Any = rows_of.model
        indexed = select(model).where(*rows_of.indexed)
        query = indexed.where(*rows_of.conditions)
        page = await paging.fetch_page(db, query, model, request, indexed=indexed, scan_limit=SCAN_LIMIT)
        views = await self._view_rows(db, filters, page.rows, now)
        return Page(views, page.total, page.number, page.end)

    async def select_keys(
        self, db: AsyncSession, filters: AccountSelection, *, access: AccessScope, limit: int
    ) -> list[_Key]:
        """Return the accounts and apps that a filter matches, up to `limit`, in one statement."""
        rows_of = _list_of(filters, self.horizon(utc_now()), access)
        model: Any = rows_of.model
        query = select(model.account_id, model.api_app).where(*rows_of.indexed, *rows_of.conditions)
        order = getattr(model, rows_of.sort)
        order = order.desc() if rows_of.descending else order.asc()
        rows = await db.execute(query.order_by(order, model.id).limit(limit))
        is_profile = model is Profile
        return [
            (account_id, (filters.api_app or api_app) if is_profile else api_app)
            for account_id, api_app in rows
        ]

    async def describe(
        self, db: AsyncSession, credentials: Sequence[Credential], now: datetime | None = None
    ) -> list[AccountView]:
        """Return the views of accounts with tokens. None or four statements."""
        return await self._view(
            db,
            [
                AccountFacts(account_id=row.account_id, api_app=row.api_app, credential=row)
                for row in credentials
            ],
            now or utc_now(),
        )

    async def _view_rows(
        self, db: AsyncSession, filters: AccountSelection, rows: _Rows, now: datetime
    ) -> list[AccountView]:
        if filters.state is AccountState.NEVER_AUTHORIZED:
            facts = [
                AccountFacts(
                    account_id=row.account_id,
                    api_app=filters.api_app or row.api_app,
                    profile_created_at=row.created_at,
                )
                for row in rows
                if isinstance(row, Profile) and row.account_id is not None
            ]
            return await self._view(db, facts, now)
        if filters.state is AccountState.NEEDS_PERSON:
            keys = [(row.account_id, row.api_app) for row in rows if isinstance(row, AuthorizationSession)]
            has_key = tuple_(Credential.account_id, Credential.api_app).in_(keys)
            tokens = {
                (row.account_id, row.api_app): row
                for row in await db.scalars(select(Credential).where(has_key))
            }
            return await self._view(
                db,
                [
                    AccountFacts(
                        account_id=account_id, api_app=api_app, credential=tokens.get((account_id, api_app))
                    )
                    for account_id, api_app in keys
                ],
                now,
            )
        return await self.describe(db, [row for row in rows if isinstance(row, Credential)], now)

    async def _view(
        self, db: AsyncSession, accounts: Sequence[AccountFacts], now: datetime
    ) -> list[AccountView]:
        horizon = self.horizon(now)
        is_working = AccountState.WORKING
        unwell = [each for each in accounts if find_state(each.credential, None, horizon) is not is_working]
        details = await self._load_details(db, unwell, now) if unwell else {}
        views = []
        for each in accounts:
            facts = details.get((each.account_id, each.api_app), each)
            views.append(
                AccountView(
                    facts.account_id,
                    facts.api_app,
                    find_state(facts.credential, facts.session, horizon),
                    find_problem(facts, self._rule, horizon=horizon, now=now),
                    facts.credential,
                    facts.profile_created_at,
                )
            )
        return views

    async def _load_details(
        self, db: AsyncSession, accounts: Sequence[AccountFacts], now: datetime
    ) -> dict[_Key, AccountFacts]:
        """Return the facts of accounts by their keys, with all that problems follow from. Four statements."""
        sessions = await _last_sessions(db, {each.account_id for each in accounts}, now)
        keys = [(each.account_id, each.api_app or "") for each in accounts]
        profiles = await self._directory.get_for_accounts(db, keys)
        apps = {row.api_app: row for row in await self._apps.list_stopped(db)}
        limits = select(AccountLimit.account_id, AccountLimit.api_app, AccountLimit.limited_until).where(
            tuple_(AccountLimit.account_id, AccountLimit.api_app).in_(keys), AccountLimit.limited_until > now
        )
        limited = {(account_id, api_app): until for account_id, api_app, until in await db.execute(limits)}
        details = {}
        for each, key in zip(accounts, keys, strict=True):
            app, profile = apps.get(key[1]), profiles[key]
            ends = [app.limited_until if app is not None else None, limited.get(key)]
            details[each.account_id, each.api_app] = AccountFacts(
                account_id=each.account_id,
                api_app=each.api_app,
                credential=each.credential,
                profile_created_at=each.profile_created_at,
                session=_session_of(sessions, each),
                profile_error=profile if isinstance(profile, AppException) else None,
                pause_reason=(app.reason or "") if app is not None and app.paused_at is not None else None,
                limited_until=max((end for end in ends if end is not None), default=None),
            )
        return details


def _list_of(filters: AccountSelection, horizon: datetime, access: AccessScope) -> _List:
    base = _base_list(filters, horizon)
    model: Any = base.model
    api_app = filters.api_app
    # A profile for any app is for the one that is asked for.
    app_column = literal(api_app) if model is Profile and api_app is not None else model.api_app
    indexed, conditions = list(base.indexed), list(base.conditions)
    if access != EVERYTHING:
        conditions.append(access.condition(model.account_id, app_column))
    if api_app is not None and model is not Profile:
        conditions.append(model.api_app == api_app)
    if filters.text:
        conditions.append(model.account_id.contains(filters.text.lower(), autoescape=True))
    if filters.account_ids is not None:
        indexed.append(model.account_id.in_(filters.account_ids))
    return _List(base.model, indexed, conditions, base.sort, base.descending)


def _base_list(filters: AccountSelection, horizon: datetime) -> _List:
    match filters.state:
        case None if filters.expires_since is not None or filters.expires_until is not None:
            window = account_states.expires_between(filters.expires_since, filters.expires_until)
            return _List(Credential, [window], sort="token_expires_at")
        case None:
            return _List(Credential, [])
        case AccountState.WORKING:
            return _List(Credential, [], [account_states.is_working(horizon)])
        case AccountState.EXPIRING:
            return _List(Credential, [account_states.is_expiring(horizon)], sort="token_expires_at")
        case AccountState.BROKEN:
            return _List(Credential, [account_states.is_not_active()], [account_states.is_broken()])
        case AccountState.NEEDS_PERSON:
            ended, last = account_states.ended_for_person(), account_states.needs_person()
            return _List(AuthorizationSession, [ended], [last], descending=True)
        case AccountState.NEVER_AUTHORIZED:
            app = filters.api_app
            return _List(
                Profile,
                [],
                [account_states.is_profile_for(app), account_states.is_never_authorized(app)],
            )


async def _last_sessions(
    db: AsyncSession, accounts: Iterable[str], now: datetime
) -> Mapping[str, list[tuple[str, LastSession]]]:
    """Return the session that counts in each app, by account."""
    row = AuthorizationSession
    is_repair = row.requested_by_kind == ActorKind.SELF_HEALING
    is_today = is_repair & (row.created_at > now - timedelta(days=1))
    key = (row.account_id, row.api_app)
    place = func.row_number().over(
        partition_by=key,
        order_by=[case((row.status.in_(OPEN_STATUSES), 0), else_=1), row.completed_at.desc(), row.id.desc()],
    )
    ranked = (
        select(
            row.account_id,
            row.api_app,
            row.session_id,
            row.status,
            row.error_code,
            row.not_before,
            row.completed_at,
            is_repair.label("is_repair"),
            func.count().filter(is_today).over(partition_by=key).label("repairs_today"),
            func.min(row.created_at).filter(is_today).over(partition_by=key).label("first_repair_at"),
            place.label("place"),
        )
        .where(row.account_id.in_(accounts))
        .subquery()
    )
    query: Select[Any] = select(*list(ranked.c)[:-1]).where(ranked.c.place == 1)
    sessions: dict[str, list[tuple[str, LastSession]]] = {}
    for account_id, api_app, *values in await db.execute(query):
        sessions.setdefault(account_id, []).append((api_app, LastSession(*values)))
    return sessions


def _session_of(
    sessions: Mapping[str, list[tuple[str, LastSession]]], account: AccountFacts
) -> LastSession | None:
    """Return the session of the account in its app; without one, of any app: an open one, or the last that ended."""
    candidates = [
        session for app, session in sessions.get(account.account_id, ()) if account.api_app in (app, None)
    ]
    return max(candidates, key=_recency, default=None)


def _recency(session: LastSession) -> tuple[bool, float]:
    ended_at = session.completed_at.timestamp() if session.completed_at is not None else 0.0
    return session.is_open, ended_at
