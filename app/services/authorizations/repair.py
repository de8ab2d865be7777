"""Self-healing: an account whose chain of tokens is broken is authorised anew in its profile, by itself."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import ColumnElement, Select, and_, func, select, update
from sqlalchemy.orm import aliased

from app.database import Database
from app.models import (
    OPEN_STATUSES,
    ActorKind,
    AppState,
    AuthorizationSession,
    Credential,
    CredentialStatus,
    SessionStatus,
    utc_now,
)
from app.models.sessions import PERSON_CODES
from app.services.authorizations.requests import AuthorizationCommand
from app.services.authorizations.service import AuthorizationService
from app.services.keys.names import REPAIRER_NAME
from app.services.keys.service import Caller, Scope
from app.services.oauth.app_state import is_limited
from app.services.shared.isolation import for_each
from app.services.tokens.account_states import FAILED_RETRY, PERSON_RETRY
from app.utils.exceptions import AppException, DatabaseUnavailableException
from app.utils.logger import get_logger

REPAIRER: Final = Caller(name=REPAIRER_NAME, scopes=frozenset({Scope.AUTHORIZE}), kind=ActorKind.SELF_HEALING)
_PRIORITY: Final = 0
_REFUSED_RETRY: Final = 900.0
"""Seconds: an account without a profile must not stand before those that can be repaired."""
_WITHOUT_TOKENS: Final = tuple(set(SessionStatus) - {*OPEN_STATUSES, SessionStatus.COMPLETED})

log = get_logger(__name__)


@dataclass(frozen=True)
class RepairLimits:
    a_day: int
    """Sessions that are made for one account and app within 24 hours."""
    at_once: int
    """Such sessions that may be open at one time."""


class TokenRepair:
    """`apps`: those whose accounts are repaired by themselves."""

    def __init__(
        self,
        *,
        database: Database,
        authorizations: AuthorizationService,
        apps: Collection[str],
        limits: RepairLimits,
    ) -> None:
        self._database = database
        self._authorizations = authorizations
        self._apps = list(apps)
        self._limits = limits

    async def run_once(self) -> int:
        """Make sessions for broken accounts that have none, as far as the limits allow; how many."""
        open_repairs = select(func.count(AuthorizationSession.id)).where(
            AuthorizationSession.status.in_(OPEN_STATUSES),
            AuthorizationSession.requested_by_kind == ActorKind.SELF_HEALING,
        )
        async with self._database.reading() as db:
            room = self._limits.at_once - (await db.scalar(open_repairs) or 0)
            broken = (await db.execute(self._broken_accounts(room))).all() if room > 0 else []
        return (await for_each(broken, lambda row: self._repair(*row), step="repair")).count

    def _broken_accounts(self, limit: int) -> Select[str, str]:
        """Accounts without an open session whose tries of the day are not used up, the longest broken first; not those
        whose last session ended without tokens just now, or with what a person must do within the last day.
        """
        sessions = select(AuthorizationSession.id).where(
            AuthorizationSession.account_id == Credential.account_id,
            AuthorizationSession.api_app == Credential.api_app,
        )
        repairs_today = (
            select(func.count(AuthorizationSession.id))
            .where(
                AuthorizationSession.account_id == Credential.account_id,
                AuthorizationSession.api_app == Credential.api_app,
                AuthorizationSession.requested_by_kind == ActorKind.SELF_HEALING,
                AuthorizationSession.created_at > utc_now() - timedelta(days=1),
            )
            .scalar_subquery()
        )
        paused_apps = select(AppState.api_app).where(AppState.paused_at.is_not(None))
        has_limit = is_limited(Credential.account_id, Credential.api_app)
        return (
            select(Credential.account_id, Credential.api_app)
            .where(
                Credential.status == CredentialStatus.REAUTHORIZATION_REQUIRED,
                Credential.api_app.in_(self._apps),
                Credential.api_app.not_in(paused_apps),
                ~has_limit,
                ~sessions.where(AuthorizationSession.status.in_(OPEN_STATUSES)).exists(),
                repairs_today < self._limits.a_day,
                ~sessions.where(_rules_out_repair()).exists(),
                Credential.refresh_due_at.is_(None) | (Credential.refresh_due_at <= utc_now()),
            )
            .order_by(Credential.updated_at)
            .limit(limit)
        )

    async def _repair(self, account_id: str, api_app: str) -> bool:
        command = AuthorizationCommand(account_id=account_id, api_app=api_app, priority=_PRIORITY)
        try:
            async with self._database.transaction() as db:
                result = await self._authorizations.request(db, command, caller=REPAIRER)
        except DatabaseUnavailableException:
            raise
        except Exception as error:
            # No profile, or a full queue; one that can never be repaired must not keep its place either.
            retry_at = utc_now() + timedelta(seconds=_REFUSED_RETRY)
            is_broken = (
                Credential.account_id == account_id,
                Credential.api_app == api_app,
                Credential.status == CredentialStatus.REAUTHORIZATION_REQUIRED,
            )
            async with self._database.transaction() as db:
                await db.execute(update(Credential).where(*is_broken).values(refresh_due_at=retry_at))
            log.warning(
                "credential.repair_refused",
                account_id=account_id,
                api_app=api_app,
                error_code=error.error_code if isinstance(error, AppException) else type(error).__name__,
            )
            return False
        log.info(
            "credential.repair_started", account_id=account_id, api_app=api_app, session_id=result.session_id
        )
        return result.is_new


def _rules_out_repair() -> ColumnElement[bool]:
    """Return the condition of a session that rules out a repair: a late end without tokens, none with since."""
    later_session = aliased(AuthorizationSession)
    authorized_since = (
        select(later_session.id)
        .where(
            later_session.account_id == AuthorizationSession.account_id,
            later_session.api_app == AuthorizationSession.api_app,
            later_session.status == SessionStatus.COMPLETED,
            later_session.completed_at > AuthorizationSession.completed_at,
        )
        .exists()
    )
    is_repair = AuthorizationSession.requested_by_kind == ActorKind.SELF_HEALING
    needs_person = (
        (AuthorizationSession.status == SessionStatus.NEEDS_ATTENTION)
        | AuthorizationSession.error_code.in_(PERSON_CODES)
        | (is_repair & (AuthorizationSession.status == SessionStatus.CANCELLED))
    )
    now = utc_now()
    return and_(
        AuthorizationSession.status.in_(_WITHOUT_TOKENS),
        (needs_person & (AuthorizationSession.completed_at > now - PERSON_RETRY))
        | (is_repair & (AuthorizationSession.completed_at > now - FAILED_RETRY)),
        ~authorized_since,
    )
