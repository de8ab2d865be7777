"""Inserts of many rows by one statement: they travel as one JSON text, so that a row costs little but its storage."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import JSON, String, Table, bindparam, cast, column, func, literal, select, text
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase

from app.database import is_sqlite

MAX_ROWS: Final = 1_000
"""Rows of one statement: more would keep the event loop busy for longer than other callers should wait."""

Row = Mapping[str, Any]
"""Values by attribute."""


def insert_from_json(
    db: AsyncSession, model: type[DeclarativeBase], names: Sequence[str], shared: Row
) -> Any:
    """Return an INSERT that knows ON CONFLICT, of the attributes `names` of the rows in its parameter `rows`.

    The parameter is what `json_rows` returns; `shared`: attributes that all rows have in common. Rows are inserted in
    their order.
    """
    table, rows, columns = model.__table__, bindparam("rows", type_=String), model.__mapper__.columns
    assert isinstance(table, Table)
    targets = [columns[name] for name in (*shared, *names)]
    values = [literal(value, columns[name].type) for name, value in shared.items()]
    if is_sqlite(db):
        each = func.json_each(rows).table_valued("value")
        own = [func.json_extract(each.c.value, f"$.{name}") for name in names]
        # Without WHERE, SQLite takes ON CONFLICT for a part of the SELECT.
        return sqlite_insert(table).from_select(targets, select(*values, *own).where(text("1")))
    typed = [column(name, columns[name].type) for name in names]
    records = func.json_to_recordset(cast(rows, JSON)).table_valued(*typed).render_derived(with_types=True)
    return postgresql_insert(table).from_select(targets, select(*values, *records.c))


def json_rows(rows: Sequence[Row]) -> dict[str, str]:
    """Return the parameter of `insert_from_json`."""
    return {"rows": json.dumps(rows, default=_stored_time)}


async def insert_rows(
    db: AsyncSession, model: type[DeclarativeBase], rows: Sequence[Row], *, shared: Row | None = None
) -> None:
    """Insert rows that have the same attributes, `MAX_ROWS` by a statement; `shared`: those that all have in common."""
    for start in range(0, len(rows), MAX_ROWS):
        chunk = rows[start : start + MAX_ROWS]
        await db.execute(insert_from_json(db, model, list(chunk[0]), shared or {}), json_rows(chunk))


def _stored_time(value: object) -> str:
    """Return a time as SQLAlchemy writes it for SQLite, where times compare as text; PostgreSQL's session has UTC."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise TypeError(f"a value of {type(value)} cannot be stored")
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
