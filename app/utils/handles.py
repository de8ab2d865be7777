"""Account handles, as they are stored."""

import re
from string import ascii_lowercase, ascii_uppercase
from typing import Final

from app.utils.foreign_text import without_format_characters

_HANDLE: Final = re.compile(r"[a-z0-9_][a-z0-9_.+@-]{0,63}")
"""Handle of any provider: X has letters, digits and underscores, others dots, dashes or an e-mail address."""

_PATTERN: Final = re.compile(r"[a-z0-9_.+@*-]{1,64}")

_SPREADSHEET_NUMBER: Final = re.compile(r"\d(?:\.\d+)?e\+\d+")
"""Such as 1.23457E+14, which stands for many handles."""

APP_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


_LOWER: Final = str.maketrans(ascii_uppercase, ascii_lowercase)
"""Lower case of ASCII alone: the Kelvin sign is no k."""


def bare_handle(value: str) -> str:
    """A handle as it is compared and stored: lower case, without an ``@`` before it, blanks around it, or format
    characters, which nobody sees. Whether it can be one is not looked at.
    """
    return without_format_characters(value).strip().removeprefix("@").translate(_LOWER)


def normalize_handle(value: str) -> str:
    """A `bare_handle` that can be one. Raises `ValueError` with a sentence for the caller."""
    handle = bare_handle(value)
    if _SPREADSHEET_NUMBER.fullmatch(handle):
        raise ValueError("must be an account's handle: a spreadsheet has made a rounded number of it")
    if not _HANDLE.fullmatch(handle):
        raise ValueError(
            "must be an account's handle, with or without @, or its e-mail address: 1 to 64 letters, digits and _.+-@"
        )
    return handle


def normalize_pattern(value: str) -> str:
    """A handle that may hold ``*`` for any characters, as `normalize_handle` writes it. Raises `ValueError`."""
    pattern = bare_handle(value)
    if not _PATTERN.fullmatch(pattern):
        raise ValueError(
            "must be an account's handle with * for any characters: 1 to 64 letters, digits and _.+-@*"
        )
    return pattern
