"""Paging of all lists: pages by number, and signed cursors."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app.api.responses import PaginatedResponse, paginated_response
from app.services.keys.service import Caller
from app.services.shared.paging import Page, PageRequest, Position, Total
from app.utils.cursors import Cursors

T = TypeVar("T")
R = TypeVar("R")


class PageQuery(BaseModel):
    """Page of a list; a list adds its filters, and maybe `sort` and `order`, to which its cursors are bound."""

    model_config = ConfigDict(extra="forbid")

    page: int = Field(
        default=1, ge=1, le=1_000_000, description="Number of the page, from 1; ignored with `cursor`"
    )
    page_size: int = Field(default=50, ge=1, le=500, description="Rows on a page")
    cursor: str | None = Field(
        default=None,
        max_length=7_000,
        json_schema_extra={"pattern": "^[A-Za-z0-9_=-]+$"},
        description="`next_cursor` of the page before, with the same key, filters and order: however deep, it costs "
        "the same, and rows that come and go meanwhile move no other",
    )

    def given_filters(self) -> dict[str, Any]:
        """Return filters and order, as JSON."""
        return self.model_dump(
            mode="json", include=set(type(self).model_fields) - set(PageQuery.model_fields)
        )


class CursorQuery(Protocol):
    """Query of a list with cursors: a `PageQuery`, or one with other limits."""

    page: int
    page_size: int
    cursor: str | None

    def given_filters(self) -> dict[str, Any]: ...


class Pager:
    """Translates the query of a list into a page request, and the page into an answer with the next cursor.

    A cursor is bound to the list's name, its filters and the caller.
    """

    def __init__(self, query: CursorQuery, cursors: Cursors, caller: Caller, *, list_name: str) -> None:
        self._query = query
        self._cursors = cursors
        self._scope: dict[str, Any] = {
            "reader": caller.name,
            "list_name": list_name,
            "filters": query.given_filters(),
        }

    def request(self, *, sort: str = "id", descending: bool = False) -> PageRequest:
        """Raises `InvalidCursorException`."""
        query, after = self._query, None
        if query.cursor is not None:
            page, total, is_exact, row_id, value = self._cursors.read(query.cursor, **self._scope)
            after = Position(value, row_id, page, Total(total, is_exact))
        return PageRequest(query.page, query.page_size, sort, descending, after)

    def answer(self, page: Page[R], to_row: Callable[[R], T]) -> PaginatedResponse[T]:
        """`to_row`: makes what is shown of a row."""
        total, cursor = page.total, None
        if page.end is not None:
            position = [page.number, total.number, total.is_exact, page.end.row_id, page.end.value]
            cursor = self._cursors.write(position, **self._scope)
        return paginated_response(
            [to_row(row) for row in page.rows],
            total=total.number,
            total_is_exact=total.is_exact,
            page=page.number,
            page_size=self._query.page_size,
            next_cursor=cursor,
        )
