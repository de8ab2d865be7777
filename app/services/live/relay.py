"""The other end of an internal address: a live view that another process, or this one, serves."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from app.clients.browsers.screencast import MAX_FRAME_BYTES
from app.services.live.certificates import trusting
from app.services.live.directory import LiveSession
from app.services.live.passes import LivePasses
from app.services.live.server import PATH
from app.utils.hosts import is_loopback

_OPEN_TIMEOUT: Final = 5.0


class RelayError(Exception):
    """The view cannot be opened now; its text is a sentence for the viewer."""


class LiveRelay:
    """Opens the views of sessions, wherever they run. `machine`: this machine's name."""

    def __init__(self, *, passes: LivePasses, machine: str) -> None:
        self._passes = passes
        self._machine = machine

    @asynccontextmanager
    async def open(self, session: LiveSession) -> AsyncIterator[ClientConnection]:
        """Open the view of a running session. Raises `RelayError`."""
        if session.process is None or session.address is None or session.certificate is None:
            raise RelayError("The process that runs the session serves no internal address yet.")
        if session.machine != self._machine and is_loopback(session.address.rpartition(":")[0]):
            raise RelayError(
                f"The browser runs on the machine {session.machine}, which serves its views to itself only: "
                "set INTERNAL_HOST and INTERNAL_SECRET there."
            )
        token = self._passes.issue(session_id=session.session_id, process=session.process)
        try:
            connection = await connect(
                f"wss://{session.address}{PATH}{session.session_id}",
                ssl=trusting(session.certificate),
                additional_headers={"Authorization": f"Bearer {token}"},
                compression=None,
                proxy=None,
                open_timeout=_OPEN_TIMEOUT,
                close_timeout=1.0,
                max_size=MAX_FRAME_BYTES,
                max_queue=4,
            )
        except InvalidStatus as error:
            if error.response.status_code == 404:
                raise RelayError("The session has no tab yet.") from None
            raise RelayError(
                "The process that runs the session refused the view: INTERNAL_SECRET must be the same everywhere."
            ) from None
        except (OSError, TimeoutError, ssl.SSLError, WebSocketException) as error:
            raise RelayError(
                f"The process that runs the session cannot be reached at its internal address: {type(error).__name__}."
            ) from None
        try:
            yield connection
        finally:
            await connection.close()
