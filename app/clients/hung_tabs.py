"""Tabs of a profile that were open before and do not answer: under a dialog, or in an endless script.

An attach to the browser waits for them, too, until its own time-out. Nothing but closing them helps: neither their
dialogs nor their scripts can be ended by a client that comes later (seen with Chromium 156).

Source: https://chromedevtools.github.io/devtools-protocol/tot/Target/
"""

import itertools
import json
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from app.utils.logger import get_logger

_ANSWER_TIMEOUT: Final = 5.0
"""Seconds for a tab to answer, which takes it a millisecond; a busy machine may have it wait."""
_CLOSE_TIMEOUT: Final = 5.0
_MAX_TABS: Final = 50
_MAX_MESSAGE: Final = 4 * 1024 * 1024

log = get_logger(__name__)


def close_hung_tabs(ws_url: str, *, timeout: float) -> None:
    """Close the tabs that do not answer, a blank one in their place if no other is left.

    Never raises for what the browser does: the attach that follows tells it. `timeout`: seconds for the connection.
    """
    try:
        with connect(
            ws_url,
            open_timeout=timeout,
            close_timeout=0.1,
            max_size=_MAX_MESSAGE,
            compression=None,
            proxy=None,
            ping_interval=None,
        ) as socket:
            _Tabs(socket).close_hung()
    except (OSError, TimeoutError, WebSocketException, ValueError, LookupError, TypeError) as error:
        log.warning("browser.tabs_not_seen", error=type(error).__name__)


class _Tabs:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}

    def close_hung(self) -> None:
        tabs = self._list()
        asked = {}
        for target_id in tabs:
            session = self._ask("Target.attachToTarget", targetId=target_id, flatten=True)["sessionId"]
            asked[target_id] = self._send("Runtime.evaluate", session, expression="0")
        deadline = monotonic() + _ANSWER_TIMEOUT
        hung = [target_id for target_id, number in asked.items() if not self._is_answered(number, deadline)]
        if hung and len(hung) == len(tabs):
            self._ask("Target.createTarget", url="about:blank")  # the last tab's end would be the browser's
        for target_id in hung:
            self._ask("Target.closeTarget", targetId=target_id)
            log.warning("browser.hung_tab_closed", tab=urlsplit(tabs[target_id]).hostname or "")
        deadline = monotonic() + _CLOSE_TIMEOUT
        while hung and not self._list().keys().isdisjoint(hung) and monotonic() < deadline:
            self._receive(0.1)

    def _list(self) -> dict[str, str]:
        """Addresses by target id."""
        found = self._ask("Target.getTargets")["targetInfos"]
        pages = [each for each in found if each["type"] == "page"][:_MAX_TABS]
        return {each["targetId"]: str(each["url"]) for each in pages}

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = self._send(method, None, **params)
        if not self._is_answered(number, monotonic() + _ANSWER_TIMEOUT):
            raise TimeoutError(method)
        result: dict[str, Any] = self._answers.pop(number)["result"]
        return result

    def _send(self, method: str, session: str | None, **params: Any) -> int:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        return number

    def _is_answered(self, number: int, deadline: float) -> bool:
        while number not in self._answers and (left := deadline - monotonic()) > 0:
            self._receive(left)
        return number in self._answers

    def _receive(self, seconds: float) -> None:
        try:
            message = json.loads(self._socket.recv(timeout=seconds))
        except TimeoutError:
            return
        if isinstance(message, dict) and isinstance(message.get("id"), int):
            self._answers[message["id"]] = message
