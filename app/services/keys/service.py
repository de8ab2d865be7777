"""API keys: made, shown once, kept as a hash, checked in constant time, rotated, revoked."""

import asyncio
import hmac
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import ColumnElement, or_, select, true, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import ActorKind, ApiKey, EventType, utc_now
from app.services.events import recorder
from app.services.keys.names import BOOTSTRAP_NAME, COMMAND_LINE_NAME, is_fit
from app.services.keys.secrets import NO_HASH, hash_key, key_prefix, new_key
from app.services.keys.status import KeyFilter, KeyStatus, is_to_come, key_status
from app.services.shared import paging
from app.services.shared.access import EVERYTHING, MAX_ACCOUNT_PATTERNS, AccessScope
from app.services.shared.group_commit import GroupLookUp
from app.services.shared.paging import Page, PageRequest
from app.utils.exceptions import (
    AuthenticationException,
    DatabaseUnavailableException,
    InvalidRequestException,
    KeyEndedException,
    KeyEscalationException,
    KeyNameTakenException,
    KeyNotFoundException,
    RotationUnderWayException,
    UnknownApiAppException,
)
from app.utils.handles import normalize_pattern
from app.utils.logger import get_logger

_USE_EXACT_TO: Final = timedelta(minutes=1)

log = get_logger(__name__)


class Scope(StrEnum):
    AUTHORIZE = "authorize"
    SESSIONS_READ = "sessions:read"
    PROFILES = "profiles"
    TOKENS_READ = "tokens:read"
    TOKENS_MANAGE = "tokens:manage"
    EVIDENCE = "evidence"
    CONTROL = "control"
    EVENTS = "events"
    WEBHOOKS = "webhooks"
    FLEET_READ = "fleet:read"
    ADMIN = "admin"


# Remove in release 0.3: keys from before these scopes were split keep until then what they could do.
IMPLIED: Final[Mapping[str, frozenset[Scope]]] = {
    Scope.AUTHORIZE: frozenset({Scope.SESSIONS_READ}),
    Scope.TOKENS_READ: frozenset({Scope.TOKENS_MANAGE}),
}
"""Scopes that a scope includes; none of them includes others in turn. `admin` includes all, and is not listed."""


@dataclass(frozen=True)
class Caller:
    """Caller of the API: its key's name, scopes (`admin`: all), access, rate limit and expiry."""

    name: str
    scopes: frozenset[str]
    access: AccessScope = EVERYTHING
    rate_limit_per_minute: int | None = None
    """Requests a minute; None: the limit of the settings."""
    expires_at: datetime | None = None
    """Expiry; None: the key does not expire."""
    kind: ActorKind = field(default=ActorKind.KEY, compare=False)
    key_id: str | None = field(default=None, compare=False)
    """Id of the API key; None for other callers."""
    person_id: str | None = field(default=None, compare=False)
    """Id of a person of single sign-on; None for other callers."""

    def may(self, scope: str) -> bool:
        if scope in self.scopes or Scope.ADMIN in self.scopes:
            return True
        return any(scope in IMPLIED.get(each, ()) for each in self.scopes)


COMMAND_LINE: Final = Caller(COMMAND_LINE_NAME, frozenset(Scope), kind=ActorKind.CLI)
"""Caller with all rights: it has the settings."""
BOOTSTRAP: Final = Caller(BOOTSTRAP_NAME, frozenset(Scope), kind=ActorKind.BOOTSTRAP)
"""Caller with the key of the settings."""


@dataclass(frozen=True)
class MadeKey:
    """`key` cannot be shown again."""

    row: ApiKey
    key: SecretStr


class KeyService:
    """`bootstrap_key`: the key of the settings, which works before any other exists. `api_apps`: the configured ones.
    `rate_limit_per_minute`: of keys that say nothing else.

    A restricted caller (`Caller.access`) manages the keys that it has made, and itself; others are not there for it.
    """

    def __init__(
        self,
        *,
        database: Database,
        bootstrap_key: SecretStr,
        api_apps: Collection[str],
        rate_limit_per_minute: int,
    ) -> None:
        self._database = database
        self._bootstrap_hash = hash_key(bootstrap_key.get_secret_value())
        self._api_apps = api_apps
        self._rate_limit = rate_limit_per_minute
        self._look_ups = GroupLookUp(database=database, write=_find_by_prefix, at_once=2)
        self._noting: dict[int, asyncio.Task[None]] = {}

    async def create(
        self,
        db: AsyncSession,
        *,
        name: str,
        scopes: frozenset[Scope],
        access: AccessScope = EVERYTHING,
        expires_at: datetime | None = None,
        rate_limit_per_minute: int | None = None,
        caller: Caller,
    ) -> MadeKey:
        """Raises `InvalidRequestException`, `KeyNameTakenException`, `UnknownApiAppException`, and
        `KeyEscalationException` for a key that may more, more often or for longer than the caller.
        """
        access = self._validate(name, access, expires_at)
        prefix, key = new_key()
        row = ApiKey(
            key_id=str(uuid.uuid4()),
            name=name,
            prefix=prefix,
            key_hash=hash_key(key),
            scopes=sorted(scopes),
            api_apps=sorted(access.api_apps),
            account_patterns=list(access.account_patterns),
            rate_limit_per_minute=rate_limit_per_minute,
            created_by=caller.name,
            expires_at=expires_at,
        )
        self._refuse_more(row, caller)
        db.add(row)
        try:
            await db.flush()
        except IntegrityError:
            raise KeyNameTakenException(name) from None
        granted = {"scopes": row.scopes, "api_apps": row.api_apps, "account_patterns": row.account_patterns}
        _record(db, EventType.API_KEY_CREATED, row, caller, **granted)
        return MadeKey(row, SecretStr(key))

    async def fetch_page(
        self, db: AsyncSession, filters: KeyFilter, request: PageRequest, *, caller: Caller
    ) -> Page[ApiKey]:
        """Return a page of the keys that the caller manages."""
        query = select(ApiKey).where(_managed_by(caller), filters.condition())
        return await paging.fetch_page(db, query, ApiKey, request)

    async def get(self, db: AsyncSession, key_id: str, *, caller: Caller, for_update: bool = False) -> ApiKey:
        """Raises `KeyNotFoundException`."""
        query = select(ApiKey).where(ApiKey.key_id == key_id, _managed_by(caller))
        row: ApiKey | None = await db.scalar(query.with_for_update() if for_update else query)
        if row is None:
            raise KeyNotFoundException(key_id)
        return row

    async def rotate(
        self, db: AsyncSession, key_id: str, *, overlap: timedelta, force: bool = False, caller: Caller
    ) -> MadeKey:
        """Another key for the same caller; the one it replaces works for `overlap` more.

        Until that is over it is refused, as it would end the older key: whoever repeats a request whose answer was
        lost would end the key that is in use. `force`: end it. Raises `KeyNotFoundException`, `KeyEndedException`,
        `RotationUnderWayException`, and `KeyEscalationException` for a key that may more than the caller.
        """
        row = await self.get(db, key_id, caller=caller, for_update=True)
        if (status := key_status(row)) is not KeyStatus.ACTIVE:
            raise KeyEndedException(row.name, status)
        self._refuse_more(row, caller)
        if row.previous_expires_at is not None and is_to_come(row.previous_expires_at) and not force:
            raise RotationUnderWayException(row.previous_expires_at)
        row.previous_prefix = row.previous_hash = row.previous_expires_at = None
        if overlap:
            row.previous_prefix, row.previous_hash = row.prefix, row.key_hash
            row.previous_expires_at = utc_now() + overlap
        row.prefix, key = new_key()
        row.key_hash = hash_key(key)
        _record(db, EventType.API_KEY_ROTATED, row, caller, overlap_seconds=overlap.total_seconds())
        return MadeKey(row, SecretStr(key))

    async def revoke(self, db: AsyncSession, key_id: str, *, caller: Caller) -> ApiKey:
        """End the key for good, from the next request on. The row stays: sessions and events tell its name.

        Raises `KeyNotFoundException`.
        """
        row = await self.get(db, key_id, caller=caller, for_update=True)
        if row.revoked_at is None:
            row.revoked_at = utc_now()
            row.previous_prefix = row.previous_hash = row.previous_expires_at = None
            _record(db, EventType.API_KEY_REVOKED, row, caller)
        return row

    async def authenticate(self, key: str | None) -> Caller:
        """The caller behind `key`. Raises `AuthenticationException`, which says why only to who has the whole of a key.

        Whatever is wrong with it, the same work is done: one look-up, one hash, three comparisons. Look-ups of
        requests that arrive at once share a query, which begins after them: a key that was revoked before is refused.
        """
        presented = hash_key(key or "")
        row = await self._look_ups.add(key_prefix(key or ""))
        is_bootstrap = hmac.compare_digest(presented, self._bootstrap_hash)
        is_current = hmac.compare_digest(presented, row.key_hash if row else NO_HASH)
        is_previous = hmac.compare_digest(presented, (row and row.previous_hash) or NO_HASH)
        if key and is_bootstrap:
            return BOOTSTRAP
        if row is None or not (is_current or is_previous):
            raise AuthenticationException
        if key_status(row) is KeyStatus.ACTIVE and not is_current and not is_to_come(row.previous_expires_at):
            raise AuthenticationException("This API key has been replaced by a rotation", key_name=row.name)
        return self.caller_of(row)

    def caller_of(self, row: ApiKey) -> Caller:
        """Return the caller that has this key, and note the use. Raises `AuthenticationException` for an ended key."""
        if (status := key_status(row)) is not KeyStatus.ACTIVE:
            raise AuthenticationException(f"This API key is {status}", key_name=row.name)
        self._note_use(row)
        scopes, limit = frozenset(row.scopes), row.rate_limit_per_minute
        return Caller(row.name, scopes, _key_access(row), limit, row.expires_at, key_id=row.key_id)

    async def close(self) -> None:
        """Wait for what is being read and written; the database's own deadlines end that."""
        await self._look_ups.wait_for_all()
        await asyncio.gather(*self._noting.values())

    def _validate(self, name: str, access: AccessScope, expires_at: datetime | None) -> AccessScope:
        """Return the access scope as it is stored. Raises `InvalidRequestException`, `UnknownApiAppException`."""
        if not is_fit(name):
            raise InvalidRequestException(f"An API key cannot be named {name!r}; choose another name")
        if expires_at is not None and expires_at <= utc_now():
            raise InvalidRequestException("expires_at: must be in the future")
        if unknown := access.api_apps - set(self._api_apps):
            raise UnknownApiAppException(min(unknown), sorted(self._api_apps))
        if len(access.account_patterns) > MAX_ACCOUNT_PATTERNS:
            raise InvalidRequestException(f"account_patterns: at most {MAX_ACCOUNT_PATTERNS}")
        try:
            return AccessScope.from_lists(
                access.api_apps, [normalize_pattern(each) for each in access.account_patterns]
            )
        except ValueError as error:
            raise InvalidRequestException(f"account_patterns: {error}") from None

    def _refuse_more(self, row: ApiKey, caller: Caller) -> None:
        """Raises `KeyEscalationException`; of keys that are there, too: a rotation shows them to the caller.

        What both keys may do now is compared, with the scopes that theirs include: `tokens:read` gives `tokens:manage`
        and not the other way round. A key keeps the scopes that it was given, also when those of its maker include
        less in a later release; the maker may then no longer rotate it.
        """
        # A caller that may use a scope may use all that it includes, so the key's own ones are enough.
        may_all = all(map(caller.may, row.scopes))
        if not may_all or not caller.access.includes(_key_access(row)):
            raise KeyEscalationException("scopes, apps or accounts")
        if (end := caller.expires_at) and (row.expires_at is None or row.expires_at > end):
            raise KeyEscalationException(f"time: expires_at must be {end.isoformat()} or earlier")
        is_unlimited = caller.rate_limit_per_minute is None and caller.access == EVERYTHING
        ceiling = caller.rate_limit_per_minute or self._rate_limit
        if not is_unlimited and (row.rate_limit_per_minute or self._rate_limit) > ceiling:
            raise KeyEscalationException(
                f"requests: rate_limit_per_minute must be given, and at most {ceiling}"
            )

    def _note_use(self, row: ApiKey) -> None:
        """Aside from the request, which neither waits for it nor fails with it."""
        is_noted = row.last_used_at is not None and utc_now() - row.last_used_at < _USE_EXACT_TO
        if not is_noted and row.id not in self._noting:
            task = asyncio.create_task(self._write_use(row.id))
            self._noting[row.id] = task
            task.add_done_callback(lambda _: self._noting.pop(row.id))

    async def _write_use(self, row_id: int) -> None:
        now = utc_now()
        is_due = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= now - _USE_EXACT_TO)
        statement = update(ApiKey).where(ApiKey.id == row_id, is_due)
        try:
            async with self._database.transaction() as db:
                await db.execute(statement.values(last_used_at=now, updated_at=ApiKey.updated_at))
        except (DatabaseUnavailableException, SQLAlchemyError) as error:
            log.warning("api_key.use_not_noted", error=type(error).__name__)


async def _find_by_prefix(db: AsyncSession, prefixes: Sequence[str]) -> list[ApiKey | None]:
    """Return the key of each prefix, also of one that a rotation has replaced."""
    wanted = set(prefixes)
    is_wanted = or_(ApiKey.prefix.in_(wanted), ApiKey.previous_prefix.in_(wanted))
    rows = (await db.scalars(select(ApiKey).where(is_wanted))).all()
    by_prefix = {row.previous_prefix: row for row in rows} | {row.prefix: row for row in rows}
    return [by_prefix.get(prefix) for prefix in prefixes]


def _key_access(row: ApiKey) -> AccessScope:
    return AccessScope.from_lists(row.api_apps, row.account_patterns)


def _managed_by(caller: Caller) -> ColumnElement[bool]:
    if caller.access == EVERYTHING:
        return true()
    return or_(ApiKey.created_by == caller.name, ApiKey.name == caller.name)


def _record(db: AsyncSession, event_type: EventType, row: ApiKey, caller: Caller, **data: Any) -> None:
    recorder.record(
        db, event_type, actor=caller.name, key_id=row.key_id, name=row.name, prefix=row.prefix, **data
    )
