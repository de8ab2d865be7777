"""Event types as callers name them in filters: one type, or a pattern with `*`."""

from difflib import get_close_matches
from fnmatch import fnmatchcase

from app.models import EventType

_MAX_SUGGESTIONS = 3


def find_problem(pattern: str) -> str | None:
    """Return a sentence that says what is wrong with `pattern`, or None if it matches at least one type."""
    if any(fnmatchcase(event_type, pattern) for event_type in EventType):
        return None
    near = get_close_matches(pattern, EventType, n=_MAX_SUGGESTIONS)
    hint = f"did you mean {' or '.join(near)}?" if near else "openapi.json lists them as EventType"
    return f"'{pattern}' matches no event type; {hint}"
