"""States of accounts: whether an account has a token that works, and if not, who acts next; as functions and in SQL.

An account is a handle in an app. It has exactly one state. The functions take the `horizon`: an access token that
expires before it should have been refreshed by now.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, literal, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlalchemy.sql.elements import SQLCoreOperations

from app.models import (
    OPEN_STATUSES,
    AuthorizationSession,
    Credential,
    CredentialStatus,
    Profile,
    SessionStatus,
)
from app.models.credentials import NOT_ACTIVE
from app.models.sessions import PERSON_CODES
from app.utils.exceptions import ErrorCode

FAILED_RETRY: Final = timedelta(minutes=15)
"""Pause of repairs after one that ended without tokens: what keeps failing must not use up the day's tries at once."""
PERSON_RETRY: Final = timedelta(days=1)
"""Pause of repairs after a session that only a person can help, unless somebody retries or resumes it."""

_Text = SQLCoreOperations[Any]


class AccountState(StrEnum):
    WORKING = "working"
    """The access token lives, and needs nothing yet."""
    EXPIRING = "expiring"
    """The access token has expired or is about to, and no refresh has replaced it; its chain is not known to be
    broken."""
    BROKEN = "broken"
    """The tokens are of no use: their chain is broken, or they are being revoked."""
    NEEDS_PERSON = "needs_person"
    """No tokens work, and the last session ended because a person must act in the profile."""
    NEVER_AUTHORIZED = "never_authorized"
    """A profile belongs to the account, and there are no tokens."""


@dataclass(frozen=True)
class LastSession:
    """The open session of an account and app, else the one that ended last."""

    session_id: str
    status: SessionStatus
    error_code: str | None
    not_before: datetime | None
    completed_at: datetime | None
    is_repair: bool
    """The service asked for it by itself."""
    repairs_today: int
    """Repairs of the account that were asked for within 24 hours."""
    first_repair_at: datetime | None

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_STATUSES

    @property
    def needs_person(self) -> bool:
        is_person_failure = self.status is SessionStatus.FAILED and self.error_code in PERSON_CODES
        return self.status is SessionStatus.NEEDS_ATTENTION or is_person_failure


def find_state(credential: Credential | None, session: LastSession | None, horizon: datetime) -> AccountState:
    """Return the state of an account with these tokens, to which a profile belongs when there are none."""
    if credential is not None and credential.status is CredentialStatus.ACTIVE:
        expires_at = credential.token_expires_at
        is_due = expires_at is not None and expires_at <= horizon
        return AccountState.EXPIRING if is_due else AccountState.WORKING
    if credential is not None and credential.status is CredentialStatus.REVOKING:
        return AccountState.BROKEN
    if session is not None and session.needs_person:
        return AccountState.NEEDS_PERSON
    return AccountState.NEVER_AUTHORIZED if credential is None else AccountState.BROKEN


def is_working(horizon: datetime) -> ColumnElement[bool]:
    """Return the condition of a `Credential`; most of them meet it."""
    expires_at = Credential.token_expires_at
    return and_(Credential.status == CredentialStatus.ACTIVE, or_(expires_at.is_(None), expires_at > horizon))


def is_expiring(horizon: datetime) -> ColumnElement[bool]:
    """Return the condition of a `Credential`: a part of an index."""
    return and_(
        Credential.status == CredentialStatus.ACTIVE,
        Credential.token_expires_at <= horizon,
    )


def expires_between(since: datetime | None, until: datetime | None) -> ColumnElement[bool]:
    """Return the condition of an active `Credential` that expires at `since` or later, and before `until`.

    One of them is given. It is a part of an index.
    """
    conditions = [Credential.status == CredentialStatus.ACTIVE]
    if since is not None:
        conditions.append(Credential.token_expires_at >= since)
    if until is not None:
        conditions.append(Credential.token_expires_at < until)
    return and_(*conditions)


def is_not_active() -> ColumnElement[bool]:
    """Return the condition of a `Credential` that all broken ones meet: an index of its own."""
    return text(NOT_ACTIVE)  # type: ignore[return-value]


def is_broken() -> ColumnElement[bool]:
    """Return the condition of a `Credential`, beside `is_not_active`."""
    waits_for_person = _find(_person_sessions(Credential.account_id, Credential.api_app))
    return or_(Credential.status == CredentialStatus.REVOKING, waits_for_person.is_(None))


def ended_for_person(session: Any = AuthorizationSession) -> ColumnElement[bool]:
    """Return the condition of a session that ended because a person must act: an index of its own."""
    # Written out, as parameters would not match the index.
    codes = [literal(code, literal_execute=True) for code in PERSON_CODES]
    return or_(
        session.status == literal(SessionStatus.NEEDS_ATTENTION, session.status.type, literal_execute=True),
        and_(
            session.status == literal(SessionStatus.FAILED, session.status.type, literal_execute=True),
            session.error_code.in_(codes),
        ),
    )


def needs_person() -> ColumnElement[bool]:
    """Return the condition of an `AuthorizationSession`, beside `ended_for_person`."""
    row = AuthorizationSession
    status = (
        select(Credential.status)
        .where(Credential.account_id == row.account_id, Credential.api_app == row.api_app)
        .correlate(row)
        .scalar_subquery()
    )
    profile = (
        select(Profile.id)
        .where(
            Profile.account_id == row.account_id,
            Profile.is_active,
            or_(Profile.api_app == row.api_app, Profile.api_app.is_(None)),
        )
        .correlate(row)
    )
    has_no_tokens = and_(status.is_(None), _find(profile).is_not(None))
    return and_(_is_last(row), or_(status == CredentialStatus.REAUTHORIZATION_REQUIRED, has_no_tokens))


def is_never_authorized(api_app: str | None) -> ColumnElement[bool]:
    """Return the condition of an active `Profile` with an account: its account has no tokens in `api_app`.

    None: in the profile's app, or, when it is for any app, in none at all. Of several profiles of an account in an app
    the first one meets it.
    """
    other = aliased(Profile)
    if api_app is None:
        app: _Text = Profile.api_app
        has_tokens = or_(app.is_(None), Credential.api_app == app)
        is_same_place = other.api_app.is_not_distinct_from(Profile.api_app)
    else:
        app = literal(api_app)
        has_tokens = Credential.api_app == app
        is_same_place = or_(other.api_app == api_app, other.api_app.is_(None))
    tokens = select(Credential.id).where(Credential.account_id == Profile.account_id, has_tokens)
    first = select(other.id).where(
        other.account_id == Profile.account_id, other.is_active, other.id < Profile.id, is_same_place
    )
    of_person = _person_sessions(Profile.account_id, app, or_any=api_app is None)
    return and_(
        _find(tokens.correlate(Profile)).is_(None),
        _find(first.correlate(Profile)).is_(None),
        _find(of_person).is_(None),
    )


def is_profile_for(api_app: str | None) -> ColumnElement[bool]:
    """Return the condition of a `Profile` that `is_never_authorized` is about."""
    is_linked = and_(Profile.is_active, Profile.account_id.is_not(None))
    if api_app is None:
        return is_linked
    return and_(is_linked, or_(Profile.api_app == api_app, Profile.api_app.is_(None)))


@dataclass(frozen=True)
class AccountCount:
    state: AccountState
    api_app: str | None
    """OAuth app; None: accounts that were never authorized, whose profiles are for any app."""
    code: str | None
    """Reason; None of accounts that work."""
    count: int


async def count_accounts(
    db: AsyncSession, horizon: datetime, *, paused_apps: Collection[str]
) -> list[AccountCount]:
    """Count all accounts by state, app and reason. It reads whole tables: for the monitor, not for a request."""
    counts: Counter[tuple[AccountState, str | None, str | None]] = Counter()
    active = select(
        Credential.api_app,
        Credential.token_expires_at <= horizon,
        Credential.refresh_error_code,
        func.count(),
    ).where(Credential.status == CredentialStatus.ACTIVE)
    is_due: bool | None
    for app, is_due, code, count in await db.execute(active.group_by(*active.selected_columns[:3])):
        if is_due:
            counts[AccountState.EXPIRING, app, expiring_code(code, is_paused=app in paused_apps)] += count
        else:
            counts[AccountState.WORKING, app, None] += count
    broken = select(Credential.api_app, Credential.status, Credential.refresh_error_code, func.count()).where(
        is_not_active(), is_broken()
    )
    for app, status, code, count in await db.execute(broken.group_by(*broken.selected_columns[:3])):
        counts[AccountState.BROKEN, app, broken_code(status, code)] += count
    row = AuthorizationSession
    waiting = select(row.api_app, row.error_code, func.count()).where(ended_for_person(), needs_person())
    for app, code, count in await db.execute(waiting.group_by(*waiting.selected_columns[:2])):
        counts[AccountState.NEEDS_PERSON, app, code] += count
    never = select(Profile.api_app, func.count()).where(is_profile_for(None), is_never_authorized(None))
    for profile_app, count in await db.execute(never.group_by(Profile.api_app)):
        counts[AccountState.NEVER_AUTHORIZED, profile_app, ErrorCode.TOKEN_NOT_FOUND] += count
    return [AccountCount(*key, count) for key, count in counts.items()]


def expiring_code(refresh_error_code: str | None, *, is_paused: bool) -> str:
    """Return the reason of an expiring account."""
    return refresh_error_code or (ErrorCode.APP_PAUSED if is_paused else ErrorCode.TOKEN_EXPIRED)


def broken_code(status: CredentialStatus, refresh_error_code: str | None) -> str:
    """Return the reason of a broken account."""
    if status is CredentialStatus.REVOKING:
        return ErrorCode.TOKEN_REVOKED
    return refresh_error_code or ErrorCode.REAUTHORIZATION_REQUIRED


def _person_sessions(account_id: _Text, api_app: _Text, *, or_any: bool = False) -> Select[int]:
    """Return the query of the account's last session where a person must act.

    `or_any`: the app may be NULL, which stands for any.
    """
    session = aliased(AuthorizationSession)
    is_in_app = session.api_app == api_app
    return (
        select(session.id)
        .where(
            session.account_id == account_id,
            or_(api_app.is_(None), is_in_app) if or_any else is_in_app,
            ended_for_person(session),
            _is_last(session),
        )
        .correlate(Credential, Profile)
    )


def _is_last(session: Any) -> ColumnElement[bool]:
    """Return the condition that no other session of the account and app is open, or ended later."""
    other = aliased(AuthorizationSession)
    later = select(other.id).where(
        other.account_id == session.account_id,
        other.api_app == session.api_app,
        or_(
            other.status.in_(OPEN_STATUSES),
            other.completed_at > session.completed_at,
            and_(other.completed_at == session.completed_at, other.id > session.id),
        ),
    )
    return _find(later.correlate(session)).is_(None)


def _find(query: Select[int]) -> ColumnElement[int]:
    """Return one id of the query's rows, or NULL. PostgreSQL would turn EXISTS into a join that reads whole tables."""
    return query.limit(1).scalar_subquery()
