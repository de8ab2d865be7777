"""Text of others on its way in and out: no format characters, terminal controls or spreadsheet formulas."""

import re
import unicodedata
from typing import Any, Final

_INVISIBLE: Final = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode's controls, format characters (bidi overrides, zero widths), lone surrogates and line separators."""
_FORMULA: Final = re.compile(r"'*[ \xa0]*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""A cell that a spreadsheet may take for a formula, full-width signs included, or one that is neutralised already."""
_NEUTRALISED: Final = re.compile(rf"'(?={_FORMULA.pattern})")


def without_format_characters(text: str) -> str:
    """Return the text without Unicode's format characters (Cf), which no reader sees."""
    return "".join(char for char in text if unicodedata.category(char) != "Cf")


def visible(text: str) -> str:
    """Return the text as a terminal may print it: what controls the terminal is escaped, line ends and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def neutralise(cell: Any) -> Any:
    """Return a CSV cell that no spreadsheet takes for a formula: an apostrophe stands before such a text."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def restore(cell: str) -> str:
    """Return what `neutralise` was given."""
    return cell[1:] if _NEUTRALISED.match(cell) else cell


def _visible(char: str) -> str:
    if char in "\n\t" or unicodedata.category(char) not in _INVISIBLE:
        return char
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")
