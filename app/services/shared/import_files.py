"""Files that an operator imports: their ceilings in bytes and rows, their CSV, and what is wrong with a line."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, TextIO, TypeVar

from app.utils.exceptions import InvalidRequestException

MAX_IMPORT_BYTES: Final = 64 * 1024 * 1024
"""200,000 rows of tokens of usual lengths fit in."""
MAX_IMPORT_ROWS: Final = 200_000

Row = TypeVar("Row")


@dataclass(frozen=True)
class BadLine:
    """A line that is not imported."""

    line: int
    """Number of the line in the file, from 1."""
    reason: str


def read_import(file: BinaryIO) -> bytes:
    """Return the content. Reads one byte more than the ceiling at most and raises `InvalidRequestException` for it."""
    content = file.read(MAX_IMPORT_BYTES + 1)
    if len(content) > MAX_IMPORT_BYTES:
        raise InvalidRequestException(
            f"A file to import has {MAX_IMPORT_BYTES >> 20} MB at most, this one has more; split it"
        )
    return content


def decoded_lines(content: bytes) -> TextIO:
    """Return UTF-8 text that is decoded as its lines are read, as the csv module wants them."""
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")


def csv_rows(
    lines: Iterable[str],
    *,
    columns: Sequence[str],
    required: Sequence[str],
    allow_unknown_columns: bool = True,
    strict: bool = True,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row under the line that it ends in, from 1, with its cells by the names in the first line.

    `strict`: as for `csv.reader`. Raises `InvalidRequestException`, which quotes nothing of the file, when the first
    line does not name every `required` one of the `columns`, or the rest is not CSV in UTF-8.
    """
    reader = csv.DictReader(lines, strict=strict)
    try:
        header = reader.fieldnames or ()
        if missing := [name for name in required if name not in header]:
            raise InvalidRequestException(
                f"The first line must name columns of {', '.join(columns)}; missing: {', '.join(missing)}"
            )
        if not allow_unknown_columns and (unknown := len(set(header) - set(columns))):
            raise InvalidRequestException(
                f"{unknown} of the first line's columns are unknown; known are {', '.join(columns)}"
            )
        for row in reader:
            yield reader.line_num, row
    except UnicodeDecodeError:
        raise InvalidRequestException(f"The CSV is not UTF-8 text after line {reader.line_num}") from None
    except csv.Error as error:
        raise InvalidRequestException(
            f"The CSV cannot be read after line {reader.line_num}: {error}"
        ) from None


def limited(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows. Reads no further than the first row too many, and raises `InvalidRequestException` for it."""
    for number, row in enumerate(rows, start=1):
        if number > MAX_IMPORT_ROWS:
            raise InvalidRequestException(
                f"A file to import has {MAX_IMPORT_ROWS} rows at most, this one has more; split it"
            )
        yield row
