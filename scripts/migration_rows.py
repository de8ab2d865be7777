"""Rows for any schema, so that migrations are tried on tables with data."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    Column,
    Engine,
    MetaData,
    Table,
    func,
    inspect,
    literal,
    select,
    table,
    union_all,
)
from sqlalchemy import types as sa

VERSION_TABLE = "alembic_version"
FIXED: dict[str, dict[str, object]] = {
    # Two open sessions of one account, which a later unique index allows only when one is marked as forced.
    "authorization_sessions": {"twitter_username": "shop", "api_app": "A", "status": "pending"},
    # The sign-in of a person has no key.
    "dashboard_sessions": {"key_id": None},
    # PostgreSQL has no partition for another one.
    "events": {"event_class": "audit"},
}
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_LONG = 100

# In this order: a subclass stands before its base.
_VALUES: tuple[tuple[type[sa.TypeEngine[Any]], Callable[[int], object]], ...] = (
    (sa.Uuid, lambda number: UUID(int=number)),
    (sa.Boolean, lambda number: number % 2 == 1),
    (sa.Integer, lambda number: number),
    (sa.Float, float),
    (sa.DateTime, lambda number: _EPOCH + timedelta(days=number)),
    (JSON, lambda number: [str(number)]),
    (sa.LargeBinary, lambda number: bytes([number])),
)


class Rows:
    """Two rows in each table of a schema: one with a value in every column, one with as few values as possible."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        metadata = MetaData()
        metadata.reflect(engine, only=lambda name, _: is_whole_table(name))
        self._tables = metadata.sorted_tables

    def replace(self) -> None:
        with self._engine.begin() as connection:
            for table in reversed(self._tables):
                connection.execute(table.delete())
            for table in self._tables:
                connection.execute(table.insert().values(_row(table, 1, table.columns)))
                needed = [column for column in table.columns if _is_needed(column)]
                connection.execute(table.insert().values(_row(table, 2, needed)))


def is_whole_table(name: str) -> bool:
    """Return False for partitions of the events, whose names depend on the date, and for Alembic's own table."""
    return name != VERSION_TABLE and not name.startswith("events_")


def count_rows(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        names = [name for name in inspect(connection).get_table_names() if is_whole_table(name)]
        counts = [select(literal(name), func.count()).select_from(table(name)) for name in names]
        return dict(connection.execute(union_all(*counts)).all()) if counts else {}


def _row(table: Table, number: int, columns: Any) -> dict[str, object]:
    values = {column.name: _value(column, number) for column in columns}
    fixed = FIXED.get(table.name, {})
    return {name: fixed.get(name, value) for name, value in values.items()}


def _is_needed(column: Column[Any]) -> bool:
    return column.primary_key or not (column.nullable or column.server_default or column.identity)


def _value(column: Column[Any], number: int) -> object:
    """Return a value that no other row has; a text is as long as its column allows."""
    kind = column.type
    if isinstance(kind, sa.Enum):
        return kind.enums[0]
    if isinstance(kind, sa.String):
        return str(number).ljust(kind.length or _LONG, "x")
    return next(make(number) for base, make in _VALUES if isinstance(kind, base))
