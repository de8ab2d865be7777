"""WebSockets as uvicorn speaks them, with limits: a client that takes nothing is broken off, as others are."""

import asyncio
from asyncio.transports import BaseTransport
from typing import ClassVar, Final

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.utils.logger import get_logger

MAX_WEBSOCKET_MESSAGE: Final = 64 * 1024
"""Size limit of a client's message, in bytes."""

log = get_logger(__name__)


def websockets_cut_off_after(seconds: float) -> type[WebSocketsSansIOProtocol]:
    """Return the protocol, which gives a client so many seconds to take what was sent."""

    class Connection(_TimedWebSocket):
        _seconds = seconds

    return Connection


class _TimedWebSocket(WebSocketsSansIOProtocol):
    _seconds: ClassVar[float]
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(0)  # so that the least that stays unsent is noticed

    def pause_writing(self) -> None:
        super().pause_writing()
        self._deadline = self.loop.call_later(self._seconds, self._cut_off)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_deadline()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # by a refusal; else uvicorn takes it for a crash

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._end_deadline()

    def _cut_off(self) -> None:
        log.warning("http.client_stalled", path=self.scope["path"], seconds=self._seconds)
        self.transport.abort()

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
