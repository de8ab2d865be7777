"""Pages of a list: by number, or on from where the last one ended, which costs the same however deep it is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import ge, gt, le, lt
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, and_, func, literal, literal_column, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase

from app.models.base import UtcDateTime

M = TypeVar("M", bound=DeclarativeBase)

COUNT_LIMIT: Final = 100_000
"""Rows are counted up to here."""
SCAN_LIMIT: Final = 50_000
"""Rows that one query looks at when no index tells which ones fit."""


@dataclass(frozen=True)
class Total:
    number: int
    is_exact: bool = True
    """False: at least so many."""


@dataclass(frozen=True)
class Position:
    """End of a page."""

    value: Any
    """Value of the sorted column, as JSON holds it; None when it had none."""
    row_id: int
    page: int = 1
    """Number of the page, from 1."""
    total: Total = Total(0)
    """Total that was counted for the first page."""


@dataclass(frozen=True)
class PageRequest:
    number: int = 1
    """Number of the page, from 1; ignored with `after`."""
    size: int = 50
    sort: str = "id"
    """The name of the model's attribute."""
    descending: bool = False
    after: Position | None = None


@dataclass(frozen=True)
class Page(Generic[M]):
    rows: Sequence[M]
    total: Total
    """Rows on all pages."""
    number: int
    end: Position | None
    """End of the page; None when nothing follows. A short page may have a next one: its scan had a limit."""


async def page_of(
    db: AsyncSession,
    query: Select[M],
    model: type[M],
    wanted: PageRequest,
    *,
    within: Select[M] | None = None,
    scan_limit: int = SCAN_LIMIT,
    count_limit: int = COUNT_LIMIT,
) -> Page[M]:
    """One page of a query for rows of `model`: sorted, those without a value last, equal ones by their ids.

    `within`: the query with only those of its conditions that an index serves in the wanted order, of a column that
    always has a value. Then no more than `scan_limit` of its rows are looked at, from where the page begins.
    Two statements; with `after` one; with `within` one more.
    """
    order = _SortOrder(model, wanted.sort, descending=wanted.descending)
    after, size = wanted.after, wanted.size
    if after is not None:
        query = query.where(order.follows(after))
    last = None if within is None else await order.last_to_look_at(db, within, after, scan_limit)
    if last is not None:
        query = query.where(order.goes_to(last))
    total = await count_up_to(db, query, count_limit, is_all=last is None) if after is None else after.total
    number = wanted.number if after is None else after.page + 1
    page = query.order_by(*order.by).limit(size + 1)
    found = (await db.scalars(page.offset((number - 1) * size) if after is None else page)).all()
    rows = found[:size]
    if len(found) > size:
        last = order.position_of(rows[-1])
    return Page(rows, total, number, None if last is None else replace(last, page=number, total=total))


async def count_up_to(db: AsyncSession, query: Select[Any], limit: int, *, is_all: bool) -> Total:
    """The rows of a query, `limit` at most. `is_all`: it leaves out none that count."""
    some: Select[Any] = query.with_only_columns(literal_column("1"), maintain_column_froms=True).limit(
        limit + 1
    )
    number = await db.scalar(select(func.count()).select_from(some.subquery())) or 0
    return Total(min(number, limit), is_exact=is_all and number <= limit)


class _SortOrder:
    """Total: by a column, then by the id in the same direction, so that one index can serve both."""

    def __init__(self, model: type[DeclarativeBase], attribute: str, *, descending: bool) -> None:
        columns = model.__mapper__.columns
        self._name = attribute
        self._column, self._id = columns[attribute], columns["id"]
        self._descending = descending

    @property
    def by(self) -> tuple[Any, ...]:
        directed = [each.desc() if self._descending else each.asc() for each in (self._column, self._id)]
        # Where there is always a value the word would only keep PostgreSQL from using an index.
        return (directed[0].nulls_last() if self._column.nullable else directed[0], directed[1])

    def follows(self, position: Position) -> ColumnElement[bool]:
        """Return the condition of the rows that come after it."""
        if position.value is None:
            return and_(self._column.is_(None), self._after(self._id, position.row_id))
        later = self._after(tuple_(self._column, self._id), self._place(position))
        return or_(later, self._column.is_(None)) if self._column.nullable else later

    def goes_to(self, position: Position) -> ColumnElement[bool]:
        """Return the condition of the rows up to it, where each has a value."""
        # Not the negation of `follows`: no planner would end its way through the index there.
        return self._after(self._place(position), tuple_(self._column, self._id), or_equal=True)

    def position_of(self, row: Any) -> Position:
        value = getattr(row, self._name)
        return Position(value.isoformat() if isinstance(value, datetime) else value, row.id)

    async def last_to_look_at(
        self, db: AsyncSession, within: Select[Any], after: Position | None, limit: int
    ) -> Position | None:
        """The row at which a look at `limit` rows ends; None: there are not so many."""
        rows = within.with_only_columns(self._column, self._id).order_by(*self.by)
        if after is not None:
            rows = rows.where(self.follows(after))
        row = (await db.execute(rows.offset(limit - 1).limit(1))).first()
        return None if row is None else self.position_of(row)

    def _place(self, position: Position) -> Any:
        is_time = isinstance(self._column.type, UtcDateTime)
        value = datetime.fromisoformat(position.value) if is_time else position.value
        return tuple_(literal(value, self._column.type), literal(position.row_id, self._id.type))

    def _after(self, place: Any, value: Any, *, or_equal: bool = False) -> ColumnElement[bool]:
        compare = (le if or_equal else lt) if self._descending else (ge if or_equal else gt)
        after: ColumnElement[bool] = compare(place, value)
        return after
