"""Connections that are kept and used again, found in constant time.

httpcore's own pool looks at every connection several times for each request, and at all others for each idle one: with
50 of them that takes longer than the request. Here each connection is a pool of its own, and the idle ones of an origin
are a stack.
"""

import asyncio
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import cast

import httpx

_Origin = tuple[str, str, int | None]
_Idle = deque[tuple[float, httpx.AsyncHTTPTransport]]
"""The one used last on the right, with the moment (`monotonic`) at which it became idle."""


class StackedTransport(httpx.AsyncBaseTransport):
    """`most`: connections in use at once. `keep_idle`: seconds after which an idle one is not used again."""

    def __init__(self, *, tls: ssl.SSLContext, max_connections: int, keep_idle: float) -> None:
        self._tls = tls
        self._keep_idle = keep_idle
        self._limits = httpx.Limits(
            max_connections=1, max_keepalive_connections=1, keepalive_expiry=keep_idle
        )
        """Limits of each connection, which is a pool of its own."""
        self._room = asyncio.Semaphore(max_connections)
        self._idle: defaultdict[_Origin, _Idle] = defaultdict(deque)
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises `httpx.PoolTimeout` when no connection becomes free within the request's `pool` timeout."""
        origin = (request.url.scheme, request.url.host, request.url.port)
        try:
            async with asyncio.timeout(request.extensions.get("timeout", {}).get("pool")):
                await self._room.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout("every connection is in use", request=request) from error
        waiting = self._idle[origin]
        if waiting:  # the one used last, so that those that are not needed any more grow old
            connection = waiting.pop()[1]
        else:
            connection = httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=self._limits)

        async def give_back() -> None:
            self._room.release()
            if self._is_closed:
                await connection.aclose()
            else:
                waiting.append((monotonic(), connection))

        try:
            while waiting and monotonic() - waiting[0][0] > self._keep_idle:
                await waiting.popleft()[1].aclose()
            response = await connection.handle_async_request(request)
        except BaseException:  # the pool of one has closed what it had: it makes another
            await give_back()
            raise
        stream = _Body(cast(httpx.AsyncByteStream, response.stream), give_back)
        return httpx.Response(
            response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
        )

    async def aclose(self) -> None:
        """Close the idle connections; one in use is closed at the end of its response."""
        self._is_closed = True
        for waiting in list(self._idle.values()):
            while waiting:
                await waiting.pop()[1].aclose()


class _Body(httpx.AsyncByteStream):
    """Once it is closed, its connection is free."""

    def __init__(self, stream: httpx.AsyncByteStream, give_back: Callable[[], Awaitable[None]]) -> None:
        self._stream = stream
        self._give_back: Callable[[], Awaitable[None]] | None = give_back

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        give_back, self._give_back = self._give_back, None
        try:
            await self._stream.aclose()
        finally:
            if give_back is not None:
                await give_back()
