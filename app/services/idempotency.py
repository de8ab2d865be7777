"""A caller's `Idempotency-Key`: the same key and request stand for what the first one made, for 24 hours."""

import hashlib
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import insert_or_update
from app.models import IdempotencyKey, utc_now
from app.utils.exceptions import IdempotencyConflictException

_LIFETIME: Final = timedelta(hours=24)


async def remember(
    session: AsyncSession, *, caller: str, key: str, request: object, made_id: str
) -> str | None:
    """Take the key for what this request makes; the id of what the first one made, if this is not the first.

    `request`: told from another one by its `repr`. Raises `IdempotencyConflictException`.
    """
    now, key_hash, body_hash = utc_now(), _sha256(key), _sha256(repr(request))
    mine = (IdempotencyKey.caller == caller, IdempotencyKey.key_hash == key_hash)
    await session.execute(delete(IdempotencyKey).where(*mine, IdempotencyKey.expires_at <= now))
    insert = insert_or_update(session, IdempotencyKey).values(
        caller=caller,
        key_hash=key_hash,
        body_hash=body_hash,
        session_id=made_id,
        expires_at=now + _LIFETIME,
    )
    # Of two at once the second waits here for the first one's commit.
    if await session.scalar(insert.on_conflict_do_nothing().returning(IdempotencyKey.id)) is not None:
        return None
    first = (await session.scalars(select(IdempotencyKey).where(*mine))).one()
    if first.body_hash != body_hash:
        raise IdempotencyConflictException
    return first.session_id


async def point_at(session: AsyncSession, made_id: str, existing: str) -> None:
    """The request that took the key with `made_id` has found `existing` instead."""
    await session.execute(
        update(IdempotencyKey).where(IdempotencyKey.session_id == made_id).values(session_id=existing)
    )


def _sha256(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
