"""Batches coming in, as JSON or CSV, and going out."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.api.schemas.common import Moment
from app.models import Batch, BatchStatus, SessionStatus
from app.services.batches import rows as batch_rows
from app.services.batches.creation import BatchCommand
from app.services.batches.queries import BatchView, RowResult
from app.services.batches.rows import RowDefaults
from app.utils.exceptions import InvalidRequestException, UnsupportedMediaTypeException

_CSV: Final = "text/csv"
_JSON: Final = "application/json"

_MAX_BRACES: Final = 4
"""Ceiling of braces for each row; a good one has one, and a text in a bad one may have some."""

Model = TypeVar("Model", bound=BaseModel)


class BatchDefaults(BaseModel):
    """Defaults of rows that name no value of their own."""

    model_config = ConfigDict(extra="forbid")

    api_app: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    priority: int = Field(default=5, ge=0, le=9)
    not_before: Moment | None = Field(default=None, description="Earliest start")
    expires_at: Moment | None = Field(default=None, description="Latest start")
    timeout_seconds: float | None = Field(
        default=None, ge=1, le=3600, description="Limit of one attempt, in seconds"
    )


class BatchPace(BaseModel):
    """Pace of a batch; the settings apply to omitted fields."""

    model_config = ConfigDict(extra="forbid")

    max_running: int | None = Field(default=None, ge=1, le=10_000, description="Sessions that run at once")
    stop_percent: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Percentage of failed ones among the last `stop_window` ended sessions above which the batch stops",
    )
    stop_window: int | None = Field(
        default=None, ge=1, le=10_000, description="Ended sessions over which failures are counted"
    )


class BatchRequest(BatchPace):
    rows: list[Any] = Field(
        description="Objects with `account_id`, `api_app` and `priority`. An invalid row does not affect the others"
    )
    defaults: BatchDefaults = BatchDefaults()


class CsvBatchRequest(BatchPace, BatchDefaults):
    """The query of a CSV batch."""


_JSON_SCHEMA: Final = BatchRequest.model_json_schema()
# The API's description has no place for definitions inside a schema: this one stands where it is used.
_JSON_SCHEMA["properties"]["defaults"] = _JSON_SCHEMA.pop("$defs")["BatchDefaults"]

REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        _JSON: {
            "schema": {"anyOf": [_JSON_SCHEMA, {"type": "array", "items": {"type": "object"}}]},
            "example": {"rows": [{"account_id": "my_account", "api_app": "AIOTT1"}], "max_running": 10},
        },
        _CSV: {"schema": {"type": "string"}, "example": "account_id,api_app\nmy_account,AIOTT1\n"},
    },
}
"""Body in the API's description: it is read by `read_batch`, row by row."""


def read_batch(content_type: str, query: Mapping[str, str], body: bytes, *, max_rows: int) -> BatchCommand:
    """Bad rows are kept with their reason.

    Raises `RequestValidationError`, `InvalidRequestException`, `UnsupportedMediaTypeException`.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == _CSV:
        options = _validate(CsvBatchRequest, dict(query))
        rows = batch_rows.from_csv(body, RowDefaults(options.api_app, options.priority), max_rows=max_rows)
        return _command(rows, options, options)
    if media_type != _JSON:
        raise UnsupportedMediaTypeException(f"{_JSON} or {_CSV}")
    # Before they take memory and time.
    if body.count(b"{") + body.count(b"[") > _MAX_BRACES * (max_rows + _MAX_BRACES):
        sentence = (
            f"A batch has {max_rows} rows at most: the body has more, so split it, or is not valid JSON"
        )
        raise InvalidRequestException(sentence)
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidRequestException("The body is not valid JSON") from None
    request = _validate(BatchRequest, {"rows": decoded} if isinstance(decoded, list) else decoded)
    defaults = RowDefaults(request.defaults.api_app, request.defaults.priority)
    rows = batch_rows.from_objects(request.rows, defaults, max_rows=max_rows)
    return _command(rows, request, request.defaults)


def _validate(model: type[Model], values: Any) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


def _command(rows: list[batch_rows.InputRow], pace: BatchPace, defaults: BatchDefaults) -> BatchCommand:
    return BatchCommand(
        rows=rows,
        max_running=pace.max_running,
        stop_percent=pace.stop_percent,
        stop_window=pace.stop_window,
        not_before=defaults.not_before,
        expires_at=defaults.expires_at,
        timeout_seconds=defaults.timeout_seconds,
    )


class ResultListQuery(BaseModel):
    """Page of a batch's results, which are few: no cursor is needed."""

    model_config = ConfigDict(extra="forbid")

    page: int = Field(default=1, ge=1, le=1_000_000, description="Number of the page, from 1")
    page_size: int = Field(default=50, ge=1, le=500, description="Rows on a page")


class RetryBatchRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    needs_attention: bool = Field(default=False, description="Include the sessions that need a person")


class RowResponse(BaseModel):
    """A row of the batch and what became of it."""

    row: int = Field(description="Number of the row, from 1; a CSV's header does not count")
    account_id: str
    api_app: str
    session_id: str | None = Field(description="null: the row could not become a session")
    existing: bool = Field(description="Whether the session was open already, or an earlier row created it")
    status: SessionStatus | None
    error: str | None
    error_code: str | None

    @classmethod
    def from_result(cls, result: RowResult) -> "RowResponse":
        return cls.model_construct(**vars(result))


class BatchSummary(BaseModel):
    """A batch without its counts."""

    batch_id: str
    status: BatchStatus
    reason: str | None = Field(description="Reason why the batch was stopped or cancelled")
    accepted: int = Field(description="Rows with a session")
    rejected: int = Field(description="Rows without one; their results say why")
    max_running: int
    stop_percent: int
    stop_window: int
    requested_by: str
    created_at: datetime
    started_at: datetime = Field(description="Time of the creation or of the last retry")
    completed_at: datetime | None = Field(description="End of the last session that the batch created")

    @classmethod
    def from_row(cls, row: Batch) -> "BatchSummary":
        return cls(**{name: getattr(row, name) for name in BatchSummary.model_fields})


class BatchResponse(BatchSummary):
    counts: dict[SessionStatus, int] = Field(description="Rows by the status of their session")
    eta_seconds: float | None = Field(
        description="Estimated seconds until all sessions have ended; null before the first end"
    )

    @classmethod
    def from_view(cls, view: BatchView) -> "BatchResponse":
        summary = BatchSummary.from_row(view.row)
        return cls(**vars(summary), counts=view.counts, eta_seconds=view.eta_seconds)


class PlacedBatchResponse(BatchResponse):
    existing: bool = Field(description="Whether an earlier request created it")
    rows: list[RowResponse]


class RetriedBatchResponse(BatchResponse):
    put_back: int = Field(description="Sessions that start again")
