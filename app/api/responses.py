"""The envelope of every answer."""

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from app.models import utc_now
from app.utils.exceptions import ErrorCode
from app.utils.request_id import current_request_id

T = TypeVar("T")


class APIResponse(BaseModel, Generic[T]):
    """Envelope of every answer; `error` and `error_code` are null on success, `data` on failure."""

    success: bool
    data: T | None = None
    error: str | None = Field(default=None, description="Message that says what went wrong and what to do")
    error_code: str | None = Field(default=None, description="Stable, for programs")
    request_id: str | None = Field(
        default=None, description="Quote it to the operators; every log line carries it"
    )
    timestamp: datetime = Field(default_factory=utc_now)


class ErrorResponse(BaseModel):
    """Envelope of every refusal and failure."""

    success: Literal[False] = False
    data: dict[str, Any] | None = Field(
        default=None,
        description="Details for programs; with INVALID_REQUEST `problems`: "
        "a list of `field`, `problem` and `allowed`",
    )
    error: str = Field(description="Message that says what went wrong and what to do")
    error_code: ErrorCode = Field(description="Stable, for programs")
    request_id: str | None = Field(description="Quote it to the operators; every log line carries it")
    timestamp: datetime = Field(default_factory=utc_now)


class PaginatedResponse(BaseModel, Generic[T]):
    """A page of a list."""

    success: bool = True
    data: list[T]
    total: int = Field(description="Rows on all pages, as far as they are counted")
    total_is_exact: bool = Field(default=True, description="false: there are more than `total`")
    page: int = Field(description="Number of the page, from 1")
    page_size: int
    total_pages: int
    next_cursor: str | None = Field(
        default=None,
        description="Cursor of the next page, to be sent with the same filters and order; null: this page is the "
        "last, or the list has page numbers only",
    )
    request_id: str | None = Field(description="Quote it to the operators; every log line carries it")
    timestamp: datetime = Field(default_factory=utc_now)


def success_response(data: T) -> APIResponse[T]:
    return APIResponse(success=True, data=data, request_id=current_request_id())


def paginated_response(
    data: list[T],
    *,
    total: int,
    page: int,
    page_size: int,
    total_is_exact: bool = True,
    next_cursor: str | None = None,
) -> PaginatedResponse[T]:
    return PaginatedResponse(
        data=data,
        total=total,
        total_is_exact=total_is_exact,
        page=page,
        page_size=page_size,
        total_pages=-(-total // page_size),
        next_cursor=next_cursor,
        request_id=current_request_id(),
    )


def error_response(error: str, error_code: ErrorCode, data: dict[str, Any] | None = None) -> dict[str, Any]:
    response = ErrorResponse(data=data, error=error, error_code=error_code, request_id=current_request_id())
    return response.model_dump(mode="json")
