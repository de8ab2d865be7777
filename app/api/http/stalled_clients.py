"""A connection whose client takes nothing, or sends nothing, is broken off: it would stay for ever, and its memory."""

import asyncio
import re
from typing import ClassVar, Final

import h11

from app.api.http.h11_limits import LimitedHttpProtocol
from app.utils.exceptions import RequestTimeoutException
from app.utils.logger import get_logger

log = get_logger(__name__)

STALLED = "stalled"
"""Set in `request.state` of a request whose client was cut off."""

_READ_RATE: Final = 1024
"""Bytes a second: a client that is at least so fast may take its time, for a large body or over a slow line."""


def connections_cut_off_after(
    seconds: float, websockets: re.Pattern[str] | None = None
) -> type[LimitedHttpProtocol]:
    """The protocol, which gives a client so many seconds to take what was sent, to send a head, and to send a body.

    `websockets`: paths of WebSockets; None: there are none.
    """

    class Connection(_TimedProtocol):
        _seconds = seconds
        _websockets = websockets

    return Connection


class _TimedProtocol(LimitedHttpProtocol):
    _seconds: ClassVar[float]
    _websockets: ClassVar[re.Pattern[str] | None] = None
    _is_upgraded = False
    """True when another protocol has taken the connection over."""
    _deadline: asyncio.TimerHandle | None = None
    _unsent = 0
    """Bytes when the deadline was set."""
    _read_deadline: asyncio.TimerHandle | None = None
    _reading: object = None
    """The client's state while something is expected of it: `h11.IDLE` (a head) or `h11.SEND_BODY`."""
    _received = 0
    """Bytes since the read deadline was set."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that the least that stays unsent is noticed
        self._watch_reading()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        self._watch_reading()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._is_upgraded = True
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_deadline()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._deadline is not None:
            self._deadline.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for deadline in (self._deadline, self._read_deadline):
            if deadline is not None:
                deadline.cancel()

    def _should_upgrade(self) -> bool:
        """Any client may offer an upgrade anywhere; elsewhere it has no effect and is no warning."""
        assert self.scope is not None
        is_path = self._websockets is not None and self._websockets.fullmatch(self.scope["path"]) is not None
        return is_path and self._get_upgrade() == b"websocket"

    def _set_deadline(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._deadline = self.loop.call_later(self._seconds, self._end_writing)

    def _end_writing(self) -> None:
        if self.transport.get_write_buffer_size() < self._unsent:
            self._set_deadline()
            return
        path = None
        if self.scope is not None:  # as it is of one who was refused before the first request
            self.scope["state"][STALLED] = True
            path = self.scope["path"]
        log.warning("http.client_stalled", path=path, seconds=self._seconds)
        self.transport.abort()

    def _watch_reading(self) -> None:
        """Each head and each body has its deadline; a connection that is kept has uvicorn's, until more comes."""
        state = self.conn.their_state
        is_kept = state is h11.IDLE and self.timeout_keep_alive_task is not None
        is_expected = state in (h11.IDLE, h11.SEND_BODY) and not is_kept and not self._is_upgraded
        reading = state if is_expected else None
        if reading is not self._reading:
            self._reading = reading
            if self._read_deadline is not None:
                self._read_deadline.cancel()
            if reading is not None:
                self._set_read_deadline()

    def _set_read_deadline(self) -> None:
        self._received = 0
        self._read_deadline = self.loop.call_later(self._seconds, self._end_reading)

    def _end_reading(self) -> None:
        client_waits = self.flow.read_paused or self.conn.they_are_waiting_for_100_continue
        if self.transport.is_closing():
            self.transport.abort()  # it was refused, and does not even take that
        elif client_waits or self._received >= _READ_RATE * self._seconds:
            self._set_read_deadline()
        elif self._reading is h11.IDLE and not self.conn.trailing_data[0]:
            self.transport.close()  # nothing was asked
        else:
            self.refuse(RequestTimeoutException(self._seconds))
