"""Rows of a batch, from JSON or CSV; each is good or has the reason why it is not."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.services.authorizations import idempotency
from app.services.shared.import_files import csv_rows, decoded_lines
from app.utils.exceptions import InvalidRequestException
from app.utils.foreign_text import restore
from app.utils.handles import APP_NAME, normalize_handle

COLUMNS: Final = ("account_id", "api_app", "priority")
_MAX_DIGITS: Final = 9
_MAX_ECHO_LENGTH: Final = 128
_DEFAULT_PRIORITY: Final = 5


@dataclass(frozen=True)
class InputRow:
    """One account to authorise."""

    number: int
    """Number of the row, from 1."""
    account_id: str
    """A handle; as it was given, shortened, where `error` is set."""
    api_app: str
    priority: int = _DEFAULT_PRIORITY
    error: str | None = field(default=None, metadata={idempotency.DERIVED: True})
    """Reason why the row cannot become a session."""


@dataclass(frozen=True)
class RowDefaults:
    """Defaults of rows that do not say."""

    api_app: str | None = None
    priority: int = _DEFAULT_PRIORITY


def from_objects(rows: Iterable[Any], defaults: RowDefaults, *, max_rows: int) -> list[InputRow]:
    """Return the rows of decoded JSON. Raises `InvalidRequestException` at the first row too many."""
    checked_rows = []
    for number, values in enumerate(rows, start=1):
        if number > max_rows:
            raise InvalidRequestException(f"A batch has {max_rows} rows at most, this one has more; split it")
        checked_rows.append(_row(number, values, defaults))
    return checked_rows


def from_csv(content: bytes, defaults: RowDefaults, *, max_rows: int) -> list[InputRow]:
    """UTF-8 with a header; other columns do not matter.

    Raises `InvalidRequestException` when it is no such table, or has more rows.
    """
    required = ("account_id",) if defaults.api_app else ("account_id", "api_app")
    lines = csv_rows(decoded_lines(content), columns=COLUMNS, required=required)
    return from_objects(_csv_values(lines), defaults, max_rows=max_rows)


def _csv_values(lines: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for _, line in lines:
        values: dict[str, Any] = {name: restore(line[name]).strip() for name in COLUMNS if line.get(name)}
        priority = values.get("priority", "")
        if priority.isdecimal() and len(priority) <= _MAX_DIGITS:
            values["priority"] = int(priority)
        yield {name: value for name, value in values.items() if value != ""}


def _row(number: int, values: Any, defaults: RowDefaults) -> InputRow:
    fields: Mapping[str, Any] = values if isinstance(values, dict) else {}
    account_id, api_app = fields.get("account_id"), fields.get("api_app", defaults.api_app)
    try:
        if not isinstance(values, dict):
            raise ValueError("must be an object with account_id and api_app")
        if unknown := fields.keys() - COLUMNS:
            raise ValueError(f"unknown: {', '.join(sorted(map(_printable, unknown)))}")
        handle = _handle(account_id)
        if not isinstance(api_app, str) or not APP_NAME.fullmatch(api_app):
            raise ValueError("api_app: must be the name of an OAuth app")
        priority = fields.get("priority", defaults.priority)
        if type(priority) is not int or not 0 <= priority <= 9:
            raise ValueError("priority: must be a whole number from 0 to 9")
        return InputRow(number, handle, api_app, priority)
    except ValueError as error:
        return InputRow(number, _printable(account_id), _printable(api_app), error=str(error))


def _handle(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("account_id: is missing or no text")
    try:
        return normalize_handle(value)
    except ValueError as error:
        raise ValueError(f"account_id: {error}") from None


def _printable(value: Any) -> str:
    """Short, and without what a database does not store."""
    text = value if isinstance(value, str) else ""
    return text[:_MAX_ECHO_LENGTH].replace("\x00", "").encode(errors="replace").decode()
