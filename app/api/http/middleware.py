"""Pure ASGI middleware: the request id, the access line, and an envelope for what nobody expected."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from time import perf_counter
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import exception_response
from app.api.http.client_address import client_address
from app.api.http.presented_key import KEY_HEADER
from app.utils.exceptions import (
    AppException,
    BodyTooLargeException,
    CrossOriginException,
    InvalidRequestException,
    MalformedRequestException,
)
from app.utils.logger import get_logger
from app.utils.request_id import accept_request_id

REQUEST_ID_HEADER: Final = "X-Request-ID"
DOCS_PATHS: Final = ("/docs", "/redoc")

CALLER_VARIABLES: Final = ("key", "key_id", "person_id")
"""Names that log lines of a request have for its caller."""
_SINGLE_HEADERS: Final = (
    KEY_HEADER,
    "Authorization",
    "Idempotency-Key",
    REQUEST_ID_HEADER,
    "Last-Event-ID",
    "Content-Type",
)
_MAX_DIGITS: Final = 18
"""Ceiling of a length's digits; Python reads no number of thousands of them."""
_POLICY: Final = b"content-security-policy"
_COMMON_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
SECURITY_HEADERS: Final = (*_COMMON_HEADERS, (_POLICY, b"default-src 'none'; frame-ancestors 'none'"))
# The pages start their scripts, which this service serves, from an inline script.
_DOCS_POLICY: Final = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; worker-src blob:; frame-ancestors 'none'"
)
_DOCS_HEADERS: Final = (*_COMMON_HEADERS, (_POLICY, _DOCS_POLICY))

log = get_logger(__name__)


class HttpMiddleware(ABC):
    """Base of the middleware. What is no HTTP request, such as the lifespan, goes on untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        next_app = self.handle if scope["type"] == "http" else self.app
        await next_app(scope, receive, send)

    @abstractmethod
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request, or give it to `app`."""


class RequestIDMiddleware(HttpMiddleware):
    """Binds the request's id to every log line, echoes it on every answer, and writes the access line."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_ids = Headers(scope=scope).getlist(REQUEST_ID_HEADER)
        request_id = accept_request_id(request_ids[0] if len(request_ids) == 1 else None)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._answer(scope, receive, send, request_id)
            finally:
                structlog.contextvars.unbind_contextvars(*CALLER_VARIABLES)  # bound when the caller is known

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        start, status = perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            milliseconds = round((perf_counter() - start) * 1000, 1)
            code = scope.get("state", {}).get("error_code")
            fields = {} if code is None else {"error_code": code}
            log.info(
                "http.request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                ms=milliseconds,
                client=client_address(scope),
                **fields,
            )


class CrashMiddleware(HttpMiddleware):
    """Turns a crash into a clean 500."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_answered = False

        async def send_noted(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except Exception:
            log.exception("http.crashed", method=scope["method"], path=scope["path"])
            if is_answered:
                raise  # it is under way: all that is left is to break it off
            await exception_response(AppException())(scope, receive, send)


class EnvelopeCORSMiddleware(CORSMiddleware):
    """The framework's own, which refuses a preflight in plain text."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        return exception_response(CrossOriginException(), {"Vary": response.headers["Vary"]})


class HeadMiddleware(HttpMiddleware):
    """HEAD is GET without the content (RFC 9110, 9.3.2); a stream ends at once."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})

        await self.app({**scope, "method": "GET"}, receive, send_head)


class NulMiddleware(HttpMiddleware):
    """Nothing of ours has a NUL in its address, and PostgreSQL takes none in a text, not even to look for it."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
            await exception_response(InvalidRequestException("An address holds no NUL character"))(
                scope, receive, send
            )
            return
        await self.app(scope, receive, send)


class SingleHeadersMiddleware(HttpMiddleware):
    """Refuses a header that decides when it comes twice: a proxy may have gone by the other one."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = Counter(name for name, _ in scope["headers"])
        if repeated := next((name for name in _SINGLE_HEADERS if names[name.lower().encode()] > 1), None):
            error = MalformedRequestException(f"{repeated}: comes more than once; send it once")
            scope.setdefault("state", {})["error_code"] = error.error_code
            await exception_response(error)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class SecurityHeadersMiddleware(HttpMiddleware):
    """Headers that tell browsers to keep nothing of an answer, and to run nothing of it; an answer's own ones win.

    No Strict-Transport-Security: the proxy that ends TLS sends it; over plain HTTP it must not be sent (RFC 6797, 7.2).
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                is_docs = scope["path"] in DOCS_PATHS and message["status"] == 200
                security_headers = _DOCS_HEADERS if is_docs else SECURITY_HEADERS
                present = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(header for header in security_headers if header[0] not in present),
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)


class BodyLimitMiddleware(HttpMiddleware):
    """Refuses a body over `max_bytes`, announced or not; FastAPI's own limit answers an announced one in plain text.

    `by_path`: limits of single addresses. Raises the framework's own error: it makes a 400 of any other.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, by_path: Mapping[str, int]) -> None:
        super().__init__(app)
        self._max_bytes = max_bytes
        self._by_path = by_path

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        max_bytes = self._by_path.get(scope["path"], self._max_bytes)
        announced = Headers(scope=scope).get("content-length", "")
        too_large = announced.isdecimal() and (len(announced) > _MAX_DIGITS or int(announced) > max_bytes)
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            if too_large:
                raise HTTPException(413, BodyTooLargeException(max_bytes).message)
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise HTTPException(413, BodyTooLargeException(max_bytes).message)
            return message

        await self.app(scope, receive_within_limit, send)
