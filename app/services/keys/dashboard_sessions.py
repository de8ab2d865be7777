"""Sign-ins to the operators' page: begun with an API key or a one-time link, authenticated, ended.

A sign-in acts as its API key and no more: each request reads the key's row again, so that it ends with the key.
Rotation replaces the key's secret, not the row, and ends nothing.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from pydantic import SecretStr
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import ApiKey, DashboardSession, DashboardTicket, EventType, utc_now
from app.services.events import recorder
from app.services.keys.secrets import hash_key
from app.services.keys.service import BOOTSTRAP, COMMAND_LINE, Caller, KeyService
from app.services.keys.status import KeyStatus, key_status
from app.utils.exceptions import (
    KeyEndedException,
    KeyNotFoundException,
    SignInRequiredException,
    TicketSpentException,
)

TICKET_LIFETIME: Final = timedelta(minutes=5)
_SEEN_EXACT_TO: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class SignInLimits:
    """Seconds."""

    idle: float
    lifetime: float


class DashboardSessions:
    """`bootstrap_key`: a part of the hashes of its own sign-ins, so that they end when the settings replace it."""

    def __init__(
        self, *, database: Database, keys: KeyService, bootstrap_key: SecretStr, limits: SignInLimits
    ) -> None:
        self._database = database
        self._keys = keys
        self._bootstrap_hash = hash_key(bootstrap_key.get_secret_value())
        self._limits = limits

    async def begin(self, caller: Caller, *, replaces: str | None = None, method: str) -> SecretStr:
        """Begin a sign-in of the caller and return its id, which is stored nowhere.

        `replaces`: id of the browser's sign-in so far, which ends. `method`: `key` or `link`.
        """
        session_id, now = secrets.token_urlsafe(32), utc_now()
        async with self._database.transaction() as db:
            if replaces is not None:
                await self._delete(db, replaces)
            row = DashboardSession(
                id_hash=self._hash(session_id, caller.key_id),
                key_id=caller.key_id,
                created_at=now,
                last_seen_at=now,
                expires_at=now + timedelta(seconds=min(self._limits.idle, self._limits.lifetime)),
            )
            db.add(row)
            recorder.record(db, EventType.DASHBOARD_SIGNED_IN, actor=caller.name, method=method)
        return SecretStr(session_id)

    async def authenticate(self, session_id: str | None, *, is_activity: bool = True) -> Caller:
        """Return the caller of a sign-in, as its key is now. `is_activity`: the sign-in is idle no longer.

        Raises `AuthenticationException`, `SignInRequiredException`.
        """
        if not session_id:
            raise SignInRequiredException
        now = utc_now()
        query = (
            select(DashboardSession, ApiKey)
            .outerjoin(ApiKey, ApiKey.key_id == DashboardSession.key_id)
            .where(DashboardSession.id_hash.in_(self._hashes(session_id)), DashboardSession.expires_at > now)
        )
        async with self._database.reading() as db:
            found = (await db.execute(query)).one_or_none()
        if found is None:
            raise SignInRequiredException("The sign-in has ended")
        row: DashboardSession = found[0]
        key: ApiKey | None = found[1]
        if row.key_id is not None and key is None:
            raise SignInRequiredException("The API key of this sign-in is deleted")
        caller = BOOTSTRAP if key is None else self._keys.caller_of(key)
        if is_activity and now - row.last_seen_at >= _SEEN_EXACT_TO:
            await self._note_seen(row)
        return caller

    async def end(self, session_id: str, *, caller: Caller) -> None:
        """End a sign-in, in whichever browser it is used."""
        async with self._database.transaction() as db:
            if await self._delete(db, session_id):
                recorder.record(db, EventType.DASHBOARD_SIGNED_OUT, actor=caller.name)

    async def issue_ticket(self, db: AsyncSession, *, key_name: str | None = None) -> SecretStr:
        """Return a ticket that signs in once, within `TICKET_LIFETIME`. `key_name`: None for the bootstrap key.

        Raises `KeyNotFoundException`, `KeyEndedException`.
        """
        key_id: str | None = None
        if key_name is not None:
            key = await db.scalar(select(ApiKey).where(ApiKey.name == key_name))
            if key is None:
                raise KeyNotFoundException(key_name)
            if (status := key_status(key)) is not KeyStatus.ACTIVE:
                raise KeyEndedException(key_name, status)
            key_id = key.key_id
        ticket = secrets.token_urlsafe(32)
        db.add(
            DashboardTicket(
                ticket_hash=self._hash(ticket, key_id), key_id=key_id, expires_at=utc_now() + TICKET_LIFETIME
            )
        )
        recorder.record(
            db, EventType.DASHBOARD_LINK_CREATED, actor=COMMAND_LINE.name, key=key_name or BOOTSTRAP.name
        )
        return SecretStr(ticket)

    async def redeem(self, ticket: str) -> Caller:
        """Spend a ticket; of two that come at once one succeeds.

        Raises `TicketSpentException`, and `AuthenticationException` when its key has ended.
        """
        spend = (
            delete(DashboardTicket)
            .where(
                DashboardTicket.ticket_hash.in_(self._hashes(ticket)), DashboardTicket.expires_at > utc_now()
            )
            .returning(DashboardTicket.key_id)
        )
        async with self._database.transaction() as db:
            spent = (await db.execute(spend)).one_or_none()
            if spent is None:
                raise TicketSpentException
            if spent.key_id is None:
                return BOOTSTRAP
            key = await db.scalar(select(ApiKey).where(ApiKey.key_id == spent.key_id))
        if key is None:
            raise TicketSpentException
        return self._keys.caller_of(key)

    async def _note_seen(self, row: DashboardSession) -> None:
        now = utc_now()
        ends_at = min(
            now + timedelta(seconds=self._limits.idle),
            row.created_at + timedelta(seconds=self._limits.lifetime),
        )
        statement = update(DashboardSession).where(DashboardSession.id == row.id)
        async with self._database.autocommit() as db:
            await db.execute(statement.values(last_seen_at=now, expires_at=ends_at))

    async def _delete(self, db: AsyncSession, session_id: str) -> bool:
        is_it = DashboardSession.id_hash.in_(self._hashes(session_id))
        return (
            await db.scalar(delete(DashboardSession).where(is_it).returning(DashboardSession.id))
        ) is not None

    def _hashes(self, secret: str) -> tuple[str, str]:
        """Return the hashes that a secret may have: as one of an API key, and as one of the bootstrap key."""
        return self._hash(secret, "key"), self._hash(secret, None)

    def _hash(self, secret: str, key_id: str | None) -> str:
        """Return the hash that is stored: a plain SHA-256, as the secret is random."""
        if key_id is not None:
            return hashlib.sha256(secret.encode()).hexdigest()
        return hmac.digest(self._bootstrap_hash.encode(), secret.encode(), "sha256").hex()


def csrf_token(session_id: str) -> str:
    """Return the token that each form of the sign-in carries; it tells nothing of the id."""
    return hmac.digest(session_id.encode(), b"csrf token, version 1", "sha256").hex()
