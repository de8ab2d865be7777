"""Rows of a batch are read no further than they are taken."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from app.api.schemas.batch import read_batch
from app.services.batches import rows as batch_rows
from app.services.batches.rows import RowDefaults
from app.utils.exceptions import InvalidRequestException


def test_reading_stops_at_the_first_row_too_many() -> None:
    numbers = itertools.count(1)

    def rows() -> Iterator[dict[str, Any]]:
        for _ in numbers:
            yield {"account_id": "alice", "api_app": "A"}

    with pytest.raises(InvalidRequestException, match="10 rows at most"):
        batch_rows.from_objects(rows(), RowDefaults(), max_rows=10)
    assert next(numbers) == 12


def test_a_priority_of_thousands_of_digits_is_its_rows_error() -> None:
    content = b"account_id,api_app,priority\nalice,A," + b"9" * 5000 + b"\nbob,A,3\n"
    first, second = batch_rows.from_csv(content, RowDefaults(), max_rows=10)
    assert (first.number, first.error) == (1, "priority: must be a whole number from 0 to 9")
    assert (second.error, second.priority) == (None, 3)


@pytest.mark.parametrize("row", [b"{}", b"[]"])
def test_json_of_far_too_many_rows_is_not_parsed(row: bytes) -> None:
    body = b"[" + b",".join([row] * 1000)  # without its end: a parser would refuse it for that
    with pytest.raises(InvalidRequestException, match="10 rows at most"):
        read_batch("application/json", {}, body, max_rows=10)


def test_a_csv_of_far_too_many_rows_is_refused() -> None:
    content = b"account_id,api_app\n" + b"a,b\n" * 1_000_000
    with pytest.raises(InvalidRequestException, match="10 rows at most"):
        batch_rows.from_csv(content, RowDefaults(), max_rows=10)
