"""A caller's `Idempotency-Key`: the same key and request stand for what the first one made, for 24 hours."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final, cast

from sqlalchemy import Table, bindparam, delete, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import insert_or_update
from app.models import IdempotencyKey, utc_now
from app.utils.exceptions import IdempotencyConflictException

_LIFETIME: Final = timedelta(hours=24)
_FORM: Final = "2:"
"""Prefix of a fingerprint: the form in which it was made."""


DERIVED: Final = "derived"
"""Mark in a field's metadata: its value follows from others, and from the release that wrote its sentence."""


@dataclass(frozen=True)
class Claim:
    """A caller's key for a request, and the id of what the request makes if it is the first with the key."""

    caller: str
    key: str
    request: object
    """Told from another one by its `fingerprint`."""
    new_id: str

    @cached_property
    def place(self) -> tuple[str, str]:
        """Caller and hash of the key: where its row is."""
        return self.caller, _sha256(self.key)


async def remember(db: AsyncSession, *, caller: str, key: str, request: object, new_id: str) -> str | None:
    """Take the key for what this request makes; the id of what the first one made, if this is not the first.

    Raises `IdempotencyConflictException`.
    """
    claim, now = Claim(caller, key, request, new_id), utc_now()
    if new_id in await take_all(db, [claim], now):
        return None
    earlier = (await find_all(db, [claim], now))[new_id]
    if isinstance(earlier, IdempotencyConflictException):
        raise earlier
    return earlier


async def find_all(
    db: AsyncSession, claims: Sequence[Claim], now: datetime
) -> dict[str, str | IdempotencyConflictException]:
    """Return what the first requests with the claims' keys made, by `new_id`; nothing of a key that is free."""
    places = tuple_(IdempotencyKey.caller, IdempotencyKey.key_hash)
    query = select(IdempotencyKey).where(
        places.in_([claim.place for claim in claims]), IdempotencyKey.expires_at > now
    )
    rows = {(row.caller, row.key_hash): row for row in await db.scalars(query)}
    found: dict[str, str | IdempotencyConflictException] = {}
    for claim in claims:
        if (first := rows.get(claim.place)) is None:
            continue
        # An earlier release made its fingerprints of its own classes: those cannot be compared, and an honest retry
        # over the upgrade must find what it has made.
        is_same = not first.body_hash.startswith(_FORM) or first.body_hash == fingerprint(claim.request)
        found[claim.new_id] = first.session_id if is_same else IdempotencyConflictException()
    return found


async def take_all(db: AsyncSession, claims: Sequence[Claim], now: datetime) -> set[str]:
    """Take the keys that are free, and return the `new_id` of those. Of two that come at once the second waits for the
    first's commit. Claims are of different keys, and in the order of their places: else two groups may wait for each
    other. `now` is that of `find_all`: a key that ends between the two would be neither free nor found.
    """
    places = tuple_(IdempotencyKey.caller, IdempotencyKey.key_hash)
    is_over = (places.in_([claim.place for claim in claims]), IdempotencyKey.expires_at <= now)
    await db.execute(delete(IdempotencyKey).where(*is_over))
    values = [
        {
            "caller": claim.caller,
            "key_hash": claim.place[1],
            "body_hash": fingerprint(claim.request),
            "session_id": claim.new_id,
            "expires_at": now + _LIFETIME,
        }
        for claim in claims
    ]
    insert = insert_or_update(db, IdempotencyKey).on_conflict_do_nothing()
    return set(await db.scalars(insert.returning(IdempotencyKey.session_id), values))


async def replace_ids(db: AsyncSession, existing: Sequence[tuple[Claim, str]]) -> None:
    """Name what requests have found instead of what they would have made: claims that took their keys, and the ids."""
    if existing:
        table, row = cast("Table", IdempotencyKey.__table__), IdempotencyKey.__table__.c
        statement = update(table).where(
            row.caller == bindparam("of_caller"), row.key_hash == bindparam("of_key")
        )
        values = [
            {"of_caller": claim.caller, "of_key": claim.place[1], "session_id": found}
            for claim, found in existing
        ]
        await (await db.connection()).execute(statement, values)


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
