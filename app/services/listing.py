"""Pages of a list: by number, or on from where the last one ended, which costs the same however deep it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, and_, func, literal, or_, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase

from app.models.base import UtcDateTime

M = TypeVar("M", bound=DeclarativeBase)


@dataclass(frozen=True)
class Position:
    """Where a page ended."""

    value: Any
    """Of the column that is sorted by, as JSON holds it; None: it had none."""
    row_id: int
    page: int
    """Its number, from 1."""
    total: int
    """As it was counted for the first page."""


@dataclass(frozen=True)
class PageRequest:
    number: int = 1
    """From 1; does not count with `after`."""
    size: int = 50
    sort: str = "id"
    """The name of a column."""
    descending: bool = False
    after: Position | None = None


@dataclass(frozen=True)
class Page(Generic[M]):
    rows: Sequence[M]
    total: int
    """Rows on all pages."""
    number: int
    end: Position | None
    """None: nothing follows."""


async def page_of(session: AsyncSession, query: Select[M], model: type[M], wanted: PageRequest) -> Page[M]:
    """One page of a query for rows of `model`: sorted, those without a value last, equal ones by their ids.

    Two statements; with `after` one.
    """
    order = _Order(model, wanted.sort, descending=wanted.descending)
    after, size = wanted.after, wanted.size
    page = query.order_by(*order.by).limit(size + 1)
    if after is None:
        total = await session.scalar(query.with_only_columns(func.count(), maintain_column_froms=True)) or 0
        number, page = wanted.number, page.offset((wanted.number - 1) * size)
    else:
        total, number = after.total, after.page + 1
        page = page.where(order.follows(after))
    found = (await session.scalars(page)).all()
    rows = found[:size]
    end = order.position_of(rows[-1], page=number, total=total) if len(found) > size else None
    return Page(rows, total, number, end)


class _Order:
    """Total: by a column, then by the id in the same direction, so that one index can serve both."""

    def __init__(self, model: type[DeclarativeBase], column: str, *, descending: bool) -> None:
        columns = model.__table__.c
        self._name = column
        self._column, self._id = columns[column], columns["id"]
        self._descending = descending

    @property
    def by(self) -> tuple[Any, ...]:
        directed = [each.desc() if self._descending else each.asc() for each in (self._column, self._id)]
        # Where there is always a value the word would only keep PostgreSQL from using an index.
        return (directed[0].nulls_last() if self._column.nullable else directed[0], directed[1])

    def follows(self, position: Position) -> ColumnElement[bool]:
        """Of the rows that come after it."""
        if position.value is None:
            return and_(self._column.is_(None), self._after(self._id, position.row_id))
        is_time = isinstance(self._column.type, UtcDateTime)
        value = datetime.fromisoformat(position.value) if is_time else position.value
        later = self._after(
            tuple_(self._column, self._id),
            tuple_(literal(value, self._column.type), literal(position.row_id, self._id.type)),
        )
        return or_(later, self._column.is_(None)) if self._column.nullable else later

    def position_of(self, row: Any, *, page: int, total: int) -> Position:
        value = getattr(row, self._name)
        return Position(value.isoformat() if isinstance(value, datetime) else value, row.id, page, total)

    def _after(self, place: Any, value: Any) -> ColumnElement[bool]:
        after: ColumnElement[bool] = place < value if self._descending else place > value
        return after
