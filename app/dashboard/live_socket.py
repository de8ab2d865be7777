"""One viewer of a session's browser: frames to the page, and acts from it while the viewer has the control.

Messages to the page: frames (binary, JPEG), `state` (what the page tells the viewer) and `end` (a sentence). Messages
from it: `ack` for each frame, `take` and `release` of the control, and acts. What is typed passes through and is kept
nowhere.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from app.clients.browsers.inputs import InputRefusedError, read_act
from app.context import Context
from app.models import SessionStatus
from app.services.keys.service import Caller, Scope
from app.services.live.controls import Control
from app.services.live.directory import LiveSession, find_live_session
from app.services.live.relay import RelayError
from app.services.live.server import ACK
from app.utils.exceptions import AppException, AuthenticationException, DatabaseUnavailableException
from app.utils.logger import get_logger
from app.utils.tasks import run_shielded

_TAKE: Final = '{"type":"take"}'
_RELEASE: Final = '{"type":"release"}'
_LOOK: Final = 1.0
"""Seconds between two looks at the session, the control and the sign-in."""
_SEND_TIMEOUT: Final = 20.0
"""Seconds for a viewer to take what it is sent; the process with the browser drops one earlier that takes no frame."""
_NORMAL: Final = 1000
_REFUSED: Final = 1008

_ENDS: Final = {
    SessionStatus.COMPLETED: "The session is completed: the tokens are stored.",
    SessionStatus.FAILED: "The session has failed.",
    SessionStatus.TIMEOUT: "The session took too long.",
    SessionStatus.CANCELLED: "The session is cancelled.",
    SessionStatus.NEEDS_ATTENTION: "The session needs attention; resume it to try again.",
}

log = get_logger(__name__)


class ViewEndedError(Exception):
    """The view is over; its text is a sentence for the viewer."""

    def __init__(self, sentence: str, code: int = _NORMAL) -> None:
        super().__init__(sentence)
        self.code = code


class LiveSocket:
    """`sign_in`: returns the caller of the sign-in as its key is now; True: the person was active. Raises
    `AuthenticationException` when it has ended.
    """

    def __init__(
        self,
        *,
        socket: WebSocket,
        context: Context,
        caller: Caller,
        session_id: str,
        sign_in: Callable[[bool], Awaitable[Caller]],
    ) -> None:
        self._socket = socket
        self._context = context
        self._caller = caller
        self._session_id = session_id
        self._sign_in = sign_in
        self._relay: ClientConnection | None = None
        self._session: LiveSession | None = None
        self._waits = False
        """True while the session waits for a person."""
        self._hint = ""
        self._control: Control | None = None
        self._held_until = 0.0
        """End of the control's lease as this process knows it, by `monotonic`."""
        self._is_noted = False
        self._is_active = False
        """True when the person has acted since the last look at the sign-in."""
        self._told: dict[str, Any] | None = None

    async def run(self) -> None:
        """Serve the viewer until the session has ended or the viewer has left."""
        sentence, code = "The service stops the view.", _NORMAL
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read())
                tasks.create_task(self._watch())
                tasks.create_task(self._show())
        except* ViewEndedError as group:
            error = group.exceptions[0]
            assert isinstance(error, ViewEndedError)
            sentence, code = str(error), error.code
        except* AppException as refused:
            first = refused.exceptions[0]
            sentence = first.message if isinstance(first, AppException) else sentence
            log.warning("live.view_broken_off", error=sentence)
        except* (WebSocketDisconnect, TimeoutError):
            code = 0
        finally:
            await run_shielded(self._release())
        if code:
            await self._end(sentence, code)

    async def _show(self) -> None:
        """Show the browser whenever there is one, through waits and attempts."""
        while True:
            try:
                session = await self._look()
                if session.status is SessionStatus.PENDING:
                    raise RelayError("The session waits for its start.")
                async with self._context.live.relay.open(session) as relay:
                    await self._follow(relay, session)
            except (RelayError, DatabaseUnavailableException) as error:
                self._hint = str(error)
            await self._tell()
            await asyncio.sleep(_LOOK)

    async def _follow(self, relay: ClientConnection, session: LiveSession) -> None:
        if not self._is_noted:
            await self._context.live.controls.note_view(session, actor=self._caller.name)
            self._is_noted = True
        self._relay, self._hint = relay, ""
        try:
            async for message in relay:
                if isinstance(message, bytes):
                    async with asyncio.timeout(_SEND_TIMEOUT):
                        await self._socket.send_bytes(message)
                else:
                    self._waits = bool(json.loads(message)["waits"])
                    await self._tell()
            self._hint = relay.close_reason or ""
        except ConnectionClosed:
            self._hint = relay.close_reason or "The view was interrupted."
        finally:
            self._relay, self._waits = None, False

    async def _watch(self) -> None:
        """Keep the control, and look whether the viewer may still see the session. Raises `ViewEndedError`."""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                is_active, self._is_active = self._is_active, False
                now = await self._sign_in(is_active)
                if (now.scopes, now.access) != (self._caller.scopes, self._caller.access):
                    raise ViewEndedError("Your rights have changed; open the page again.", _REFUSED)
                await self._keep_control()
                await self._look()
            except AuthenticationException:
                raise ViewEndedError("Your sign-in has ended.", _REFUSED) from None
            except DatabaseUnavailableException:
                continue  # the control runs out by itself
            await self._tell()

    async def _read(self) -> None:
        """Read what the page sends. Raises `WebSocketDisconnect`, `ViewEndedError`."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            text = message.get("text") or ""
            if text == ACK:
                await self._forward(ACK)
            elif text in (_TAKE, _RELEASE):
                await (self._take() if text == _TAKE else self._release())
                await self._look()
                await self._tell()
            else:
                await self._act(text)

    async def _act(self, text: str) -> None:
        try:
            act = read_act(text)
        except InputRefusedError:
            raise ViewEndedError("The page sent what is no act of a person.", _REFUSED) from None
        if self._control is not None and monotonic() < self._held_until and self._waits:
            self._is_active = True
            await self._forward(act.model_dump_json())

    async def _forward(self, text: str) -> None:
        if self._relay is not None:
            try:
                await self._relay.send(text)
            except ConnectionClosed:
                return  # `_show` sees it, too

    async def _take(self) -> None:
        if not self._may_control or not self._waits or self._session is None or self._control is not None:
            return
        started = monotonic()
        controls = self._context.live.controls
        self._control = await controls.take(self._session, actor=self._caller.name)
        self._held_until = started + controls.seconds

    async def _release(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            try:
                await self._context.live.controls.release(control)
            except AppException as error:  # the lease runs out
                log.warning("live.control_not_released", error_code=error.error_code)

    async def _keep_control(self) -> None:
        control = self._control
        if control is None:
            return
        started = monotonic()
        is_held = await self._context.live.controls.renew(control)
        if self._control is control:  # else it was given back meanwhile
            self._held_until = started + self._context.live.controls.seconds
            self._control = control if is_held else None

    async def _look(self) -> LiveSession:
        """Read the session. Raises `ViewEndedError` when it has ended."""
        async with self._context.database.reading() as db:
            self._session = session = await find_live_session(
                db, self._session_id, access=self._caller.access
            )
        if session.status.is_final:
            raise ViewEndedError(_ENDS[session.status])
        return session

    async def _tell(self) -> None:
        """Tell the page what has changed."""
        session = self._session
        state = {
            "type": "state",
            "stage": session and session.stage,
            "is_live": self._relay is not None,
            "hint": self._hint,
            "waits": self._waits,
            "may_control": self._may_control,
            "is_mine": self._control is not None,
            "controller": session and session.controller,
        }
        if state != self._told:
            self._told = state
            await self._send(state)

    async def _end(self, sentence: str, code: int) -> None:
        try:
            await self._send({"type": "end", "text": sentence})
            await self._socket.close(code)
        except (WebSocketDisconnect, TimeoutError, RuntimeError):
            return  # the viewer has left meanwhile

    async def _send(self, message: dict[str, Any]) -> None:
        async with asyncio.timeout(_SEND_TIMEOUT):
            await self._socket.send_text(json.dumps(message))

    @property
    def _may_control(self) -> bool:
        return self._caller.may(Scope.CONTROL)
