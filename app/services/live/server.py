"""The internal address of a process that runs browsers: other processes of the service watch its sessions there.

The messages are those of the operators' page: to the viewer frames (binary, JPEG) and what changes (JSON); from it
`{"type":"ack"}` for each frame, and acts. An act is done only while the session waits for a person.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from app.clients.browsers.inputs import MAX_ACT_BYTES, InputRefusedError, read_act
from app.clients.browsers.screencast import Screen, ScreenEndedError, open_screen
from app.services.browser.live_tabs import LiveTab, LiveTabs
from app.services.live.certificates import make_certificate
from app.services.live.passes import LivePasses
from app.utils.logger import get_logger

PATH: Final = "/live/"
"""Path of a view, before the session's id."""
ACK: Final = '{"type":"ack"}'
"""Message of a viewer that has taken a frame; messages are compact JSON, as browsers write it."""
STALLED: Final = 4408
"""Code with which a viewer's connection is closed that takes no frame."""
ENDED: Final = 4000
"""Code with which a view is closed that is over; the reason is a sentence."""
REFUSED: Final = 4400
"""Code with which a viewer's connection is closed that sends what is no act."""
_ACK_TIMEOUT: Final = 15.0
_LOOK: Final = 0.25
"""Seconds between two looks at whether the session waits for a person."""
_OPEN_TIMEOUT: Final = 5.0

log = get_logger(__name__)


class LiveServer:
    """Serves the views of this process's sessions to whoever has a pass.

    `process`: name of this process, which passes name. `ack_timeout`: seconds after which a viewer is dropped that does
    not take a frame.
    """

    def __init__(
        self,
        *,
        tabs: LiveTabs,
        passes: LivePasses,
        process: str,
        host: str,
        port: int,
        ack_timeout: float = _ACK_TIMEOUT,
    ) -> None:
        self._tabs = tabs
        self._passes = passes
        self._process = process
        self._host = host
        self._port = port
        self._ack_timeout = ack_timeout

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[tuple[int, str]]:
        """Serve while the block runs; yield the port and the certificate. Raises `OSError`."""
        certificate, tls = make_certificate()
        async with serve(
            self._handle,
            self._host,
            self._port,
            ssl=tls,
            process_request=self._check,
            compression=None,
            max_size=MAX_ACT_BYTES,
            max_queue=4,
            open_timeout=_OPEN_TIMEOUT,
            close_timeout=1.0,
            server_header=None,
        ) as server:
            yield server.sockets[0].getsockname()[1], certificate

    async def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        session_id = request.path.removeprefix(PATH)
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not self._passes.redeem(value, session_id=session_id, process=self._process):
            log.warning("live.pass_refused")
            return connection.respond(HTTPStatus.UNAUTHORIZED, "The pass is not valid\n")
        if self._tabs.get(session_id) is None:
            return connection.respond(HTTPStatus.NOT_FOUND, "The session shows no tab\n")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        session_id = connection.request.path.removeprefix(PATH)
        tab = self._tabs.get(session_id)
        if tab is None:
            return

        def front() -> str | None:
            return tab.front() if self._tabs.get(session_id) is tab else None

        try:
            async with open_screen(tab.ws_url, front) as screen, asyncio.TaskGroup() as tasks:
                view = _View(connection, screen, tab, self._ack_timeout)
                tasks.create_task(view.send_frames())
                tasks.create_task(view.tell_changes())
                tasks.create_task(view.read())
        except* ScreenEndedError as group:
            await connection.close(ENDED, str(_first(group)))
        except* InputRefusedError:
            await connection.close(REFUSED, "The message is no act")
        except* TimeoutError:
            log.warning("live.viewer_stalled", session_id=session_id)
            connection.transport.abort()  # a close would wait for the viewer, too
        except* ConnectionClosed:
            pass


class _View:
    def __init__(
        self, connection: ServerConnection, screen: Screen, tab: LiveTab, ack_timeout: float
    ) -> None:
        self._connection = connection
        self._screen = screen
        self._tab = tab
        self._ack_timeout = ack_timeout
        self._is_taken = asyncio.Event()

    async def send_frames(self) -> None:
        """Send frames one by one, each when the one before was taken. Raises `TimeoutError` when one is not."""
        while True:
            frame = await self._screen.next_frame()
            self._is_taken.clear()
            async with asyncio.timeout(self._ack_timeout):
                await self._connection.send(frame)
                await self._is_taken.wait()
            await self._screen.acknowledge()

    async def tell_changes(self) -> None:
        """Tell whether the session waits for a person, first of all and whenever it changes."""
        waits: bool | None = None
        while True:
            if (now := self._tab.person.is_set()) is not waits:
                waits = now
                await self._connection.send(json.dumps({"type": "state", "waits": waits}))
            await asyncio.sleep(_LOOK)

    async def read(self) -> None:
        """Read what the viewer sends. Raises `InputRefusedError`, `ConnectionClosed`."""
        while True:
            message = await self._connection.recv()
            if message == ACK:
                self._is_taken.set()
                continue
            act = read_act(message)
            if self._tab.person.is_set():
                await self._screen.act(act)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
