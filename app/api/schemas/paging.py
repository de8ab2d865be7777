"""Paging of all lists: pages by number, and signed cursors."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app.api.responses import PaginatedResponse, paginated_response
from app.services.keys.service import Caller
from app.services.shared.paging import Page, PageRequest, Position, Total
from app.utils.cursors import Cursors

T = TypeVar("T")


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

    def wanted(
        self, cursors: Cursors, caller: Caller, *, of: str, sort: str = "id", descending: bool = False
    ) -> PageRequest:
        """`of`: the list's name. Raises `InvalidCursorException`."""
        after = None
        if self.cursor is not None:
            page, total, is_exact, row_id, value = cursors.read(
                self.cursor, reader=caller.name, of=of, filters=self._filters()
            )
            after = Position(value, row_id, page, Total(total, is_exact))
        return PageRequest(self.page, self.page_size, sort, descending, after)

    def answer(
        self, page: Page[Any], rows: list[T], cursors: Cursors, caller: Caller, *, of: str
    ) -> PaginatedResponse[T]:
        """`rows`: those of `page` as they are shown."""
        total, cursor = page.total, None
        if page.end is not None:
            place: list[Any] = [page.number, total.number, total.is_exact, page.end.row_id, page.end.value]
            cursor = cursors.write(place, reader=caller.name, of=of, filters=self._filters())
        return paginated_response(
            rows,
            total=total.number,
            total_is_exact=total.is_exact,
            page=page.number,
            page_size=self.page_size,
            next_cursor=cursor,
        )

    def _filters(self) -> dict[str, Any]:
        return self.model_dump(
            mode="json", include=set(type(self).model_fields) - set(PageQuery.model_fields)
        )
