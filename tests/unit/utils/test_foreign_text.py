"""Text of others: what a spreadsheet, a terminal or a reader must not take for more than text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.utils.foreign_text import neutralise, restore, visible, without_format_characters


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
        ("  =1", "'  =1"),
        ("\uff1d1", "'\uff1d1"),
        ("'=1", "''=1"),
        ("'quoted'", "'quoted'"),
        ("alice", "alice"),
        ("a=1", "a=1"),
        ("", ""),
        (-1, -1),
        (None, None),
    ],
)
def test_neutralised_cell_is_no_formula(cell: object, written: object):
    assert neutralise(cell) == written


@given(st.text(alphabet="'=+-@\t\r\n a\uff1d\xa0"))
def test_restored_cell_is_what_was_written(cell: str):
    assert restore(neutralise(cell)) == cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\tand\nsimple", "plain\tand\nsimple"),
        ("bücher ✓ 日本", "bücher ✓ 日本"),
        ("\x1b]8;;http://evil\x07a", r"\x1b]8;;http://evil\x07a"),
        ("a\rb\x08\x9b2J\x7f", r"a\rb\x08\x9b2J\x7f"),
        ("\u202eevil\u2066\u200b", r"\u202eevil\u2066\u200b"),
        ("\ud800\u2028", r"\ud800\u2028"),
    ],
)
def test_visible_text_controls_no_terminal(text: str, shown: str):
    assert visible(text) == shown


def test_format_characters_are_dropped():
    assert without_format_characters("\ufeffal\u200bice\u202e \u2060x\u00ad") == "alice x"
