"""The two clients: threads and asyncio, each with its own I/O."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Self, TypeVar

import httpx

from .calls import Calls
from .exchange import Answer, Deadline, Flow, Request, failed_answer
from .methods import Asynchronous, Blocking
from .reading import EVENT_STREAM, Pages, Stream

T = TypeVar("T")


class Client(Calls, Blocking):
    """The service for threads, which may share it: `with Client("https://gologin.internal", key) as service:`.

    Every call raises `ServiceError`. Those that may be repeated (`authorize` and `make_batch` carry an Idempotency-Key)
    are tried again within their deadline, and all are after a 429.

    Args:
        timeout: seconds for a call with all its tries; calls that wait have their own. An answer whose head trickles
            in can take longer (not with `AsyncClient`): httpx limits the time of each part alone.
        token_margin: seconds before its expiry until which a cached token is handed out. From 45 minutes before it the
            service may refresh it (`REFRESH_MARGIN`, `REFRESH_JITTER`), which ends the old one; with a lower margin the
            provider may refuse a cached token: `verify` it then.
        transport: for certificates or a proxy of your own.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 30.0,
        token_margin: float = 2700.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, key, timeout=timeout, token_margin=token_margin)
        self._http = httpx.Client(**self._for_httpx, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _run(self, flow: Flow[T]) -> T:
        answer: Answer | None = None
        with closing(flow):
            while True:
                try:
                    step = flow.send(answer)
                except StopIteration as end:
                    result: T = end.value
                    return result
                answer = self._do(step)

    def _do(self, step: Request | float) -> Answer | None:
        if isinstance(step, float):
            time.sleep(step)
            return None
        deadline, body = Deadline(step.seconds), b""
        try:
            with self._http.stream(**step.httpx_arguments()) as response:
                for part in response.iter_bytes():
                    body += part
                    if deadline.remaining < 0:  # httpx limits the time of each part alone
                        return failed_answer(TimeoutError("its answer took too long"))
                return Answer(response.status_code, response.headers, body)
        except httpx.RequestError as error:
            return failed_answer(error)

    def _each(self, source: Pages[T] | Stream[T]) -> Iterator[T]:
        if isinstance(source, Pages):
            while source.has_more:
                yield from self._run(source.next())
            return
        while True:
            try:
                with self._http.stream(**source.request().httpx_arguments()) as response:
                    if response.headers.get("Content-Type", "").startswith(EVENT_STREAM):
                        for part in response.iter_bytes():
                            yield from source.take(part)
                    else:
                        source.note_refusal(Answer(response.status_code, response.headers, response.read()))
            except httpx.RequestError as error:
                source.note_refusal(failed_answer(error))
            time.sleep(source.pause())


class AsyncClient(Calls, Asynchronous):
    """`Client` for asyncio: the same calls, awaited, and `async for` over events and results."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 30.0,
        token_margin: float = 2700.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, key, timeout=timeout, token_margin=token_margin)
        self._http = httpx.AsyncClient(**self._for_httpx, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def _run(self, flow: Flow[T]) -> T:
        answer: Answer | None = None
        with closing(flow):
            while True:
                try:
                    step = flow.send(answer)
                except StopIteration as end:
                    result: T = end.value
                    return result
                answer = await self._do(step)

    async def _do(self, step: Request | float) -> Answer | None:
        if isinstance(step, float):
            await asyncio.sleep(step)
            return None
        try:
            async with asyncio.timeout(step.seconds):
                response = await self._http.request(**step.httpx_arguments())
        except (httpx.RequestError, TimeoutError) as error:
            return failed_answer(error)
        return Answer(response.status_code, response.headers, response.content)

    async def _each(self, source: Pages[T] | Stream[T]) -> AsyncIterator[T]:
        if isinstance(source, Pages):
            while source.has_more:
                for item in await self._run(source.next()):
                    yield item
            return
        while True:
            try:
                async with self._http.stream(**source.request().httpx_arguments()) as response:
                    if response.headers.get("Content-Type", "").startswith(EVENT_STREAM):
                        async for part in response.aiter_bytes():
                            for item in source.take(part):
                                yield item
                    else:
                        body = await response.aread()
                        source.note_refusal(Answer(response.status_code, response.headers, body))
            except httpx.RequestError as error:
                source.note_refusal(failed_answer(error))
            await asyncio.sleep(source.pause())
