"""Ceilings of what others answer: a body is unpacked and read up to a number of bytes, and no further.

httpx unpacks a compressed body without a limit: one megabyte of it may become a gigabyte in memory (CWE-409).
"""

import zlib
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import httpx

MAX_ANSWER: Final = 1_000_000
"""Bytes of any answer, once it is unpacked."""
MAX_LIST: Final = 16_000_000
"""The same of an answer that lists many things; its request says so with `LIST`."""
LIST: Final[dict[str, Any]] = {"max_answer": MAX_LIST}
"""`extensions` of a request whose answer is a list."""
_ENCODINGS: Final = ("gzip", "x-gzip", "deflate")
_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32


class AnswerTooLargeError(httpx.ReadError):
    """The answer goes on beyond its ceiling; the connection is given up."""

    def __init__(self, ceiling: int, *, request: httpx.Request) -> None:
        super().__init__(f"the answer is larger than {ceiling:,} bytes", request=request)


class BoundedTransport(httpx.AsyncBaseTransport):
    """Hands out the answers of `transport` unpacked and within their ceilings.

    Reading the body of a success raises `AnswerTooLargeError`, or `httpx.DecodingError` when it cannot be unpacked; the
    body of any other status is cut off.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Accept-Encoding"] = "gzip"
        response = await self._transport.handle_async_request(request)
        packers = map(str.strip, response.headers.pop("content-encoding", "").lower().split(","))
        stream = _BoundedBody(
            cast(httpx.AsyncByteStream, response.stream),
            request=request,
            encoding=", ".join(name for name in packers if name not in ("", "identity")),
            ceiling=request.extensions.get("max_answer", MAX_ANSWER),
            is_success=response.is_success,
        )
        response.headers.pop("content-length", None)  # of the packed body
        response.headers.pop("set-cookie", None)  # nobody needs cookies, and they would add up
        if "content-type" in response.headers:
            # Without a charset: some names of it are those of packers, and httpx would unpack once more.
            response.headers["content-type"] = response.headers["content-type"].partition(";")[0]
        return httpx.Response(
            response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
        )

    async def aclose(self) -> None:
        await self._transport.aclose()


class _BoundedBody(httpx.AsyncByteStream):
    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        *,
        request: httpx.Request,
        encoding: str,
        ceiling: int,
        is_success: bool,
    ) -> None:
        self._stream = stream
        self._request = request
        self._encoding = encoding
        self._ceiling = ceiling
        self._is_success = is_success

    async def __aiter__(self) -> AsyncIterator[bytes]:
        remaining = self._ceiling
        try:
            async for part in self._unpack(remaining + 1):
                if len(part) > remaining:
                    yield part[:remaining]
                    raise AnswerTooLargeError(self._ceiling, request=self._request)
                remaining -= len(part)
                yield part
        except (AnswerTooLargeError, httpx.DecodingError):
            if self._is_success:
                raise
            # What an error says is cut off: its status alone says what it means.

    async def _unpack(self, ceiling: int) -> AsyncIterator[bytes]:
        """`ceiling`: bytes that a part of the stream may become; the rest is lost."""
        unpacker: zlib._Decompress | None = None
        async for part in self._stream:
            if not self._encoding or not part:
                yield part
                continue
            if self._encoding not in _ENCODINGS:
                raise httpx.DecodingError("the answer is packed as nobody asked for", request=self._request)
            try:
                unpacker = unpacker or _unpacker(part)
                yield unpacker.decompress(part, ceiling)
            except zlib.error as error:
                raise httpx.DecodingError("the answer cannot be unpacked", request=self._request) from error

    async def aclose(self) -> None:
        await self._stream.aclose()


def _unpacker(start: bytes) -> "zlib._Decompress":
    """Return the decompressor of gzip or deflate; the latter comes with a header (RFC 1950) or without (RFC 1951)."""
    try:
        zlib.decompressobj(_GZIP_OR_ZLIB).decompress(start, 1)
    except zlib.error:
        return zlib.decompressobj(-zlib.MAX_WBITS)
    return zlib.decompressobj(_GZIP_OR_ZLIB)
