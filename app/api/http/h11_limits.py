"""HTTP/1.1 as uvicorn speaks it with h11, with limits for what comes before the body, and our envelope for refusals."""

import re
from typing import Any, Final

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api.errors import exception_response
from app.api.http.middleware import REQUEST_ID_HEADER, SECURITY_HEADERS
from app.utils.exceptions import (
    AppException,
    HeadersTooLargeException,
    MalformedRequestException,
    UriTooLongException,
)
from app.utils.logger import get_logger
from app.utils.request_id import accept_request_id

MAX_URI_BYTES: Final = 8 * 1024
MAX_HEADER_BYTES: Final = 32 * 1024
"""Ceiling of the request line and all headers together, of a chunk's head, and of the trailers."""

_TWO_LENGTHS: Final = {b"content-length", b"transfer-encoding"}
_ORIGIN: Final = re.compile(rb"https?://[^/?]*", re.IGNORECASE)

log = get_logger(__name__)


class _LimitedConnection(h11.Connection):
    """h11's connection with limits. Its errors leave the answer in `refusal`."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEADER_BYTES)
        self.refusal: AppException = MalformedRequestException()

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        is_head = self.their_state is h11.IDLE
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            if is_head and error.error_status_hint == HeadersTooLargeException.status_code:
                self.refusal = _too_large(self.trailing_data[0].partition(b"\n")[0])
            raise
        if isinstance(event, h11.Request):
            self._check(event)
            return _to_origin_form(event)
        return event

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        """A client that is answered instead of told to continue may send no body: nothing tells what comes next."""
        if isinstance(event, h11.Response) and self.they_are_waiting_for_100_continue:
            event = h11.Response(
                status_code=event.status_code,
                headers=[*event.headers, (b"Connection", b"close")],
                http_version=event.http_version,
                reason=event.reason,
            )
        return super().send_with_data_passthrough(event)

    def _check(self, request: h11.Request) -> None:
        size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
        if len(request.target) > MAX_URI_BYTES or size > MAX_HEADER_BYTES:
            self.refusal = _too_large(request.target)
            raise h11.RemoteProtocolError("Too large")
        if {name for name, _ in request.headers} >= _TWO_LENGTHS:
            raise h11.RemoteProtocolError("Two lengths: a proxy may go by the other (RFC 9112, 6.1)")


class LimitedHttpProtocol(H11Protocol):
    """Refuses what is no HTTP, or has an address or headers that are too large, and closes the connection."""

    conn: _LimitedConnection

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _LimitedConnection()

    def send_400_response(self, msg: str) -> None:
        self.refuse(self.conn.refusal)

    def refuse(self, error: AppException) -> None:
        """Answer the request that is being read, unless it has an answer, and close the connection."""
        if self.conn.our_state is h11.SEND_BODY:
            self.transport.abort()  # for what is closed may look complete
            return
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        if self.cycle is not None:
            self.cycle.disconnected = True  # nor does the application answer it
            self.cycle.message_event.set()
        request_id = accept_request_id(None)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            log.info("http.refused", status=error.status_code, error_code=error.error_code)
            answer = exception_response(error, {"Connection": "close", REQUEST_ID_HEADER: request_id})
        headers = (*answer.raw_headers, *SECURITY_HEADERS)
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(b"HTTP/1.1 %d \r\n" % error.status_code + head + b"\r\n" + bytes(answer.body))
        self.transport.close()

    def shutdown(self) -> None:
        if not self.transport.is_closing():  # what was refused is in no state in which h11 could end it
            super().shutdown()


def _too_large(address: bytes) -> AppException:
    if len(address) > MAX_URI_BYTES:
        return UriTooLongException(MAX_URI_BYTES)
    return HeadersTooLargeException(MAX_HEADER_BYTES)


def _to_origin_form(request: h11.Request) -> h11.Request:
    """Clients of proxies send the absolute form, which every server must take (RFC 9112, 3.2.2)."""
    if not (origin := _ORIGIN.match(request.target)):
        return request
    target = request.target[origin.end() :]
    return h11.Request(
        method=request.method,
        target=target if target.startswith(b"/") else b"/" + target,
        headers=list(request.headers),
        http_version=request.http_version,
    )
