"""What the clients leave behind."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx

from app.client import AsyncClient


class Endless(httpx.AsyncByteStream):
    """An event stream that is closed by its reader, or never."""

    is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        event = (
            b'data: {"id":1,"event_type":"t","occurred_at":"2026-11-21T08:00:00Z","actor":"me","data":{}}\n'
        )
        while True:
            yield b"id: 1-1\n" + event + b"\n"

    async def aclose(self) -> None:
        self.is_closed = True


async def test_a_stream_that_is_left_is_closed_at_once():
    stream = Endless()
    answer = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=stream)
    async with AsyncClient(
        "http://service", "key", transport=httpx.MockTransport(lambda _: answer)
    ) as client:
        async with aclosing(client.stream_events()) as events:
            async for event in events:
                assert event.id == 1
                break
        assert stream.is_closed
