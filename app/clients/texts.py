"""Texts of others made fit: to be shown in an error, and to be stored."""

import re
from typing import Final

from app.utils.foreign_text import without_format_characters
from app.utils.masking import mask_text

_MAX_WORDS: Final = 500
_MAX_NAMED: Final = 100
_MAX_SEARCHED: Final = 20_000
"""Characters; an error's words come early in a page, and its scripts are long."""
_TAGS: Final = re.compile(
    r"<(script|style)\b.*?(?:</\1>|\Z)|<[a-z/!][^>]*(?:>|\Z)", re.DOTALL | re.IGNORECASE
)


def without_tags(text: str) -> str:
    """Remove tags, also one that was cut off."""
    return " ".join(_TAGS.sub(" ", text).split())


def error_words(text: str, *, secret: str = "") -> str:
    """500 characters at most, as a database stores them. Secrets, the given one and what looks like one, go before the
    rest is cut off: half a secret is one, too.
    """
    # First: a secret with a NUL inside would be whole again once that is gone.
    text = storable(text[:_MAX_SEARCHED])
    return without_tags(mask_text(text, secrets=[secret]))[:_MAX_WORDS] or "no message"


def printable(value: object) -> str:
    """100 characters at most, as a log or an event may name what cannot be stored."""
    return ascii(value[:_MAX_NAMED] if isinstance(value, str) else type(value).__name__)[1:-1][:_MAX_NAMED]


def storable(text: str) -> str:
    """Trimmed; without what a database cannot store, NUL and halves of surrogate pairs, and what no reader sees."""
    stored = text.replace("\x00", "").encode(errors="ignore").decode()
    return without_format_characters(stored).strip()
