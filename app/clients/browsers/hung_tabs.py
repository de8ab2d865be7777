"""Tabs of a profile that were open before and do not answer: under a dialog, or in an endless script.

An attach to the browser waits for them, too. Nothing but closing them helps: neither their dialogs nor their scripts
can be ended by a client that comes later (seen with Chromium 156).

Source: https://chromedevtools.github.io/devtools-protocol/tot/Target/
"""

import contextvars
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect

from app.utils.logger import get_logger

_ANSWER_TIMEOUT: Final = 5.0
"""Seconds for a tab to answer, which takes it a millisecond; a busy machine may have it wait."""
_CLOSE_TIMEOUT: Final = 5.0
_ROUND_SECONDS: Final = 0.5
"""Seconds between two rounds over the tabs."""
_MAX_TABS: Final = 50
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

log = get_logger(__name__)


@contextmanager
def closing_hung_tabs(ws_url: str, *, timeout: float) -> Iterator[None]:
    """Close the tabs that do not answer for 5 seconds while the block runs, which is an attach to the browser.

    A blank tab takes their place if no other is left. Never raises for what the browser does: the attach tells it.
    `timeout`: seconds for the connection.
    """
    with ExitStack() as exits:
        try:
            socket = exits.enter_context(
                connect(
                    ws_url,
                    open_timeout=timeout,
                    close_timeout=0.1,
                    max_size=MAX_MESSAGE_BYTES,
                    compression=None,
                    proxy=None,
                    ping_interval=None,
                )
            )
        except (OSError, TimeoutError, WebSocketException) as error:
            log.warning("browser.tabs_not_seen", error=type(error).__name__)
        else:
            thread = threading.Thread(
                # With the ids of the session, which its log lines are to carry.
                target=contextvars.copy_context().run,
                args=(_Tabs(socket).watch,),
                name="hung-tabs",
                daemon=True,
            )
            thread.start()
            exits.callback(thread.join, timeout)
            exits.callback(socket.close)  # ends the thread
        yield


class _Tabs:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._sessions: dict[str, str] = {}
        """Ids of the protocol's sessions, by target id."""

    def watch(self) -> None:
        """Close tabs that hang until the connection is closed."""
        try:
            while True:
                self._close_hung()
        except ConnectionClosed as error:
            if error.sent is not None and error.sent.code == CloseCode.MESSAGE_TOO_BIG:
                log.warning("browser.tabs_not_seen", error=type(error).__name__)
        except (OSError, TimeoutError, WebSocketException, ValueError, LookupError, TypeError) as error:
            log.warning("browser.tabs_not_seen", error=type(error).__name__)

    def _close_hung(self) -> None:
        """One round over the tabs; a tab may begin to hang later."""
        tabs = self._list()
        numbers = {}
        for target_id in tabs.keys() - self._sessions.keys():
            answer = self._ask("Target.attachToTarget", targetId=target_id, flatten=True)
            if answer is not None:
                self._sessions[target_id] = answer["sessionId"]
        for target_id in tabs.keys() & self._sessions.keys():
            numbers[target_id] = self._send("Runtime.evaluate", self._sessions[target_id], expression="0")
        deadline = monotonic() + _ANSWER_TIMEOUT
        hung = [target_id for target_id, number in numbers.items() if not self._is_answered(number, deadline)]
        if hung and len(hung) == len(tabs):
            self._ask("Target.createTarget", url="about:blank")  # the last tab's end would be the browser's
        for target_id in hung:
            self._ask("Target.closeTarget", targetId=target_id)
            log.warning("browser.hung_tab_closed", tab=urlsplit(tabs[target_id]).hostname or "")
        deadline = monotonic() + (_CLOSE_TIMEOUT if hung else _ROUND_SECONDS)
        while (remaining := deadline - monotonic()) > 0:
            if hung and self._list().keys().isdisjoint(hung):
                return
            self._receive(min(remaining, 0.1))

    def _list(self) -> dict[str, str]:
        """Addresses by target id."""
        targets = (self._ask("Target.getTargets") or {"targetInfos": []})["targetInfos"]
        pages = [each for each in targets if each["type"] == "page"][:_MAX_TABS]
        return {each["targetId"]: str(each["url"]) for each in pages}

    def _ask(self, method: str, **params: Any) -> dict[str, Any] | None:
        """The result; None when the browser refuses the command, as for a tab that has just closed itself."""
        number = self._send(method, None, **params)
        if not self._is_answered(number, monotonic() + _ANSWER_TIMEOUT):
            raise TimeoutError(method)
        return self._answers.pop(number).get("result")

    def _send(self, method: str, session: str | None, **params: Any) -> int:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        return number

    def _is_answered(self, number: int, deadline: float) -> bool:
        while number not in self._answers and (remaining := deadline - monotonic()) > 0:
            self._receive(remaining)
        return number in self._answers

    def _receive(self, seconds: float) -> None:
        try:
            message = json.loads(self._socket.recv(timeout=seconds))
        except TimeoutError:
            return
        if isinstance(message, dict) and isinstance(message.get("id"), int):
            self._answers[message["id"]] = message
