"""One request and its answer, and when it is tried again; no I/O."""

import json
import random
import re
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import quote, unquote

import httpx

from .errors import ServiceError, ServiceUnreachable

T = TypeVar("T")

_CONNECT: Final = 5.0
_TRY: Final = 30.0
"""Seconds that one try may take; the deadline is that of all of them."""
_FIRST_WAIT, _MAX_WAIT = 0.25, 8.0
_MAX_RETRY_AFTER = 3600.0
"""Seconds: no proxy on the way makes a program wait for longer."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = _TRY

    def __post_init__(self) -> None:
        """Refuse a path that is not below the service's URL: it would send the key elsewhere."""
        path = unquote(re.split("[?#]", self.path)[0])
        if not re.match("/(?!/)", path) or {".", ".."} & set(path.split("/")):
            raise ValueError(
                f"{path!r} is no path of the service: it must begin with one /, without . and .."
            )

    @property
    def is_repeatable(self) -> bool:
        return self.method == "GET" or "Idempotency-Key" in self.headers

    def httpx_arguments(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "url": self.path,
            "params": plain(self.params),
            "json": self.json,
            "content": self.content,
            "headers": self.headers,
            "timeout": httpx.Timeout(self.seconds, connect=min(_CONNECT, self.seconds)),
        }


@dataclass(frozen=True)
class Answer:
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: str = ""
    """Reason why there is no answer."""


class Deadline:
    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        return self._at - time.monotonic()


Flow = Generator[Request | float, Any, T]
"""A call without I/O: it yields requests, for which it is sent the `Answer`, and pauses in seconds."""


def open_envelope(answer: Answer) -> tuple[dict[str, Any], ServiceError | None]:
    """The envelope, and the error that it stands for."""
    if answer.failure:
        return {}, ServiceUnreachable("UNREACHABLE", f"The service did not answer: {answer.failure}")
    try:
        envelope = dict(json.loads(answer.body))
        if answer.status < 300 and "data" in envelope:
            return envelope, None
        code, message = envelope["error_code"], envelope["error"]
    except (LookupError, TypeError, ValueError, RecursionError):
        envelope, code = {}, "UNEXPECTED_ANSWER"
        message = f"HTTP {answer.status} without what the service would say: is the URL right?"
    retry_after = answer.headers.get("Retry-After", "")
    return envelope, ServiceError(
        code,
        message,
        status=answer.status,
        request_id=envelope.get("request_id"),
        data=envelope.get("data"),
        retry_after=min(float(retry_after), _MAX_RETRY_AFTER) if retry_after.isdecimal() else None,
    )


def wait_before_retry(error: ServiceError, tries: int, *, is_repeatable: bool = True) -> float | None:
    """Seconds; None: it must not be tried again. A 429 was refused before anything was done."""
    is_passing = error.status is None or error.status >= 500
    if error.status != 429 and not (is_passing and is_repeatable):
        return None
    return max(backoff(tries), error.retry_after or 0.0)


def backoff(tries: int) -> float:
    return float(min(_MAX_WAIT, _FIRST_WAIT * 2 ** min(tries, 10))) * random.uniform(1.0, 1.5)  # noqa: S311


def failed_answer(error: Exception) -> Answer:
    return Answer(failure=f"{type(error).__name__} {error}".strip())


def segment(value: str) -> str:
    """Return the value escaped for a segment of a path."""
    return quote(value, safe="")


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without those that are None, times as text."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
        if value is not None
    }


def build_value(kind: Callable[..., T], data: Any) -> T:
    """A dataclass of JSON. Raises `ServiceError` for what cannot be one."""
    try:
        return kind(
            **{name: _value(value_kind, data.get(name)) for name, value_kind in _typed_fields(kind).items()}
        )
    except (AttributeError, TypeError, ValueError):
        raise ServiceError(
            "UNEXPECTED_ANSWER", "The service's answer is not what this client knows"
        ) from None


@cache
def _typed_fields(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def _value(kind: Any, value: Any) -> Any:
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if value is None:
        if NoneType not in kinds:
            raise TypeError
        return None
    kind = kinds[0]
    if kind is datetime:
        return datetime.fromisoformat(value)
    if get_origin(kind) is tuple:
        return tuple(_value(get_args(kind)[0], each) for each in value)
    return build_value(kind, value) if isinstance(kind, type) and is_dataclass(kind) else value
