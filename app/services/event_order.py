"""The order in which events are read by who must miss none: the stream and the webhooks.

On PostgreSQL an event gets its id before the commit of its transaction, so that one with a lower id may appear later.
Readers go by the transaction first, and only as far as every transaction has ended. On SQLite one writes at a time.
"""

from typing import Final, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Text, cast, func, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Event


class Position(NamedTuple):
    """The event that was read last."""

    xact_id: int
    event_id: int


ORDER: Final = (Event.xact_id, Event.id)


def after(position: Position) -> ColumnElement[bool]:
    return tuple_(Event.xact_id, Event.id) > tuple_(*position)


def settled(session: AsyncSession) -> ColumnElement[bool]:
    """Nothing can appear before them any more."""
    if session.get_bind().dialect.name == "sqlite":
        return true()
    return Event.xact_id < _oldest_open_transaction()


async def now(session: AsyncSession) -> Position:
    """After it come all events of transactions that have not ended yet, and maybe a few that have just ended."""
    if session.get_bind().dialect.name == "sqlite":
        return Position(0, await session.scalar(select(func.max(Event.id))) or 0)
    return Position(await session.scalar(select(_oldest_open_transaction() - 1)) or 0, _LAST_ID)


_LAST_ID: Final = 2**63 - 1


def _oldest_open_transaction() -> ColumnElement[int]:
    return cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)
