"""Self-healing: an account whose chain of tokens is broken is authorised anew in its profile, by itself."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import (
    OPEN_STATUSES,
    ActorKind,
    AppState,
    AuthorizationSession,
    Credential,
    CredentialStatus,
    utc_now,
)
from app.services.authorization_service import AuthorizationService, Order
from app.services.key_names import REPAIRER_NAME
from app.services.key_service import Caller, Scope
from app.utils.exceptions import AppException
from app.utils.logger import get_logger

REPAIRER: Final = Caller(name=REPAIRER_NAME, scopes=frozenset({Scope.AUTHORIZE}), kind=ActorKind.SELF_HEALING)
_PRIORITY: Final = 0
_REFUSED_RETRY: Final = 900.0
"""Seconds: an account without a profile must not stand before those that can be repaired."""

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
        async with self._database.reading() as session:
            room = self._limits.at_once - await _open_repairs(session)
            broken = (await session.execute(self._broken(room))).all() if room > 0 else []
        made = 0
        for account_id, api_app in broken:
            made += await self._repair(account_id, api_app)
        return made

    def _broken(self, limit: int) -> Select[str, str]:
        """Accounts without an open session whose tries of the day are not used up, the longest broken first."""
        sessions = select(AuthorizationSession.id).where(
            AuthorizationSession.twitter_username == Credential.account_id,
            AuthorizationSession.api_app == Credential.api_app,
        )
        tried = (
            select(func.count(AuthorizationSession.id))
            .where(
                AuthorizationSession.twitter_username == Credential.account_id,
                AuthorizationSession.api_app == Credential.api_app,
                AuthorizationSession.requested_by_kind == ActorKind.SELF_HEALING,
                AuthorizationSession.created_at > utc_now() - timedelta(days=1),
            )
            .scalar_subquery()
        )
        paused = select(AppState.api_app).where(AppState.paused_at.is_not(None))
        return (
            select(Credential.account_id, Credential.api_app)
            .where(
                Credential.status == CredentialStatus.REAUTHORIZATION_REQUIRED,
                Credential.api_app.in_(self._apps),
                Credential.api_app.not_in(paused),
                ~sessions.where(AuthorizationSession.status.in_(OPEN_STATUSES)).exists(),
                tried < self._limits.a_day,
                Credential.refresh_due_at.is_(None) | (Credential.refresh_due_at <= utc_now()),
            )
            .order_by(Credential.updated_at)
            .limit(limit)
        )

    async def _repair(self, account_id: str, api_app: str) -> bool:
        order = Order(account_id=account_id, api_app=api_app, priority=_PRIORITY)
        try:
            async with self._database.transaction() as session:
                placed = await self._authorizations.request(session, order, caller=REPAIRER)
        except AppException as error:  # no profile, a full queue
            await self._put_off(account_id, api_app)
            log.warning(
                "credential.repair_refused",
                account_id=account_id,
                api_app=api_app,
                error_code=error.error_code,
            )
            return False
        log.info(
            "credential.repair_started", account_id=account_id, api_app=api_app, session_id=placed.session_id
        )
        return placed.is_new

    async def _put_off(self, account_id: str, api_app: str) -> None:
        later = utc_now() + timedelta(seconds=_REFUSED_RETRY)
        async with self._database.transaction() as session:
            await session.execute(
                update(Credential)
                .where(
                    Credential.account_id == account_id,
                    Credential.api_app == api_app,
                    Credential.status == CredentialStatus.REAUTHORIZATION_REQUIRED,
                )
                .values(refresh_due_at=later)
            )


async def _open_repairs(session: AsyncSession) -> int:
    query = select(func.count(AuthorizationSession.id)).where(
        AuthorizationSession.status.in_(OPEN_STATUSES),
        AuthorizationSession.requested_by_kind == ActorKind.SELF_HEALING,
    )
    return await session.scalar(query) or 0
