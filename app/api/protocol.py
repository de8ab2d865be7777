"""HTTP/1.1 as uvicorn speaks it, with a limit for what comes before the body, and our envelope for what is refused."""

from typing import Any, Final

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.errors import answer_of
from app.api.middleware import REQUEST_ID_HEADER, SECURITY_HEADERS
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
"""Of the request line and all headers together; uvicorn itself has no limit with httptools."""

log = get_logger(__name__)


class LimitedHttpProtocol(HttpToolsProtocol):
    """Refuses what is no HTTP, or has an address or headers that are too large, and closes the connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unread_head = 0
        """Bytes that came since the last head, or piece of a body, that was whole."""
        self._refusal: AppException | None = None

    def data_received(self, data: bytes) -> None:
        self._unread_head += len(data)
        super().data_received(data)
        if self._unread_head > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._refuse(self._too_large())

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.url) > MAX_URI_BYTES or size > MAX_HEADER_BYTES:
            self._refusal = self._too_large()
            raise self._refusal  # to the parser, which then asks for a 400
        self._unread_head = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread_head = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or MalformedRequestException())

    def _too_large(self) -> AppException:
        if len(self.url) > MAX_URI_BYTES:
            return UriTooLongException(MAX_URI_BYTES)
        return HeadersTooLargeException(MAX_HEADER_BYTES)

    def _refuse(self, error: AppException) -> None:
        request_id = accept_request_id(None)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            log.info("http.refused", status=error.status_code, error_code=error.error_code)
            answer = answer_of(error, {"Connection": "close", REQUEST_ID_HEADER: request_id})
        headers = (*answer.raw_headers, *SECURITY_HEADERS)
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(b"HTTP/1.1 %d \r\n" % error.status_code + head + b"\r\n" + bytes(answer.body))
        self.transport.close()
