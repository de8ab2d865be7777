"""API keys: made, shown once, kept as a hash, checked in constant time, rotated, revoked."""

import asyncio
import hmac
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import ColumnElement, and_, or_, select, true, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import ApiKey, utc_now
from app.services import event_service
from app.services.key_secrets import NO_HASH, hash_of, new_key, prefix_of
from app.services.listing import Page, PageRequest, page_of
from app.services.reach import EVERYTHING, Reach
from app.utils.exceptions import (
    AuthenticationException,
    DatabaseUnavailableException,
    InvalidRequestException,
    KeyEndedException,
    KeyEscalationException,
    KeyNameTakenException,
    KeyNotFoundException,
    UnknownApiAppException,
)
from app.utils.handles import normalize_pattern
from app.utils.logger import get_logger

BOOTSTRAP_NAME: Final = "bootstrap"
_RESERVED_NAMES: Final = (BOOTSTRAP_NAME, "cli", "service")
"""Other actors of events."""
_LONGEST_NAME: Final = 100
_USE_EXACT_TO: Final = timedelta(minutes=1)

log = get_logger(__name__)


class Scope(StrEnum):
    AUTHORIZE = "authorize"
    PROFILES = "profiles"
    TOKENS_READ = "tokens:read"
    EVIDENCE = "evidence"
    EVENTS = "events"
    WEBHOOKS = "webhooks"
    ADMIN = "admin"


class KeyStatus(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Caller:
    """Who calls: the name of an API key, what it may do (`admin`: all), for whom, and how often."""

    name: str
    scopes: frozenset[str]
    reach: Reach = EVERYTHING
    rate_limit_per_minute: int | None = None
    """None: as the settings say."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


COMMAND_LINE: Final = Caller("cli", frozenset(Scope))
"""Whoever has the settings may do all."""


@dataclass(frozen=True)
class MadeKey:
    """`key` cannot be shown again."""

    row: ApiKey
    key: SecretStr


@dataclass(frozen=True)
class KeyFilter:
    """None: whatever."""

    status: KeyStatus | None = None
    text: str | None = None
    """Part of the name."""


class KeyService:
    """`bootstrap_key`: the key of the settings, which works before any other exists. `api_apps`: the configured ones.

    A restricted caller (`Caller.reach`) manages the keys that it has made, and itself; others are not there for it.
    """

    def __init__(self, *, database: Database, bootstrap_key: SecretStr, api_apps: Collection[str]) -> None:
        self._database = database
        self._bootstrap_hash = hash_of(bootstrap_key.get_secret_value())
        self._api_apps = api_apps
        self._noting: dict[int, asyncio.Task[None]] = {}

    async def create(
        self,
        session: AsyncSession,
        *,
        name: str,
        scopes: frozenset[Scope],
        reach: Reach = EVERYTHING,
        expires_at: datetime | None = None,
        rate_limit_per_minute: int | None = None,
        caller: Caller,
    ) -> MadeKey:
        """Raises `InvalidRequestException`, `KeyNameTakenException`, `UnknownApiAppException`, and
        `KeyEscalationException` for a key that may more than the caller.
        """
        reach = self._checked(name, reach, expires_at)
        if not caller.reach.includes(reach) or not all(caller.may(scope) for scope in scopes):
            raise KeyEscalationException
        prefix, key = new_key()
        row = ApiKey(
            key_id=str(uuid.uuid4()),
            name=name,
            prefix=prefix,
            key_hash=hash_of(key),
            scopes=sorted(scopes),
            api_apps=sorted(reach.api_apps),
            account_patterns=list(reach.account_patterns),
            rate_limit_per_minute=rate_limit_per_minute,
            created_by=caller.name,
            expires_at=expires_at,
        )
        session.add(row)
        try:
            await session.flush()
        except IntegrityError:
            raise KeyNameTakenException(name) from None
        granted = {"scopes": row.scopes, "api_apps": row.api_apps, "account_patterns": row.account_patterns}
        _record(session, "api_key.created", row, caller, **granted)
        return MadeKey(row, SecretStr(key))

    async def page(
        self, session: AsyncSession, wanted: KeyFilter, request: PageRequest, *, caller: Caller
    ) -> Page[ApiKey]:
        """Those that the caller manages."""
        query = select(ApiKey).where(_managed_by(caller))
        if wanted.status is not None:
            query = query.where(_is(wanted.status))
        if wanted.text:
            query = query.where(ApiKey.name.icontains(wanted.text, autoescape=True))
        return await page_of(session, query, ApiKey, request)

    async def get(self, session: AsyncSession, key_id: str, *, caller: Caller) -> ApiKey:
        """Raises `KeyNotFoundException`."""
        return await _found(session, key_id, caller)

    async def named(self, session: AsyncSession, name: str) -> ApiKey:
        """Raises `KeyNotFoundException`."""
        row: ApiKey | None = await session.scalar(select(ApiKey).where(ApiKey.name == name))
        if row is None:
            raise KeyNotFoundException(name)
        return row

    async def rotate(
        self, session: AsyncSession, key_id: str, *, overlap: timedelta, caller: Caller
    ) -> MadeKey:
        """Another key for the same caller; the one it replaces works for `overlap` more, one before that no more.

        Raises `KeyNotFoundException`, `KeyEndedException`.
        """
        row = await _found(session, key_id, caller, lock=True)
        if (status := status_of(row)) is not KeyStatus.ACTIVE:
            raise KeyEndedException(row.name, status)
        row.previous_prefix = row.previous_hash = row.previous_expires_at = None
        if overlap:
            row.previous_prefix, row.previous_hash = row.prefix, row.key_hash
            row.previous_expires_at = utc_now() + overlap
        row.prefix, key = new_key()
        row.key_hash = hash_of(key)
        _record(session, "api_key.rotated", row, caller, overlap_seconds=overlap.total_seconds())
        return MadeKey(row, SecretStr(key))

    async def revoke(self, session: AsyncSession, key_id: str, *, caller: Caller) -> ApiKey:
        """End the key for good, from the next request on. The row stays: sessions and events tell its name.

        Raises `KeyNotFoundException`.
        """
        row = await _found(session, key_id, caller, lock=True)
        if row.revoked_at is None:
            row.revoked_at = utc_now()
            row.previous_prefix = row.previous_hash = row.previous_expires_at = None
            _record(session, "api_key.revoked", row, caller)
        return row

    async def authenticate(self, session: AsyncSession, key: str | None) -> Caller:
        """The caller behind `key`. Raises `AuthenticationException`: missing, unknown, expired and revoked are one.

        Whatever is wrong with it, the same work is done: one look-up, one hash, three comparisons.
        """
        presented, prefix = hash_of(key or ""), prefix_of(key or "")
        row: ApiKey | None = await session.scalar(
            select(ApiKey).where(or_(ApiKey.prefix == prefix, ApiKey.previous_prefix == prefix))
        )
        is_bootstrap = hmac.compare_digest(presented, self._bootstrap_hash)
        is_current = hmac.compare_digest(presented, row.key_hash if row else NO_HASH)
        is_previous = hmac.compare_digest(presented, (row and row.previous_hash) or NO_HASH)
        if key and is_bootstrap:
            return Caller(BOOTSTRAP_NAME, frozenset(Scope))
        if row is None or status_of(row) is not KeyStatus.ACTIVE:
            raise AuthenticationException
        if not is_current and not (is_previous and _is_to_come(row.previous_expires_at)):
            raise AuthenticationException
        self._note_use(row)
        reach = Reach.of(row.api_apps, row.account_patterns)
        return Caller(row.name, frozenset(row.scopes), reach, row.rate_limit_per_minute)

    async def close(self) -> None:
        """Wait for what is being written; the database's own deadlines end that."""
        await asyncio.gather(*self._noting.values())

    def _checked(self, name: str, reach: Reach, expires_at: datetime | None) -> Reach:
        """The reach as it is stored. Raises `InvalidRequestException`, `UnknownApiAppException`."""
        is_plain = name.isprintable() and 0 < len(name.strip()) == len(name) <= _LONGEST_NAME
        if not is_plain or name.lower() in _RESERVED_NAMES:
            raise InvalidRequestException(f"An API key cannot be named {name!r}; choose another name")
        if expires_at is not None and expires_at <= utc_now():
            raise InvalidRequestException("expires_at: must be in the future")
        if unknown := reach.api_apps - set(self._api_apps):
            raise UnknownApiAppException(min(unknown), sorted(self._api_apps))
        try:
            return Reach.of(reach.api_apps, [normalize_pattern(each) for each in reach.account_patterns])
        except ValueError as error:
            raise InvalidRequestException(f"account_patterns: {error}") from None

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
            async with self._database.transaction() as session:
                await session.execute(statement.values(last_used_at=now, updated_at=ApiKey.updated_at))
        except (DatabaseUnavailableException, SQLAlchemyError) as error:
            log.warning("api_key.use_not_noted", error=type(error).__name__)


def status_of(row: ApiKey) -> KeyStatus:
    if row.revoked_at is not None:
        return KeyStatus.REVOKED
    lives = row.expires_at is None or _is_to_come(row.expires_at)
    return KeyStatus.ACTIVE if lives else KeyStatus.EXPIRED


def _is(status: KeyStatus) -> ColumnElement[bool]:
    """The same as `status_of`, for a query."""
    lives = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > utc_now())
    return {
        KeyStatus.REVOKED: ApiKey.revoked_at.is_not(None),
        KeyStatus.EXPIRED: and_(ApiKey.revoked_at.is_(None), ~lives),
        KeyStatus.ACTIVE: and_(ApiKey.revoked_at.is_(None), lives),
    }[status]


def _managed_by(caller: Caller) -> ColumnElement[bool]:
    if caller.reach == EVERYTHING:
        return true()
    return or_(ApiKey.created_by == caller.name, ApiKey.name == caller.name)


async def _found(session: AsyncSession, key_id: str, caller: Caller, *, lock: bool = False) -> ApiKey:
    query = select(ApiKey).where(ApiKey.key_id == key_id, _managed_by(caller))
    row: ApiKey | None = await session.scalar(query.with_for_update() if lock else query)
    if row is None:
        raise KeyNotFoundException(key_id)
    return row


def _record(session: AsyncSession, event_type: str, row: ApiKey, caller: Caller, **data: Any) -> None:
    event_service.record(
        session, event_type, actor=caller.name, key_id=row.key_id, name=row.name, prefix=row.prefix, **data
    )


def _is_to_come(moment: datetime | None) -> bool:
    return moment is not None and moment > utc_now()
