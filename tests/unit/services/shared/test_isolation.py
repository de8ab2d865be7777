"""Claims of rows of which one fails, or all of them."""

import re
from collections.abc import Sequence

import pytest
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import sqlite

from app.models import Credential
from app.services.shared import isolation
from app.services.shared.isolation import UsableRows
from app.utils.exceptions import DatabaseUnavailableException


class Rows:
    """Stands for a table: `bad` rows fail the transaction that claims them."""

    def __init__(self, *ids: int, bad: set[int]) -> None:
        self.ids = ids
        self.bad = bad

    def chosen(self, among: ColumnElement[bool]) -> list[int]:
        text = str(among.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
        if one := re.search(r" = (\d+)$", text):
            return [int(one[1])]
        named = re.search(r"NOT IN \(([\d, ]+)\)", text)
        left_out = {int(part) for part in named[1].split(",")} if named else set()
        return [row_id for row_id in self.ids if row_id not in left_out]

    async def claim(self, among: ColumnElement[bool]) -> list[int] | None:
        chosen = self.chosen(among)
        if self.bad & set(chosen):
            raise ValueError("this row cannot be changed")
        return chosen or None

    async def find(self, among: ColumnElement[bool]) -> Sequence[int]:
        return self.chosen(among)


async def test_a_bad_row_is_left_out_for_a_while(monkeypatch: pytest.MonkeyPatch):
    now = 1000.0
    monkeypatch.setattr(isolation, "monotonic", lambda: now)
    rows, usable = Rows(1, 2, 3, bad={2}), UsableRows(Credential.id, step="test")
    assert await usable.claim(rows.claim, rows.find) == [1, 3]
    rows.bad = set()
    assert await usable.claim(rows.claim, rows.find) == [1, 3]
    now += 901
    assert await usable.claim(rows.claim, rows.find) == [1, 2, 3]


async def test_an_error_of_all_rows_is_raised_and_leaves_none_out():
    rows, usable = Rows(1, 2, 3, bad={1, 2, 3}), UsableRows(Credential.id, step="test")
    with pytest.raises(ValueError, match="cannot be changed"):
        await usable.claim(rows.claim, rows.find)
    rows.bad = set()
    assert await usable.claim(rows.claim, rows.find) == [1, 2, 3]


async def test_a_bad_row_alone_is_left_out():
    rows, usable = Rows(1, bad={1}), UsableRows(Credential.id, step="test")
    assert await usable.claim(rows.claim, rows.find) is None
    assert await usable.claim(rows.claim, rows.find) is None


async def test_an_outage_is_no_fault_of_a_row():
    async def away(among: ColumnElement[bool]) -> list[int]:
        raise DatabaseUnavailableException("it does not answer")

    with pytest.raises(DatabaseUnavailableException):
        await UsableRows(Credential.id, step="test").claim(away, Rows(1, bad=set()).find)
