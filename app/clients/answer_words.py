"""Reading what came from outside: JSON of any shape, and sentences that tell what is wrong with it without a value."""

import json
from typing import Any

import httpx
from pydantic import ValidationError


def json_in(response: httpx.Response) -> Any:
    """None: there is no JSON in it."""
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def json_object_in(response: httpx.Response) -> dict[str, Any]:
    """Empty: there is none."""
    body = json_in(response)
    return body if isinstance(body, dict) else {}


def value_at(body: Any, path: str) -> Any:
    """The value at a dotted path of names and list indexes; None: there is none."""
    for part in path.split("."):
        if isinstance(body, list) and part.isdecimal():
            body = body[int(part)] if int(part) < len(body) else None
        else:
            body = body.get(part) if isinstance(body, dict) else None
    return body


def text_of(value: Any) -> str:
    """A text or a whole number as text; empty: it is neither."""
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def kind_of(value: Any) -> str:
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
    return kind_of(response.content if body is None else body)


def not_expected(field: str, expected: str, came: str) -> str:
    """The sentence of an error."""
    return f"the answer is not what was expected: {field} must be {expected}, and {came} came"


def misfits(error: ValidationError) -> str:
    """The same of the first three fields that Pydantic refused; its own text would quote values."""
    problems = []
    for item in error.errors(include_url=False)[:3]:
        field = ".".join(map(str, item["loc"])) or "the body"
        came = "nothing" if item["type"] == "missing" else kind_of(item["input"])
        problems.append(f"{field}: {item['msg'][:1].lower()}{item['msg'][1:]}, and {came} came")
    return f"the answer is not what was expected: {'; '.join(problems)}"
