"""API keys: made, shown once, kept as a hash, checked in constant time."""

import hashlib
import hmac
import secrets
import uuid
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import ApiKey, utc_now
from app.services import event_service
from app.services.reach import EVERYTHING, Reach
from app.utils.exceptions import AuthenticationException, InvalidRequestException

BOOTSTRAP_NAME: Final = "bootstrap"
_MARK: Final = "gla"
_NO_HASH: Final = "0" * 64


class Scope(StrEnum):
    AUTHORIZE = "authorize"
    PROFILES = "profiles"
    TOKENS_READ = "tokens:read"
    EVIDENCE = "evidence"
    EVENTS = "events"
    WEBHOOKS = "webhooks"
    ADMIN = "admin"


@dataclass(frozen=True)
class Caller:
    """Who calls: the name of an API key, what it may do (`admin`: all), and for whom."""

    name: str
    scopes: frozenset[str]
    reach: Reach = EVERYTHING

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


class KeyService:
    """`bootstrap_key`: the key of the settings, which works before any other exists."""

    def __init__(self, *, bootstrap_key: SecretStr) -> None:
        self._bootstrap_hash = _hash(bootstrap_key.get_secret_value())

    async def create(
        self, session: AsyncSession, *, name: str, scopes: frozenset[Scope], lifetime: timedelta | None = None
    ) -> str:
        """Make a key and return it; it cannot be shown again. Raises `InvalidRequestException` for a taken name."""
        if name == BOOTSTRAP_NAME or not name.strip():
            raise InvalidRequestException(f"An API key cannot be named '{name}'; choose another name")
        prefix, key = _new_key()
        expires_at = utc_now() + lifetime if lifetime else None
        session.add(
            ApiKey(
                key_id=str(uuid.uuid4()),
                name=name,
                prefix=prefix,
                key_hash=_hash(key),
                scopes=sorted(scopes),
                created_by="cli",
                expires_at=expires_at,
            )
        )
        try:
            await session.flush()
        except IntegrityError:
            raise InvalidRequestException(f"An API key named '{name}' exists already") from None
        event_service.record(session, "api_key.created", name=name, scopes=sorted(scopes))
        return key

    async def authenticate(self, session: AsyncSession, key: str | None) -> Caller:
        """The caller behind `key`. Raises `AuthenticationException` for a missing, unknown or expired one.

        Whatever is wrong with a key, the same work is done: one look-up, one hash, two comparisons.
        """
        if not key:
            raise AuthenticationException
        presented = _hash(key)
        row = await session.scalar(select(ApiKey).where(ApiKey.prefix == _prefix(key)))
        is_bootstrap = hmac.compare_digest(presented, self._bootstrap_hash)
        matches = hmac.compare_digest(presented, row.key_hash if row else _NO_HASH)
        if is_bootstrap:
            return Caller(BOOTSTRAP_NAME, frozenset(Scope))
        if row is None or not matches or (row.expires_at is not None and row.expires_at <= utc_now()):
            raise AuthenticationException
        return Caller(row.name, frozenset(row.scopes))


def _new_key() -> tuple[str, str]:
    """Prefix and whole key: ``gla_<8 visible characters>_<43 random ones>``, 256 random bits."""
    prefix = f"{_MARK}_{secrets.token_hex(4)}"
    return prefix, f"{prefix}_{secrets.token_urlsafe(32)}"


def _prefix(key: str) -> str:
    return "_".join(key.split("_", 2)[:2])


def _hash(key: str) -> str:
    """A plain SHA-256: a key of 256 random bits cannot be guessed, so a slow hash would only slow each request."""
    return hashlib.sha256(key.encode()).hexdigest()
