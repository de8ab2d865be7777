"""Answers of others as values: reading never raises, whatever the bytes are."""

import json
from typing import Any, Final
from urllib.parse import parse_qsl

_LONGEST_INTEGER: Final = 1000
"""Digits. Python refuses to read much longer ones, and one number must not cost the whole answer."""
_MAX_DEPTH: Final = 100
_MAX_FORM_FIELDS: Final = 100
_FORM_TYPES: Final = ("", "application/x-www-form-urlencoded", "text/plain")


def json_or_none(content: bytes) -> Any:
    """The JSON value in an answer's body; None when there is none that can be read.

    A byte order mark is skipped, bytes that are not text become U+FFFD, and what is nested deeper than 100 levels is
    not read. An integer of more than 1,000 digits comes as a float.
    """
    try:
        text = content.decode(json.detect_encoding(content), errors="replace")
        value = json.loads(text, strict=False, parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    return None if _is_deep(value) else value


def fields_in(content: bytes, content_type: str) -> dict[str, Any]:
    """The fields of a JSON object, or of a form where the content type allows one; empty when it is neither."""
    body = json_or_none(content)
    if isinstance(body, dict):
        return body
    if body is None and content_type.partition(";")[0].strip().lower() in _FORM_TYPES:
        return _form_fields(content)
    return {}


def _is_deep(value: Any) -> bool:
    """Whether it is nested so deeply that whoever handles it may run into a RecursionError."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


def _form_fields(content: bytes) -> dict[str, Any]:
    text = content.decode("utf-8-sig", errors="replace").strip()
    try:
        return dict(parse_qsl(text, max_num_fields=_MAX_FORM_FIELDS))
    except ValueError:
        return {}
