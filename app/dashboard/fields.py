"""Fields of forms that have more in them than a text."""

import re
from typing import Final

OVERLAPS: Final = ((86_400, "a day"), (3_600, "an hour"), (604_800, "a week"), (0, "not at all"))
"""Times for which a rotated key or secret still works, in seconds."""
_SEPARATORS: Final = re.compile(r"[\s,;]+")


def split_values(text: str) -> list[str]:
    """Return the values of a field that takes several, between commas, spaces or line ends."""
    return [value for value in _SEPARATORS.split(text) if value]
