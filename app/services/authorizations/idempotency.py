"""A caller's `Idempotency-Key`: the same key and request stand for what the first one made, for 24 hours."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import insert_or_update
from app.models import IdempotencyKey, utc_now
from app.utils.exceptions import IdempotencyConflictException

_LIFETIME: Final = timedelta(hours=24)
_FORM: Final = "2:"
"""Prefix of a fingerprint: the form in which it was made."""


DERIVED: Final = "derived"
"""Mark in a field's metadata: its value follows from others, and from the release that wrote its sentence."""


async def remember(db: AsyncSession, *, caller: str, key: str, request: object, new_id: str) -> str | None:
    """Take the key for what this request makes; the id of what the first one made, if this is not the first.

    `request`: told from another one by its `fingerprint`. Raises `IdempotencyConflictException`.
    """
    now, key_hash, body_hash = utc_now(), _sha256(key), fingerprint(request)
    is_same_key = (IdempotencyKey.caller == caller, IdempotencyKey.key_hash == key_hash)
    await db.execute(delete(IdempotencyKey).where(*is_same_key, IdempotencyKey.expires_at <= now))
    insert = insert_or_update(db, IdempotencyKey).values(
        caller=caller,
        key_hash=key_hash,
        body_hash=body_hash,
        session_id=new_id,
        expires_at=now + _LIFETIME,
    )
    # Of two at once the second waits here for the first one's commit.
    if await db.scalar(insert.on_conflict_do_nothing().returning(IdempotencyKey.id)) is not None:
        return None
    first = (await db.scalars(select(IdempotencyKey).where(*is_same_key))).one()
    # An earlier release made its fingerprints of its own classes: those cannot be compared, and an honest retry
    # over the upgrade must find what it has made.
    if first.body_hash.startswith(_FORM) and first.body_hash != body_hash:
        raise IdempotencyConflictException
    return first.session_id


async def replace_id(db: AsyncSession, new_id: str, existing_id: str) -> None:
    """The request that took the key with `new_id` has found `existing_id` instead."""
    await db.execute(
        update(IdempotencyKey).where(IdempotencyKey.session_id == new_id).values(session_id=existing_id)
    )


def fingerprint(request: Any) -> str:
    """Return a hash of the canonical JSON of what a request says.

    A field that has its default says nothing, so that a new optional one of a later release changes no fingerprint;
    neither do `DERIVED` fields.
    """
    canonical = json.dumps(_canonical_value(request), sort_keys=True, separators=(",", ":"))
    return _FORM + _sha256(canonical)[: -len(_FORM)]


def _canonical_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            field.name: _canonical_value(field_value)
            for field in dataclasses.fields(value)
            if not field.metadata.get(DERIVED)
            and (field_value := getattr(value, field.name)) != _default_value(field)
        }
    if isinstance(value, Mapping):
        return {str(name): _canonical_value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical_value(each) for each in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value


def _default_value(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _sha256(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
