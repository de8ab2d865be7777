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
R = TypeVar("R")

COUNT_LIMIT: Final = 100_000
"""Rows are counted up to here."""
SCAN_LIMIT: Final = 50_000
"""Rows that one query looks at when no index tells which ones fit."""


@dataclass(frozen=True)
class Total:
    number: int
    is_exact: bool = True
    """False: at least so many."""


NOT_COUNTED: Final = Total(0, is_exact=False)
_BELOW_ALL_IDS: Final = 0
"""`row_id` of a position behind all rows with its value, in a descending list."""


@dataclass(frozen=True)
class Position:
    """End of a page."""

    value: Any
    """Value of the sorted column, as JSON holds it; None when it had none."""
    row_id: int
    page: int = 1
    """Number of the page, from 1."""
    total: Total = NOT_COUNTED
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
class Page(Generic[R]):
    rows: Sequence[R]
    total: Total
    """Rows on all pages."""
    number: int
    end: Position | None = None
    """End of the page; None when nothing follows. A short page may have a next one: its scan had a limit."""


async def fetch_page(
    db: AsyncSession,
    query: Select[M],
    model: type[M],
    request: PageRequest,
    *,
    indexed: Select[M] | None = None,
    index_has_id: bool = True,
    scan_limit: int = SCAN_LIMIT,
    count_limit: int | None = COUNT_LIMIT,
) -> Page[M]:
    """Return one page of a query for rows of `model`: sorted, those without a value last, equal ones by their ids.

    `indexed`: the query with only those of its conditions that an index serves in this order, of a column that always
    has a value. Then no more than `scan_limit` of its rows are looked at, from where the page begins. `index_has_id`:
    False when the index ends with the sorted column, in descending order only; rows that are equal to the last one of a
    scan are then part of it.
    `count_limit`: None when the rows are not counted.
    Two statements; with `after`, or not counted, one; with `indexed` one more.
    """
    order = _SortOrder(model, request, has_values=indexed is not None)
    after, size = request.after, request.size
    if after is not None:
        query = query.where(order.follows(after))
    end = None
    if indexed is not None:
        end = await order.find_scan_end(db, indexed, after, limit=scan_limit, has_id=index_has_id)
    if end is not None:
        query = query.where(order.is_up_to(end))
    number, total = (request.number, NOT_COUNTED) if after is None else (after.page + 1, after.total)
    if after is None and count_limit is not None:
        total = await _count_up_to(db, query, count_limit, is_all=end is None)
    page = query.order_by(*order.columns).limit(size + 1)
    if after is None and number > 1:
        page = page.offset((number - 1) * size)
    page_rows = (await db.scalars(page)).all()
    rows = page_rows[:size]
    if len(page_rows) > size:
        end = order.read_position(rows[-1])
    return Page(rows, total, number, None if end is None else replace(end, page=number, total=total))


async def count_rows(
    db: AsyncSession,
    query: Select[M],
    model: type[M],
    request: PageRequest,
    *,
    limit: int,
    indexed: Select[M] | None = None,
    index_has_id: bool = True,
    scan_limit: int = SCAN_LIMIT,
) -> Total:
    """Return the total of a list up to `limit`, among the rows that its first page looks at; see `fetch_page`.

    One statement; with `indexed` two.
    """
    order = _SortOrder(model, request, has_values=indexed is not None)
    end = None
    if indexed is not None:
        end = await order.find_scan_end(db, indexed, None, limit=scan_limit, has_id=index_has_id)
    if end is not None:
        query = query.where(order.is_up_to(end))
    return await _count_up_to(db, query, limit, is_all=end is None)


async def _count_up_to(db: AsyncSession, query: Select[Any], limit: int, *, is_all: bool) -> Total:
    """Count the rows of a query, `limit` at most. `is_all`: it leaves out none that count."""
    rows: Select[Any] = query.with_only_columns(literal_column("1"), maintain_column_froms=True).limit(
        limit + 1
    )
    number = await db.scalar(select(func.count()).select_from(rows.subquery())) or 0
    return Total(min(number, limit), is_exact=is_all and number <= limit)


class _SortOrder:
    """Total: by a column, then by the id in the same direction, so that one index can serve both.

    `has_values`: the rows have a value, also where the column allows none.
    """

    def __init__(
        self, model: type[DeclarativeBase], request: PageRequest, *, has_values: bool = False
    ) -> None:
        columns = model.__mapper__.columns
        self._name = request.sort
        self._column, self._id = columns[request.sort], columns["id"]
        self._descending = request.descending
        self._has_nulls = self._column.nullable and not has_values
        directed = [each.desc() if self._descending else each.asc() for each in (self._column, self._id)]
        # Where there is always a value the word would only keep PostgreSQL from using an index.
        first = directed[0].nulls_last() if self._has_nulls else directed[0]
        self.columns: tuple[Any, ...] = (first, directed[1])

    def follows(self, position: Position) -> ColumnElement[bool]:
        """Return the condition of the rows that come after it."""
        if position.value is None:
            return and_(self._column.is_(None), self._compare(self._id, position.row_id))
        condition = self._compare(tuple_(self._column, self._id), self._values(position))
        return or_(condition, self._column.is_(None)) if self._has_nulls else condition

    def is_up_to(self, position: Position) -> ColumnElement[bool]:
        """Return the condition of the rows up to it, where each has a value."""
        # Not the negation of `follows`: no planner would end its way through the index there.
        if position.row_id == _BELOW_ALL_IDS:
            return self._compare(self._value(position), self._column, or_equal=True)
        return self._compare(self._values(position), tuple_(self._column, self._id), or_equal=True)

    def read_position(self, row: Any) -> Position:
        value = getattr(row, self._name)
        return Position(value.isoformat() if isinstance(value, datetime) else value, row.id)

    async def find_scan_end(
        self, db: AsyncSession, indexed: Select[Any], after: Position | None, *, limit: int, has_id: bool
    ) -> Position | None:
        """Return the row at which a look at `limit` rows ends; None: there are not so many."""
        if after is not None:
            indexed = indexed.where(self.follows(after))
        columns: tuple[Any, Any] = (self._column, self._id)
        offset = limit - 1
        if not has_id:
            if not self._descending:
                raise ValueError("an index without the id serves a descending order only")
            # Not the ids: for them PostgreSQL would read each row, and sort.
            columns, offset = (self._column, literal_column(str(_BELOW_ALL_IDS)).label("id")), limit
        rows = indexed.with_only_columns(*columns).order_by(*(self.columns if has_id else self.columns[:1]))
        row = (await db.execute(rows.offset(offset).limit(1))).first()
        return None if row is None else self.read_position(row)

    def _value(self, position: Position) -> Any:
        is_time = isinstance(self._column.type, UtcDateTime)
        value = datetime.fromisoformat(position.value) if is_time else position.value
        return literal(value, self._column.type)

    def _values(self, position: Position) -> Any:
        return tuple_(self._value(position), literal(position.row_id, self._id.type))

    def _compare(self, later: Any, earlier: Any, *, or_equal: bool = False) -> ColumnElement[bool]:
        """Return the condition that `later` comes after `earlier` in this order."""
        compare = (le if or_equal else lt) if self._descending else (ge if or_equal else gt)
        condition: ColumnElement[bool] = compare(later, earlier)
        return condition
