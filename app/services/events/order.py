"""The order in which events are read by who must miss none: the stream and the webhooks.

On PostgreSQL an event gets its id before the commit of its transaction, so that one with a lower id may appear later.
Readers go by the transaction first, and only as far as every transaction has ended. On SQLite one writes at a time.
"""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Boolean, ColumnElement, Text, cast, func, literal, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from app.database import insert_or_update, is_sqlite
from app.models import Event, EventClass, EventDeletions


class Position(NamedTuple):
    """The event that was read last."""

    xact_id: int
    event_id: int


ORDER: Final = (Event.xact_id, Event.id)
_LAST_ID: Final = 2**63 - 1
_OLDEST_OPEN_TRANSACTION: Final = cast(
    cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger
)


def is_after(position: Position) -> ColumnElement[bool]:
    return _After(*ORDER, *map(literal, position))


def is_up_to(position: Position) -> ColumnElement[bool]:
    return _UpTo(*ORDER, *map(literal, position))


def is_settled(db: AsyncSession) -> ColumnElement[bool]:
    """Nothing can appear before them any more."""
    if is_sqlite(db):
        return true()
    return Event.xact_id < _OLDEST_OPEN_TRANSACTION


async def newest_position(db: AsyncSession) -> Position:
    """Return the position of the last settled event; no event is before (0, 0)."""
    query = select(*ORDER).where(is_settled(db)).order_by(*(column.desc() for column in ORDER)).limit(1)
    row = (await db.execute(query)).first()
    return Position(*row) if row else Position(0, 0)


async def deleted_to(db: AsyncSession, classes: Collection[EventClass]) -> int:
    """Return the highest id of a deleted event of these classes; 0 when none was deleted."""
    query = select(func.max(EventDeletions.deleted_to_id))
    return await db.scalar(query.where(EventDeletions.event_class.in_(classes))) or 0


async def note_deleted(db: AsyncSession, event_class: EventClass, to_id: int) -> None:
    """Note, in the transaction that deletes events of a class, the highest id of them."""
    new = insert_or_update(db, EventDeletions).values(event_class=event_class, deleted_to_id=to_id)
    is_later = new.excluded.deleted_to_id > EventDeletions.deleted_to_id
    changes = {"deleted_to_id": new.excluded.deleted_to_id}
    columns = [EventDeletions.event_class]
    await db.execute(new.on_conflict_do_update(index_elements=columns, set_=changes, where=is_later))


async def now(db: AsyncSession) -> Position:
    """Return a position before all events of open transactions, and maybe before a few that have just ended."""
    if is_sqlite(db):
        return Position(0, await db.scalar(select(func.max(Event.id))) or 0)
    return Position(await db.scalar(select(_OLDEST_OPEN_TRANSACTION - 1)) or 0, _LAST_ID)


class _After(FunctionElement[bool]):
    """Comparison of two columns with two values."""

    type = Boolean()
    inherit_cache = True
    operator = ">"
    _is_implicitly_boolean = True  # else SQLAlchemy writes "= 1" behind it, and SQLite searches no index


class _UpTo(_After):
    inherit_cache = True
    operator = "<="


@compiles(_After)
@compiles(_UpTo)
def _compared(element: _After, compiler: SQLCompiler, **options: Any) -> str:
    xact_id, event_id, xact, event = (compiler.process(each, **options) for each in element.clauses)
    return f"({xact_id}, {event_id}) {element.operator} ({xact}, {event})"


@compiles(_After, "sqlite")
@compiles(_UpTo, "sqlite")
def _compared_in_one_transaction(element: _After, compiler: SQLCompiler, **options: Any) -> str:
    # SQLite searches an index for the first of two compared columns only, and xact_id is 0 in all rows.
    xact_id, event_id, xact, event = (compiler.process(each, **options) for each in element.clauses)
    return f"({xact_id} = {xact} AND {event_id} {element.operator} {event})"
