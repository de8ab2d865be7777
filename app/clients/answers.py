"""Answers of others as values, read without an exception whatever the bytes are, and sentences that tell what is wrong
with them without a value.
"""

import json
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qsl

import httpx
from pydantic import ValidationError

_MAX_INTEGER_DIGITS: Final = 1000
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
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    # So deep that whoever handles it may run into a RecursionError.
    return None if level else value


def fields_in(content: bytes, content_type: str) -> dict[str, Any]:
    """The fields of a JSON object, or of a form where the content type allows one; empty when it is neither."""
    body = json_or_none(content)
    if isinstance(body, dict):
        return body
    if body is None and content_type.partition(";")[0].strip().lower() in _FORM_TYPES:
        with suppress(ValueError):
            text = content.decode("utf-8-sig", errors="replace").strip()
            return dict(parse_qsl(text, max_num_fields=_MAX_FORM_FIELDS))
    return {}


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else float(digits)


def json_in(response: httpx.Response) -> Any:
    """Return the JSON of a body, or None when there is none in it."""
    return json_or_none(response.content)


def read_fields(response: httpx.Response) -> dict[str, Any]:
    """The fields of a JSON object or of a form; empty when it is neither."""
    return fields_in(response.content, response.headers.get("content-type", ""))


def value_at(body: Any, path: str) -> Any:
    """The value at a dotted path of names and list indexes; None: there is none."""
    for part in path.split("."):
        if isinstance(body, list) and part.isdecimal():
            body = body[int(part)] if int(part) < len(body) else None
        else:
            body = body.get(part) if isinstance(body, dict) else None
    return body


def to_text(value: Any) -> str:
    """A text or a whole number as text; empty: it is neither."""
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def describe_kind(value: Any) -> str:
    """Type and length of a value, which may be a secret itself."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str() | bytes():
            return f"text of length {len(value)}"
        case list() | tuple():
            return f"a list of length {len(value)}"
        case dict():
            return f"an object of length {len(value)}"
    return "something else"


def body_kind(response: httpx.Response) -> str:
    """The same of a whole answer."""
    body = json_in(response)
    return describe_kind(response.content if body is None else body)


def mismatch_text(field: str, expected: str, actual: str) -> str:
    """The sentence of an error."""
    return f"the answer is not what was expected: {field} must be {expected}, and {actual} came"


def misfits(error: ValidationError) -> str:
    """The same of the first three fields that Pydantic refused; its own text would quote values."""
    problems = []
    for item in error.errors(include_url=False)[:3]:
        field = ".".join(map(str, item["loc"])) or "the body"
        actual = "nothing" if item["type"] == "missing" else describe_kind(item["input"])
        problems.append(f"{field}: {item['msg'][:1].lower()}{item['msg'][1:]}, and {actual} came")
    return f"the answer is not what was expected: {'; '.join(problems)}"
