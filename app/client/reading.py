"""Sources of items: the pages of a list, and the event stream; no I/O."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from .errors import EventsMissed, ServiceError, ServiceUnreachable
from .exchange import Answer, Deadline, Flow, Request, build_value, open_envelope, wait_before_retry

T = TypeVar("T")

EVENT_STREAM: Final = "text/event-stream"

_PAGE: Final = 500
_SILENCE: Final = 60.0
"""Seconds until a stream is taken for lost; the service says something every 15 (`EVENT_STREAM_HEARTBEAT`)."""


class Pages(Generic[T]):
    """A list, page by page: by cursor, or by number where the list has none."""

    def __init__(
        self,
        send: Callable[[Request], Flow[dict[str, Any]]],
        kind: type[T],
        path: str,
        filters: Mapping[str, Any],
        *,
        by_number: bool = False,
    ) -> None:
        self._send, self._kind, self._path = send, kind, path
        self._params: dict[str, Any] = {**filters, "page_size": _PAGE, **({"page": 1} if by_number else {})}
        self.has_more = True

    def next(self) -> Flow[list[T]]:
        answer = yield from self._send(Request("GET", self._path, self._params))
        if "page" in self._params:
            self.has_more = self._params["page"] < answer.get("total_pages", 0)
            self._params["page"] += 1
        else:
            self._params["cursor"] = answer.get("next_cursor")
            self.has_more = self._params["cursor"] is not None
        return [build_value(self._kind, row) for row in answer["data"]]


class Stream(Generic[T]):
    """The event stream as its client sees it: server-sent events, through any number of connections."""

    def __init__(
        self,
        kind: type[T],
        filters: Mapping[str, Any],
        last_event_id: str | None,
        give_up_after: float,
        accept_gap: bool,
    ) -> None:
        self._kind, self._filters, self._last_id = kind, filters, last_event_id
        self._give_up_after, self._accept_gap = give_up_after, accept_gap
        self._give_up_at, self._tries = Deadline(give_up_after), 0
        self._error: ServiceError | None = None
        self._rest, self._block = b"", dict[str, str]()

    def request(self) -> Request:
        self._rest, self._block = b"", {}  # what was cut off is told again
        self._error = None
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        return Request("GET", "/events/stream", self._filters, headers=headers, seconds=_SILENCE)

    def take(self, part: bytes) -> Iterator[T]:
        """Take bytes: a line of httpx also ends at other characters, which an event may hold."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            name, _, value = line.decode().rstrip("\r").partition(":")
            if name or value:
                self._block[name] = value.removeprefix(" ")
            elif (event := self._take_event()) is not None:
                yield event

    def _take_event(self) -> T | None:
        block, self._block = self._block, {}
        self._tries = 0
        self._last_id = block.get("id", self._last_id)
        if "data" not in block:
            return None
        data = json.loads(block["data"])
        if block.get("event") == "gap" and not self._accept_gap:
            oldest = data["oldest_kept"]
            raise EventsMissed(self._last_id or "", datetime.fromisoformat(oldest) if oldest else None)
        return None if "event" in block else build_value(self._kind, {**data, "last_event_id": self._last_id})

    def note_refusal(self, answer: Answer) -> None:
        _, error = open_envelope(answer)
        self._error = error or ServiceError(
            "UNEXPECTED_ANSWER", "It is no event stream: is the URL right?", status=answer.status
        )

    def pause(self) -> float:
        """Seconds until it is opened again. Raises what an own error stands for."""
        has_spoken = self._tries == 0 and self._error is None
        error = self._error or ServiceUnreachable(
            "UNREACHABLE", "The event stream ends before it says anything"
        )
        if self._tries == 0:
            self._give_up_at = Deadline(self._give_up_after)
        wait = wait_before_retry(error, self._tries)
        self._tries += 1
        if wait is None or (wait >= self._give_up_at.remaining and not has_spoken):
            raise error
        return wait
