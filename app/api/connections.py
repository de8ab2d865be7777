"""A connection whose client takes nothing is broken off: a buffer, and whoever waits for it, would stay for ever."""

import asyncio

from app.api.protocol import LimitedHttpProtocol
from app.utils.logger import get_logger

log = get_logger(__name__)

STALLED = "stalled"
"""Set in `request.state` of a request whose client was cut off."""


def connections_cut_off_after(seconds: float) -> type[LimitedHttpProtocol]:
    """The protocol, which gives a client so many seconds to take what was sent."""

    class Connection(LimitedHttpProtocol):
        _deadline: asyncio.TimerHandle | None = None

        def pause_writing(self) -> None:
            super().pause_writing()
            self._deadline = self.loop.call_later(seconds, self._cut_off)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._forget_deadline()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._forget_deadline()

        def _cut_off(self) -> None:
            self.scope["state"][STALLED] = True
            log.warning("http.client_stalled", path=self.scope["path"], seconds=seconds)
            self.transport.abort()

        def _forget_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = None

    return Connection
