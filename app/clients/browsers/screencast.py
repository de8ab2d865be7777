"""A tab as a viewer sees it: frames one by one, and the acts of a person, over the DevTools protocol.

Source: https://chromedevtools.github.io/devtools-protocol/tot/Page/#method-startScreencast. The browser sends a frame
when the page has changed, and stops after a few that are not acknowledged, so nothing queues up behind a slow viewer.
"""

import asyncio
import base64
import binascii
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import isfinite
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode

from app.clients.browsers.inputs import Act
from app.utils.tasks import wait_for_event

MAX_FRAME_BYTES: Final = 1024 * 1024
"""Size limit of a frame; noise of the largest frame takes 700 KB."""
_MAX_MESSAGE_BYTES: Final = 2 * MAX_FRAME_BYTES
_FORMAT: Final = {"format": "jpeg", "quality": 60, "maxWidth": 1280, "maxHeight": 1024}
_OPEN_TIMEOUT: Final = 5.0
_ANSWER_TIMEOUT: Final = 5.0
_LOOK: Final = 0.25
"""Seconds between two looks at which page is in front."""
_FIRST_FRAME: Final = 1.0
"""Seconds without a first frame after which a screencast is started again, twice as many each time: Chromium sends
none of one that starts just when a navigation brings the page's next process."""
_MAX_FIRST_FRAME: Final = 8.0
_GONE_AFTER: Final = 3.0
"""Seconds after which a page that has gone, and gave its place to none, ends the view."""
_MAX_UNANSWERED: Final = 500
"""Acts that the page has not answered; further ones are dropped: a page that hangs takes none."""
_MAX_SIDE: Final = 16_384.0
"""CSS pixels of a view that a browser may name."""

TAB_CLOSED: Final = "The tab of the session has closed."
BROWSER_GONE: Final = "The browser has gone."
FRAME_TOO_LARGE: Final = "The browser sent a picture over the limit."


class ScreenEndedError(Exception):
    """The view is over; its text is a sentence for the viewer."""


class Screen:
    """The page in front of one session, over a connection of its own. `open_screen` opens it.

    `front`: returns the target id of that page, None when the session shows none any more.
    """

    def __init__(self, socket: ClientConnection, front: Callable[[], str | None]) -> None:
        self._socket = socket
        self._front = front
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._unanswered: set[int] = set()
        """Acts."""
        self._target: str | None = None
        self._session: str | None = None
        """Id of the protocol's session with the page; None when the page has gone."""
        self._is_raised = False
        self._patience = _FIRST_FRAME
        self._restart_at: float | None = None
        """Time of the loop; None when the screencast has sent a frame."""
        self._frame: bytes | None = None
        """Latest frame that nobody has taken."""
        self._taken: list[int] = []
        """Frames to acknowledge, as the browser numbers them."""
        self._frame_size: tuple[float, float] | None = None
        """Size of the view in the latest frame, CSS pixels; None before the page's first one."""
        self._changed = asyncio.Event()
        self._end: str | None = None

    async def next_frame(self) -> bytes:
        """Return the latest frame, a JPEG, as soon as there is one. Raises `ScreenEndedError`."""
        loop = asyncio.get_running_loop()
        gone_since: float | None = None
        while True:
            if self._end is not None:
                raise ScreenEndedError(self._end)
            front = self._front()
            if front is None:
                raise ScreenEndedError(TAB_CLOSED)
            if front != self._target:
                await self._show(front)
            if self._frame is not None:
                frame, self._frame = self._frame, None
                return frame
            if self._session is not None:
                gone_since = None
                if self._restart_at is not None and loop.time() >= self._restart_at:
                    self._patience = min(2 * self._patience, _MAX_FIRST_FRAME)
                    await self._start()
            elif gone_since is None:
                gone_since = loop.time()
            elif loop.time() - gone_since >= _GONE_AFTER:
                raise ScreenEndedError(TAB_CLOSED)
            self._changed.clear()
            await wait_for_event(self._changed, _LOOK)

    async def acknowledge(self) -> None:
        """Let the browser send the next frame: the viewer has taken the last one."""
        taken, self._taken = self._taken, []
        for number in taken if self._session is not None else ():
            await self._send("Page.screencastFrameAck", {"sessionId": number})

    async def act(self, act: Act) -> None:
        """Do in the page what a person has done on its picture; before the first picture it can mean nothing."""
        if self._frame_size is None:
            return
        if self._session is not None and not self._is_raised:
            # A page behind another one in the same window takes no keys.
            self._is_raised = True
            await self._send("Page.bringToFront", {})
        for method, params in act.commands(*self._frame_size):
            if self._session is not None and len(self._unanswered) < _MAX_UNANSWERED:
                self._unanswered.add(await self._send(method, params))

    async def listen(self) -> None:
        """Read what the browser says, until its connection ends."""
        try:
            async for message in self._socket:
                # One that is no JSON, or of another shape, ends nothing but itself.
                try:
                    self._handle(json.loads(message))
                except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
                    continue
        except ConnectionClosed as error:
            if error.sent is not None and error.sent.code == CloseCode.MESSAGE_TOO_BIG:
                self._finish(FRAME_TOO_LARGE)
        finally:
            self._finish(BROWSER_GONE)

    async def _show(self, target: str) -> None:
        """Attach to a page and let it send frames; a page that went before stays as it is."""
        if self._session is not None:
            await self._send("Target.detachFromTarget", {"sessionId": self._session}, of_browser=True)
        self._target, self._session = target, None
        self._frame, self._frame_size, self._taken = None, None, []
        self._unanswered.clear()
        attached = await self._ask(
            "Target.attachToTarget", {"targetId": target, "flatten": True}, of_browser=True
        )
        session = attached.get("sessionId")
        if not isinstance(session, str):
            return  # it has just closed; the next look finds another one, or the end
        self._session, self._is_raised, self._patience = session, False, _FIRST_FRAME
        await self._send("Page.enable", {})
        await self._start()

    async def _start(self) -> None:
        self._restart_at = asyncio.get_running_loop().time() + self._patience
        await self._send("Page.stopScreencast", {})
        await self._send("Page.startScreencast", _FORMAT)

    def _handle(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if (number := message.get("id")) is not None:
            self._unanswered.discard(number)
            if (answer := self._answers.get(number)) is not None and not answer.done():
                answer.set_result(message.get("result") or {})
        elif method == "Target.detachedFromTarget" and params["sessionId"] == self._session:
            self._session = None
            self._changed.set()
        elif method == "Page.screencastFrame" and message.get("sessionId") == self._session:
            self._note_frame(params)

    def _note_frame(self, params: dict[str, Any]) -> None:
        data, metadata = params["data"], params["metadata"]
        size = float(metadata["deviceWidth"]), float(metadata["deviceHeight"])
        if not all(isfinite(side) and 0 < side <= _MAX_SIDE for side in size):
            raise ValueError("not a size")
        try:
            frame = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise ValueError("not base64") from error
        if len(frame) > MAX_FRAME_BYTES:
            self._finish(FRAME_TOO_LARGE)
            return
        self._frame, self._frame_size, self._restart_at = frame, size, None
        self._taken.append(int(params["sessionId"]))
        self._changed.set()

    def _finish(self, reason: str) -> None:
        self._end = self._end or reason
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result({})
        self._changed.set()

    async def _ask(self, method: str, params: dict[str, Any], *, of_browser: bool = False) -> dict[str, Any]:
        """Return the result of a command; empty when it is refused, or not answered in time."""
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        number = next(self._numbers)
        self._answers[number] = answer
        try:
            await self._send(method, params, of_browser=of_browser, number=number)
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                return await answer
        except TimeoutError:
            return {}
        finally:
            del self._answers[number]

    async def _send(
        self, method: str, params: dict[str, Any], *, of_browser: bool = False, number: int | None = None
    ) -> int:
        number = next(self._numbers) if number is None else number
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if not of_browser:
            message["sessionId"] = self._session
        try:
            await self._socket.send(json.dumps(message))
        except ConnectionClosed:
            self._finish(BROWSER_GONE)
        return number


@asynccontextmanager
async def open_screen(ws_url: str, front: Callable[[], str | None]) -> AsyncIterator[Screen]:
    """Open the view of a browser's page. Raises `ScreenEndedError` when the browser cannot be reached."""
    try:
        socket = await connect(
            ws_url,
            open_timeout=_OPEN_TIMEOUT,
            close_timeout=0.1,
            max_size=_MAX_MESSAGE_BYTES,
            max_queue=4,
            compression=None,
            proxy=None,
            ping_interval=None,  # a page that hangs does not answer, and is not gone
        )
    except (OSError, TimeoutError, WebSocketException) as error:
        raise ScreenEndedError(BROWSER_GONE) from error
    screen = Screen(socket, front)
    listener = asyncio.create_task(screen.listen())
    try:
        yield screen
    finally:
        await socket.close()
        await asyncio.gather(listener, return_exceptions=True)
