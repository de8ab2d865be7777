"""Sign-ins to the operators' page: begun with an API key, a one-time link or single sign-on, authenticated, ended.

A sign-in acts as its API key and no more: each request reads the key's row again, so that it ends with the key.
Rotation replaces the key's secret, not the row, and ends nothing. A person of single sign-on has no key; the rights are
those that the settings give to the person's claim values at each request.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Final

from pydantic import SecretStr
from sqlalchemy import delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, affected_rows
from app.models import ApiKey, DashboardSession, DashboardTicket, EventType, utc_now
from app.services.events import recorder
from app.services.keys.people import People, Person
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


class _Owner(Enum):
    """Kind of a secret's owner. Each has hashes of its own, so that no row is taken for one of another kind."""

    KEY = auto()
    BOOTSTRAP = auto()
    PERSON = auto()


@dataclass(frozen=True)
class SignInLimits:
    """Seconds."""

    idle: float
    lifetime: float


class DashboardSessions:
    """`bootstrap_key`: a part of the hashes of its own sign-ins, so that they end when the settings replace it.
    `people`: None without single sign-on.
    """

    def __init__(
        self,
        *,
        database: Database,
        keys: KeyService,
        bootstrap_key: SecretStr,
        people: People | None,
        limits: SignInLimits,
    ) -> None:
        self._database = database
        self._keys = keys
        self._bootstrap_hash = hash_key(bootstrap_key.get_secret_value())
        self._people = people
        self._limits = limits

    async def begin(
        self, caller: Caller, *, person: Person | None = None, replaces: str | None = None, method: str
    ) -> SecretStr:
        """Begin a sign-in of the caller and return its id, which is stored nowhere.

        `person`: of single sign-on. `replaces`: id of the browser's sign-in so far, which ends. `method`: `key`, `link`
        or `oidc`.
        """
        session_id, now = secrets.token_urlsafe(32), utc_now()
        owner = _key_owner(caller.key_id) if person is None else _Owner.PERSON
        async with self._database.transaction() as db:
            if replaces is not None:
                await self._delete(db, replaces)
            row = DashboardSession(
                id_hash=self._hash(session_id, owner),
                key_id=caller.key_id,
                created_at=now,
                last_seen_at=now,
                expires_at=now + timedelta(seconds=min(self._limits.idle, self._limits.lifetime)),
            )
            if person is not None:
                row.issuer, row.subject = person.issuer, person.subject
                row.person_name, row.claim_values = person.name, list(person.values)
            db.add(row)
            recorder.record(db, EventType.DASHBOARD_SIGNED_IN, actor=caller.name, method=method)
        return SecretStr(session_id)

    async def authenticate(self, session_id: str | None, *, is_activity: bool = True) -> Caller:
        """Return the caller of a sign-in, as its key or the settings are now.

        `is_activity`: the sign-in is idle no longer.

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
        owner = _Owner.PERSON if row.subject is not None else _key_owner(row.key_id)
        if row.id_hash != self._hash(session_id, owner):
            raise SignInRequiredException("The sign-in has ended")
        if owner is _Owner.PERSON:
            caller = self._person_caller(row)
        elif row.key_id is not None and key is None:
            raise SignInRequiredException("The API key of this sign-in is deleted")
        else:
            caller = BOOTSTRAP if key is None else self._keys.caller_of(key)
        if is_activity and now - row.last_seen_at >= _SEEN_EXACT_TO:
            await self._note_seen(row)
        return caller

    async def end(self, session_id: str, *, caller: Caller) -> None:
        """End a sign-in, in whichever browser it is used."""
        async with self._database.transaction() as db:
            if await self._delete(db, session_id):
                recorder.record(db, EventType.DASHBOARD_SIGNED_OUT, actor=caller.name)

    async def end_all(self, db: AsyncSession, person: str) -> int:
        """End all sign-ins of a person, by the name that events have or the id at the provider; return their number."""
        is_theirs = or_(DashboardSession.person_name == person, DashboardSession.subject == person)
        number = affected_rows(await db.execute(delete(DashboardSession).where(is_theirs)))
        if number:
            recorder.record(
                db,
                EventType.DASHBOARD_SIGN_INS_ENDED,
                actor=COMMAND_LINE.name,
                person=person,
                number=number,
            )
        return number

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
                ticket_hash=self._hash(ticket, _key_owner(key_id)),
                key_id=key_id,
                expires_at=utc_now() + TICKET_LIFETIME,
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

    def caller_of(self, person: Person) -> Caller:
        """Return the caller with the rights that the settings give today. Raises `SignInRequiredException`."""
        if self._people is None:
            raise SignInRequiredException("Single sign-on is turned off")
        return self._people.caller_of(person)

    def _person_caller(self, row: DashboardSession) -> Caller:
        assert row.issuer is not None
        assert row.subject is not None
        assert row.person_name is not None
        person = Person(row.issuer, row.subject, row.person_name, tuple(row.claim_values or ()))
        return self.caller_of(person)

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

    def _hashes(self, secret: str) -> list[str]:
        """Return the hashes that a secret may have, one for each kind of owner."""
        return [self._hash(secret, owner) for owner in _Owner]

    def _hash(self, secret: str, owner: _Owner) -> str:
        """Return the hash that is stored: a plain SHA-256, as the secret is random."""
        if owner is _Owner.KEY:
            return hashlib.sha256(secret.encode()).hexdigest()
        salt = self._bootstrap_hash if owner is _Owner.BOOTSTRAP else "person"
        return hmac.digest(salt.encode(), secret.encode(), "sha256").hex()


def _key_owner(key_id: str | None) -> _Owner:
    return _Owner.BOOTSTRAP if key_id is None else _Owner.KEY


def csrf_token(session_id: str) -> str:
    """Return the token that each form of the sign-in carries; it tells nothing of the id."""
    return hmac.digest(session_id.encode(), b"csrf token, version 1", "sha256").hex()
