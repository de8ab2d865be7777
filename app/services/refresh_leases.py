"""The database's side of a refresh: who may spend a refresh token, once, and what became of it.

Before the call the row is marked with the version whose refresh token is about to be spent; the marker goes with the
result. A marker whose lease has expired without one is ambiguous: the provider may have rotated the chain. It is never
spent again: the account is authorised anew.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import ColumnElement, Select, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, database_time
from app.models import AppState, Credential, CredentialStatus, utc_now
from app.services import event_service
from app.services.app_states import AppStates
from app.services.credential_vault import CredentialVault
from app.services.interfaces import TokenSet
from app.services.leases import new_lease_token
from app.utils.exceptions import AppException, DecryptionException
from app.utils.logger import get_logger

_LONGEST_WAIT: Final = 3600.0
_SHARE_OF_LIFE: Final = 0.5
"""A token is refreshed in the second half of its life at the earliest, however wide the margin is."""

AMBIGUOUS: Final = "REFRESH_AMBIGUOUS"
"""The code of a broken chain whose last refresh has no known end."""
EXPIRED: Final = "TOKEN_EXPIRED"
"""Of an access token that has expired and came without a refresh token."""
REFUSED: Final = "TOKEN_REFUSED"
"""Of one that the provider refuses before its time."""

log = get_logger(__name__)


@dataclass(frozen=True)
class RefreshTimes:
    """Seconds."""

    lease: float
    """Longer than the call's own deadline and the save together."""
    margin: float
    """A token is refreshed so long before it expires."""
    jitter: float
    """And up to so much earlier, so that many do not come due together."""
    retry: float
    """After the first failure in a row; it doubles with each one."""


@dataclass(frozen=True)
class HeldRefresh:
    """A refresh that this process may make; the refresh token was read inside the lock."""

    credential_id: int
    account_id: str
    api_app: str
    version: int
    lease_token: str
    refresh_token: SecretStr
    row_made_at: datetime
    """An id may come again after its row was deleted; id and this together do not."""


class RefreshLeases:
    """`owner`: this process's name in the leases."""

    def __init__(
        self,
        *,
        database: Database,
        vault: CredentialVault,
        apps: AppStates,
        times: RefreshTimes,
        owner: str,
    ) -> None:
        self._database = database
        self._vault = vault
        self._apps = apps
        self._times = times
        self._owner = owner

    async def take(self, account_id: str, api_app: str, *, version: int) -> HeldRefresh | None:
        """The right to refresh this version; None when somebody has it, had it, or nobody may any more.

        Raises `DecryptionException`.
        """
        query = select(Credential).where(
            Credential.account_id == account_id,
            Credential.api_app == api_app,
            Credential.version == version,
            Credential.status == CredentialStatus.ACTIVE,
            Credential.refresh_token.is_not(None),
            _is_free(),
        )
        async with self._database.transaction() as session:
            row = await session.scalar(query.with_for_update())
            return None if row is None else self._taken(session, row, self._vault.refresh_token(row))

    async def take_due(self, limit: int) -> list[HeldRefresh]:
        """The next ones that are due, whose app is neither paused nor limited, for this process alone."""
        now = utc_now()
        stopped = select(AppState.api_app).where(
            AppState.paused_at.is_not(None) | (AppState.limited_until > now)
        )
        query = (
            select(Credential)
            .where(
                Credential.status == CredentialStatus.ACTIVE,
                Credential.refresh_token.is_not(None),
                Credential.refresh_due_at <= now,
                Credential.api_app.not_in(stopped),
                _is_free(),
            )
            .order_by(Credential.refresh_due_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        async with self._database.transaction() as session:
            rows = (await session.scalars(query)).all()
            return [held for row in rows if (held := self._taken_if_readable(session, row)) is not None]

    async def save(self, held: HeldRefresh, tokens: TokenSet, *, answered_at: datetime) -> bool:
        """Make `tokens`, which live from `answered_at`, the current ones.

        False when newer ones are, or when the account was forgotten. Fenced by the version alone: tokens that arrive
        after the lease still heal a chain taken for broken.
        """
        values = self._vault.sealed(held.account_id, held.api_app, tokens)
        async with self._database.transaction() as session:
            saved = await session.execute(
                update(Credential)
                .where(*_same_version(held), Credential.status != CredentialStatus.REVOKING)
                .values(
                    **values,
                    **NOT_HELD,
                    scopes=list(tokens.scopes),
                    status=CredentialStatus.ACTIVE,
                    version=held.version + 1,
                    token_expires_at=expiry(answered_at, tokens.expires_in),
                    refresh_due_at=self.due_at(answered_at, tokens),
                    refreshed_at=answered_at,
                    refresh_failures=0,
                    refresh_error_code=None,
                )
            )
            if not saved.rowcount:  # type: ignore[attr-defined]
                return False
            await self._apps.succeeded(session, held.api_app)
            self._record(session, "credential.refreshed", held, version=held.version + 1)
        return True

    async def is_forgotten(self, held: HeldRefresh) -> bool:
        """Whether nobody wants the account's tokens any more."""
        async with self._database.reading() as session:
            status = await session.scalar(
                select(Credential.status).where(
                    Credential.account_id == held.account_id, Credential.api_app == held.api_app
                )
            )
        return status is None or status is CredentialStatus.REVOKING

    async def give_back(self, held: HeldRefresh, error: AppException) -> None:
        """The refresh token was not spent: it is tried again later, or when the provider says."""
        async with self._database.transaction() as session:
            row = await session.scalar(_held(held).with_for_update())
            if row is None:
                return
            row.refresh_failures += 1
            wait = min(_LONGEST_WAIT, self._times.retry * 2.0 ** (row.refresh_failures - 1))
            wait = max(wait * random.uniform(0.5, 1.5), error.retry_after or 0.0)  # noqa: S311
            row.refresh_due_at = utc_now() + timedelta(seconds=wait)
            row.refresh_error_code = error.error_code
            _set(row, NOT_HELD)
            self._record(
                session,
                "credential.refresh_failed",
                held,
                error_code=error.error_code,
                failures=row.refresh_failures,
                next_attempt_in=round(wait, 1),
            )

    async def break_chain(self, held: HeldRefresh, code: str) -> bool:
        """The refresh token is spent or revoked, or may be; False when newer tokens have come meanwhile."""
        async with self._database.transaction() as session:
            row = await session.scalar(_held(held).with_for_update())
            if row is None:
                return False
            self._break(session, row, code)
        return True

    async def end_unrefreshable(self, row: Credential, code: str) -> None:
        """The access token is of no use any more, and there is no refresh token; nothing when newer ones have come."""
        query = select(Credential).where(
            Credential.id == row.id,
            Credential.created_at == row.created_at,
            Credential.version == row.version,
            Credential.status == CredentialStatus.ACTIVE,
        )
        async with self._database.transaction() as session:
            current = await session.scalar(query.with_for_update())
            if current is not None:
                self._break(session, current, code)

    def due_at(self, now: datetime, tokens: TokenSet) -> datetime | None:
        """When to refresh what lives from `now`; None: it does not end, or cannot be refreshed."""
        if tokens.expires_in is None or tokens.refresh_token is None:
            return None
        early = self._times.margin + random.uniform(0, self._times.jitter)  # noqa: S311
        return now + timedelta(seconds=tokens.expires_in - min(early, tokens.expires_in * _SHARE_OF_LIFE))

    def _taken_if_readable(self, session: AsyncSession, row: Credential) -> HeldRefresh | None:
        try:
            refresh_token = self._vault.refresh_token(row)
        except DecryptionException as error:  # a key is missing in the settings: the chain may be fine
            log.error("credential.unreadable", account_id=row.account_id, api_app=row.api_app)
            row.refresh_error_code = error.error_code
            row.refresh_due_at = utc_now() + timedelta(seconds=_LONGEST_WAIT)
            return None
        return self._taken(session, row, refresh_token)

    def _taken(self, session: AsyncSession, row: Credential, refresh_token: SecretStr) -> HeldRefresh | None:
        if row.spending_version == row.version:
            self._break(session, row, AMBIGUOUS)
            return None
        lease_token = row.lease_token = new_lease_token()
        row.lease_owner = self._owner
        row.lease_expires_at = database_time(plus=self._times.lease)
        row.spending_version = row.version
        return HeldRefresh(
            credential_id=row.id,
            account_id=row.account_id,
            api_app=row.api_app,
            version=row.version,
            lease_token=lease_token,
            refresh_token=refresh_token,
            row_made_at=row.created_at,
        )

    def _break(self, session: AsyncSession, row: Credential, code: str) -> None:
        row.status = CredentialStatus.REAUTHORIZATION_REQUIRED
        row.refresh_error_code, row.refresh_due_at = code, None
        row.lease_token = row.lease_owner = row.lease_expires_at = None
        event_service.record(
            session,
            "credential.broken",
            account_id=row.account_id,
            api_app=row.api_app,
            version=row.version,
            reason=code,
        )
        log.warning("credential.broken", account_id=row.account_id, api_app=row.api_app, reason=code)

    def _record(self, session: AsyncSession, event: str, held: HeldRefresh, **data: Any) -> None:
        event_service.record(session, event, account_id=held.account_id, api_app=held.api_app, **data)


NOT_HELD: Final[dict[str, Any]] = {
    "spending_version": None,
    "lease_token": None,
    "lease_owner": None,
    "lease_expires_at": None,
}


def expiry(now: datetime, expires_in: int | None) -> datetime | None:
    return None if expires_in is None else now + timedelta(seconds=expires_in)


def _is_free() -> ColumnElement[bool]:
    return Credential.lease_expires_at.is_(None) | (Credential.lease_expires_at < database_time())


def _same_version(held: HeldRefresh) -> tuple[ColumnElement[bool], ...]:
    return (
        Credential.id == held.credential_id,
        Credential.created_at == held.row_made_at,
        Credential.version == held.version,
    )


def _held(held: HeldRefresh) -> Select[Credential]:
    return select(Credential).where(*_same_version(held), Credential.lease_token == held.lease_token)


def _set(row: Credential, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(row, name, value)
