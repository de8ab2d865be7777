"""A cursor holds for one reader and list, with the same filters; nobody else makes one; keys may change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.utils.cursors import Cursors
from app.utils.exceptions import InvalidCursorException

OLD, NEW = b"o" * 32, b"n" * 32
PLACE = ["2026-11-21T08:00:00+00:00", 17]
FILTERS = {"actor": "a", "text": None}


def test_a_cursor_is_read_with_any_of_the_keys():
    cursor = Cursors([OLD]).write(PLACE, reader="team-a", list_name="events", filters=FILTERS)
    for keys in ([OLD], [NEW, OLD]):
        assert (
            Cursors(keys).read(
                cursor, reader="team-a", list_name="events", filters=dict(reversed(FILTERS.items()))
            )
            == PLACE
        )
    with pytest.raises(InvalidCursorException):
        Cursors([NEW]).read(cursor, reader="team-a", list_name="events", filters=FILTERS)


@pytest.mark.parametrize(
    ("reader", "list_name", "filters"),
    [
        ("team-b", "events", FILTERS),
        ("team-a", "accounts", FILTERS),
        ("team-a", "events", {}),
        ("team-a", "events", {"actor": "b"}),
    ],
)
def test_a_cursor_of_another_key_or_list_is_refused(reader: str, list_name: str, filters: dict[str, str]):
    cursor = Cursors([OLD]).write(PLACE, reader="team-a", list_name="events", filters=FILTERS)
    with pytest.raises(InvalidCursorException):
        Cursors([OLD]).read(cursor, reader=reader, list_name=list_name, filters=filters)


def test_a_cursor_has_one_spelling():
    cursor = Cursors([OLD]).write(PLACE, reader="team-a", list_name="events", filters=FILTERS)
    assert cursor.endswith("Q==")
    with pytest.raises(InvalidCursorException):
        Cursors([OLD]).read(cursor[:-3] + "R==", reader="team-a", list_name="events", filters=FILTERS)


@given(st.data())
def test_a_changed_cursor_is_refused(data: st.DataObject):
    cursor = Cursors([OLD]).write(PLACE, reader="team-a", list_name="events", filters=FILTERS)
    at = data.draw(st.integers(0, len(cursor) - 1))
    changed = cursor[:at] + data.draw(st.characters().filter(lambda c: c != cursor[at])) + cursor[at + 1 :]
    with pytest.raises(InvalidCursorException):
        Cursors([OLD]).read(changed, reader="team-a", list_name="events", filters=FILTERS)


@given(st.text())
def test_malformed_cursor_is_refused(text: str):
    with pytest.raises(InvalidCursorException):
        Cursors([OLD]).read(text, reader="team-a", list_name="events", filters=FILTERS)
