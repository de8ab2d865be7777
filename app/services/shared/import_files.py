"""Ceilings of the files that an operator imports, in bytes and rows."""

import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final, TextIO, TypeVar

from app.utils.exceptions import InvalidRequestException

MAX_IMPORT_BYTES: Final = 64 * 1024 * 1024
"""200,000 rows of tokens of usual lengths fit in."""
MAX_IMPORT_ROWS: Final = 200_000

Row = TypeVar("Row")


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


def limited(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows. Reads no further than the first row too many, and raises `InvalidRequestException` for it."""
    for number, row in enumerate(rows, start=1):
        if number > MAX_IMPORT_ROWS:
            raise InvalidRequestException(
                f"A file to import has {MAX_IMPORT_ROWS} rows at most, this one has more; split it"
            )
        yield row
