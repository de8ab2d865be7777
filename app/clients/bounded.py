"""Answers read within a ceiling, which holds for what they unpack to, too.

httpx unpacks each piece as it comes, and a piece of 64 KB may hold 64 MB; here nothing is unpacked beyond the ceiling.
"""

import zlib
from typing import Any, Final

import httpx

MAX_ANSWER: Final = 1024 * 1024
MAX_LIST: Final = 16 * 1024 * 1024

_ENCODINGS: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_OF_THE_TRANSFER: Final = {"content-encoding", "content-length", "transfer-encoding", "content-type"}


class UnreadableAnswerError(httpx.HTTPError):
    """The answer is too large, or packed in a way that nobody asked for. Its text is a part of a sentence."""


async def request(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    max_bytes: int = MAX_ANSWER,
    auth: httpx.Auth | None = None,
    **content: Any,
) -> httpx.Response:
    """Return the whole answer, unpacked; the caller sets the deadline. `content`: as `httpx.AsyncClient.build_request`
    takes it.

    The body of an error is cut at `max_bytes`: its status says what it means. Raises `httpx.HTTPError`, of which
    `UnreadableAnswerError` for a success that is larger or cannot be unpacked.
    """
    headers = {**content.pop("headers", {}), "Accept-Encoding": "gzip, deflate"}
    try:
        sent = http.build_request(method, url, headers=headers, **content)
    except httpx.InvalidURL as error:
        raise httpx.UnsupportedProtocol(str(error)) from error
    try:
        response = await http.send(sent, auth=auth, stream=True)
    finally:
        http.cookies.clear()  # nobody needs them, and they would add up
    try:
        body = await _body(response, max_bytes)
    except UnreadableAnswerError:
        if response.is_success:
            raise
        body = b""
    finally:
        await response.aclose()
    kept = [item for item in response.headers.multi_items() if item[0] not in _OF_THE_TRANSFER]
    # Without a charset: some names of it are those of packers, and httpx would unpack once more.
    media_type = response.headers.get("content-type", "").partition(";")[0]
    return httpx.Response(
        response.status_code,
        headers=[*kept, ("content-type", media_type)],
        content=body,
        request=response.request,
    )


async def _body(response: httpx.Response, max_bytes: int) -> bytes:
    unpack = _unpacker(response.headers.get("content-encoding", ""))
    body = bytearray()
    async for part in response.aiter_raw():
        try:
            body += unpack(part, max_bytes + 1 - len(body))
        except zlib.error:
            raise UnreadableAnswerError("the answer cannot be unpacked") from None
        if len(body) > max_bytes:
            if response.is_success:
                raise UnreadableAnswerError(f"the answer is larger than {max_bytes // 1024} KB")
            break
    return bytes(body[:max_bytes])


class _Inflater:
    """Unpack gzip (RFC 1952) or deflate (RFC 1950; without a header, as some send it: RFC 1951)."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._inflate = zlib.decompressobj(window)
        self._has_begun = False

    def __call__(self, part: bytes, max_bytes: int) -> bytes:
        """`max_bytes`: at least 1; when there is more, the rest of `part` is lost."""
        try:
            found = self._inflate.decompress(part, max_bytes)
        except zlib.error:
            if self._has_begun or self._window != zlib.MAX_WBITS:
                raise
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            found = self._inflate.decompress(part, max_bytes)
        self._has_begun = True
        return found


def _as_it_comes(part: bytes, max_bytes: int) -> bytes:
    return part[:max_bytes]


def _unpacker(encoding: str) -> Any:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return _as_it_comes
    if name not in _ENCODINGS:
        raise UnreadableAnswerError("the answer is packed in a way that was not asked for")
    return _Inflater(_ENCODINGS[name])
