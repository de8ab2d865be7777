"""Fields of forms that have more in them than a text."""

import re
from typing import Final

_SEPARATORS: Final = re.compile(r"[\s,;]+")


def split_values(text: str) -> list[str]:
    """Return the values of a field that takes several, between commas, spaces or line ends."""
    return [value for value in _SEPARATORS.split(text) if value]
