"""The browser's own DevTools protocol (CDP): its version, its orderly end, and the redirect that carries the code.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import itertools
import json
import queue
import re
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

import httpx
from pydantic_core import Url
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from app.clients.answers import json_or_none
from app.clients.browsers.browser_exit import SETTLE_SECONDS, find_process, wait_until_gone
from app.clients.browsers.console import error_line
from app.utils.exceptions import SeleniumConnectionException

_VERSION_TIMEOUT: Final = 2.0
_MAJOR: Final = re.compile(r"(?:Headless)?Chrome/(\d{1,9})\.")
MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024
"""Bytes; a screenshot of a large window takes 10 MB, in base64."""
_PERCENT_CODE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_NETWORK_ERROR: Final = re.compile(r"net::(ERR_[A-Z0-9_]+)")
_CONSOLE_LINES: Final = 20
_MAX_WINDOWS: Final = 10
"""Watched at the same time; more are of no consent."""
# Every document is looked at, because a pattern does not know equal spellings of one address.
_DOCUMENTS: Final = {"patterns": [{"urlPattern": "*", "resourceType": "Document", "requestStage": "Request"}]}
_NEW_PAGES: Final = {
    "autoAttach": True,
    "waitForDebuggerOnStart": True,
    "flatten": True,
    "filter": [{"type": "page"}, {"exclude": True}],
}
_ANSWER_TIMEOUT: Final = 2.0
"""Seconds for the browser to take our answer to the callback, which takes it a millisecond."""
_CLOSE_TIMEOUT: Final = 5.0
_CLOSE_AGAIN: Final = 0.5
"""Seconds for the browser to close a tab, which takes it 0.1, before it is asked again."""
_MAX_BODY: Final = 65_536
"""Characters of a callback's body; a longer one is no answer of an authorization."""
_CALLBACK_PAGE: Final = base64.b64encode(
    b"<!doctype html><title>Authorization</title><p>The authorization was received. You can close this tab."
).decode()


@dataclass(frozen=True)
class BrowserVersion:
    """Version and address of a running browser, as `/json/version` tells them."""

    major: int
    ws_url: str
    """The browser's own DevTools address; a new one with every start."""


class DevToolsClient:
    """Asks and ends browsers through their DevTools port."""

    def __init__(self, *, http: httpx.AsyncClient) -> None:
        self._http = http

    async def version(self, address: str) -> BrowserVersion:
        """The browser behind `address` (host:port). Raises `SeleniumConnectionException` within 2 seconds."""
        try:
            async with asyncio.timeout(_VERSION_TIMEOUT):
                response = await self._http.get(f"http://{address}/json/version", timeout=_VERSION_TIMEOUT)
            body = json_or_none(response.raise_for_status().content)
            match = _MAJOR.match(body["Browser"])
            if match is None:
                raise ValueError("not a Chromium")
            return BrowserVersion(int(match[1]), str(body["webSocketDebuggerUrl"]))
        except (
            TimeoutError,
            httpx.HTTPError,
            OverflowError,
            LookupError,
            TypeError,
            ValueError,
            RecursionError,
        ) as error:
            raise SeleniumConnectionException(address.rpartition(":")[2]) from error

    async def close_browser(self, ws_url: str, *, timeout: float) -> bool:
        """Ask the browser to close, so that it saves its cookies, and wait until it has gone: `timeout` seconds.

        Return whether it has gone. Only then may the profile be stopped: a stop kills a browser that still writes.
        """
        try:
            async with asyncio.timeout(timeout):
                pid = await self._ask_to_close(ws_url, timeout)
                await wait_until_gone(ws_url, pid)
        except TimeoutError:
            return False
        if pid is None:
            await asyncio.sleep(SETTLE_SECONDS)
        return True

    async def _ask_to_close(self, ws_url: str, timeout: float) -> int | None:
        """The browser's process, as far as it can be seen, once its DevTools connection has ended."""
        pid: int | None = None
        try:
            async with connect_async(
                ws_url, open_timeout=timeout, close_timeout=0.1, max_size=MAX_MESSAGE_BYTES, proxy=None
            ) as socket:
                pid = await find_process(socket, ws_url)
                await socket.send(json.dumps({"id": 2, "method": "Browser.close"}))
                async for _ in socket:
                    pass
        except TimeoutError:
            raise
        except (OSError, WebSocketException):
            pass  # nobody listens there any more
        return pid


@dataclass
class _Page:
    """A tab or window that is watched."""

    session: str
    """Id of the protocol's session with it."""
    url: str = ""
    """Address of its last request for a document."""
    document: str | None = None
    """Id of that request."""
    network_error: str | None = None


class RedirectWatcher:
    """A fresh tab, whose request for the redirect URI it catches the moment it starts, and answers itself.

    The request never leaves the browser: the code is had without waiting for a callback page that may be slow or
    unreachable from the profile's proxy, and reaches no other server. Tabs and windows that the tab opens are watched
    with it before they load anything, and closed with it. The tab is not made by the driver, which waits for the tab
    that it is at, and that may hang. Also keeps the last errors of the pages' consoles, and asks the page in front what
    somebody wants to know of it. A context manager; used from a Selenium thread.
    """

    def __init__(self, *, ws_url: str, redirect_uri: str, timeout: float) -> None:
        self._ws_url = ws_url
        self.target_id = ""
        """The tab's, which is the driver's handle of it."""
        self._redirect_uri = redirect_uri
        self._timeout = timeout
        self._caught: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._fulfilled: int | None = None
        self._answered = threading.Event()
        self._targets: dict[str, str] = {}
        """Target ids by the id of the protocol's session with each."""
        self._pages: dict[str, _Page] = {}
        """The tab and the windows that it has opened, by target id, the latest last."""
        self._detached = threading.Event()
        """Set whenever one of them has gone."""
        self.front = ""
        """Target id of the page in front."""
        self.redirect: str | None = None
        """The callback's URL, once it was caught."""
        self.console_errors: deque[str] = deque(maxlen=_CONSOLE_LINES)
        """Lines as the pages wrote them, secrets included; the latest last."""

    def __enter__(self) -> Self:
        self._socket: ClientConnection = connect(
            self._ws_url,
            open_timeout=self._timeout,
            close_timeout=0.1,
            max_size=MAX_MESSAGE_BYTES,
            compression=None,
            proxy=None,
            legacy=True,  # the connection outlives this method
            ping_interval=None,  # a page that hangs does not answer, and is not gone
        )
        self._thread = threading.Thread(target=self._listen, name="redirect-watcher", daemon=True)
        self._thread.start()
        try:
            self._open_tab()
        except BaseException:
            with suppress(WebSocketException, OSError):
                self._command(None, "Target.closeTarget", {"targetId": self.target_id})
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.redirect is not None:
            # Else the request would leave the browser after all, and the tab would wait for its answer.
            self._answered.wait(timeout=_ANSWER_TIMEOUT)
        self._socket.close()
        self._thread.join(timeout=self._timeout)

    def wait(self, seconds: float) -> str | None:
        """The callback's URL, as soon as its request starts; None when it did not within `seconds`.

        Raises `ConnectionError` when the tab has gone: nothing would be caught any more.
        """
        try:
            url = self._caught.get(timeout=seconds)
        except queue.Empty:
            return None
        if url is None:
            self._caught.put(None)  # for whoever asks next
            raise ConnectionError("the tab's DevTools connection has ended")
        return url

    def choose_front(self, *is_preferred: Callable[[str], bool]) -> str:
        """The target id of the page in front, which `ask` asks from now on.

        It is the page opened last of those whose address the first rule accepts, else the second and so on, else the
        tab itself.
        """
        pages = [(target_id, page.url) for target_id, page in list(self._pages.items())]
        matches = ([target_id for target_id, url in pages if accepts(url)] for accepts in is_preferred)
        self.front = next((target_ids[-1] for target_ids in matches if target_ids), self.target_id)
        return self.front

    def find_network_error(self, target_id: str) -> str | None:
        """Chromium's code, such as ``ERR_CONNECTION_REFUSED``, while the page's last document could not be loaded."""
        page = self._pages.get(target_id)
        return page.network_error if page else None

    def ask(self, method: str, *, seconds: float, **params: Any) -> dict[str, Any] | None:
        """The result of a command; None when the page refuses it, does not answer within `seconds` or has gone."""
        page = self._pages.get(self.front)
        return self._ask(page.session, method, seconds, params) if page else None

    def close_tab(self) -> None:
        """Close the tab and its windows while their requests are watched, so that a callback never leaves the browser.

        The windows go first: one whose tab has gone could not be found again. The browser loses the command when a page
        is committed at that moment, hence it is repeated.
        """
        ends = monotonic() + _CLOSE_TIMEOUT
        while self._thread.is_alive() and (remaining := ends - monotonic()) > 0:
            self._detached.clear()
            windows = [target_id for target_id in list(self._pages) if target_id != self.target_id]
            with suppress(WebSocketException, OSError):
                for target_id in windows or [self.target_id]:
                    self._command(None, "Target.closeTarget", {"targetId": target_id})
            self._detached.wait(min(remaining, _CLOSE_AGAIN))

    def _open_tab(self) -> None:
        target = self._ask(None, "Target.createTarget", self._timeout, {"url": "about:blank"}) or {}
        self.target_id = self.front = target.get("targetId", "")
        attach = {"targetId": self.target_id, "flatten": True}
        answer = self._ask(None, "Target.attachToTarget", self._timeout, attach) if target else None
        session = (answer or {}).get("sessionId")
        if session is None or self._ask(session, "Fetch.enable", self._timeout, _DOCUMENTS) is None:
            raise ConnectionError("the browser opens no tab that can be watched")
        self._pages[self.target_id], self._targets[session] = _Page(session), self.target_id
        self._watch(session)
        self._command(None, "Target.setAutoAttach", _NEW_PAGES)

    def _ask(
        self, session: str | None, method: str, seconds: float, params: dict[str, Any]
    ) -> dict[str, Any] | None:
        """`session`: None asks the browser as a whole."""
        number = next(self._numbers)
        answers = self._answers[number] = queue.SimpleQueue()
        try:
            self._send(number, session, method, params)
            return answers.get(timeout=max(seconds, 0.0)).get("result")
        except (queue.Empty, WebSocketException, OSError):
            return None
        finally:
            del self._answers[number]

    def _listen(self) -> None:
        """Ends when the socket does: on exit, or with the tab."""
        try:
            with suppress(WebSocketException, OSError):
                for message in self._socket:
                    # One that is no JSON, or of another shape, ends nothing but itself.
                    with suppress(ValueError, TypeError, AttributeError, LookupError, RecursionError):
                        self._handle(json.loads(message))
        finally:
            self._caught.put(None)
            self._answered.set()
            self._detached.set()
        for answers in list(self._answers.values()):
            answers.put({})

    def _handle(self, message: dict[str, Any]) -> None:
        method, target_id = message.get("method"), self._targets.get(message.get("sessionId", ""))
        if (number := message.get("id")) is not None:
            if number == self._fulfilled:
                self._answered.set()
            elif (answers := self._answers.get(number)) is not None:
                answers.put(message)
        elif method == "Target.attachedToTarget":
            self._note_target(message["params"])
        elif method == "Target.detachedFromTarget":
            self._note_gone(self._targets.pop(message["params"]["sessionId"], None))
        elif target_id is None:
            return
        elif method == "Fetch.requestPaused":
            self._answer(message["sessionId"], target_id, message["params"])
        elif str(method).startswith("Network."):
            self._note_document(target_id, str(method), message["params"])
        elif line := error_line(message):
            self.console_errors.append(line)

    def _note_target(self, attached: dict[str, Any]) -> None:
        """The browser tells of every page that is there, and of each new one, which waits until it is let go."""
        session, target = attached["sessionId"], attached["targetInfo"]
        target_id = target["targetId"]
        if target_id == self.target_id:
            return
        if target.get("openerId") in self._pages and len(self._pages) <= _MAX_WINDOWS:
            self._pages[target_id], self._targets[session] = _Page(session), target_id
            self._command(session, "Fetch.enable", _DOCUMENTS)
            self._watch(session)
        else:
            self._command(session, "Runtime.runIfWaitingForDebugger")
            self._command(None, "Target.detachFromTarget", {"sessionId": session})

    def _note_gone(self, target_id: str | None) -> None:
        """The tab's end is that of the watch, once its windows have gone, too: one may ask for the redirect URI."""
        if target_id is None:
            return
        self._pages.pop(target_id, None)
        if target_id == self.target_id:
            self._caught.put(None)
        if not self._pages:
            self._socket.close()
        self._detached.set()

    def _watch(self, session: str) -> None:
        for method in ("Runtime.enable", "Log.enable", "Network.enable", "Runtime.runIfWaitingForDebugger"):
            self._command(session, method)

    def _note_document(self, target_id: str, method: str, params: dict[str, Any]) -> None:
        page = self._pages[target_id]
        if method == "Network.requestWillBeSent":
            if params.get("type") == "Document" and params.get("frameId") == target_id:
                page.document, page.network_error = params["requestId"], None
        elif (
            method == "Network.loadingFailed"
            and params["requestId"] == page.document
            and not params.get("canceled")
        ):
            page.network_error = network_error_in(params.get("errorText", ""))

    def _answer(self, session: str, target_id: str, paused: dict[str, Any]) -> None:
        request_id, request = paused["requestId"], paused["request"]
        is_main_frame = paused.get("frameId") == target_id
        if is_main_frame:
            self._pages[target_id].url = request["url"]
        # Browsers keep the fragment out of the URL of a request, CDP tells it apart.
        url = request["url"] + request.get("urlFragment", "")
        if not same_endpoint(url, self._redirect_uri):
            self._command(session, "Fetch.continueRequest", {"requestId": request_id})
            return
        if not is_main_frame:  # an iframe: no callback, and no way out for its code
            refusal = {"requestId": request_id, "errorReason": "BlockedByClient"}
            self._command(session, "Fetch.failRequest", refusal)
            return
        self.redirect = _with_fields(url, request)
        self._caught.put(self.redirect)
        answer = {
            "requestId": request_id,
            "responseCode": 200,
            "responseHeaders": [{"name": "Content-Type", "value": "text/html; charset=utf-8"}],
            "body": _CALLBACK_PAGE,
        }
        self._fulfilled = next(self._numbers)
        self._send(self._fulfilled, session, "Fetch.fulfillRequest", answer)

    def _command(self, session: str | None, method: str, params: dict[str, Any] | None = None) -> None:
        """One whose answer nobody waits for."""
        self._send(next(self._numbers), session, method, params or {})

    def _send(self, number: int, session: str | None, method: str, params: dict[str, Any]) -> None:
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))


def _with_fields(url: str, request: dict[str, Any]) -> str:
    """The callback's URL with the fields of its body as its query (OAuth 2.0 Form Post Response Mode, section 2)."""
    if request.get("method") != "POST":
        return url
    entries = request.get("postDataEntries") or []
    body = b"".join(base64.b64decode(entry.get("bytes", "")) for entry in entries).decode(errors="replace")
    body = body or request.get("postData", "")
    if not body or len(body) > _MAX_BODY:
        return url
    base, _, fragment = url.partition("#")
    joined = base + ("&" if "?" in base else "?") + body
    return f"{joined}#{fragment}" if fragment else joined


def network_error_in(text: str) -> str | None:
    """Chromium's code in a sentence of its own or of the driver, such as ``ERR_CONNECTION_REFUSED``."""
    match = _NETWORK_ERROR.search(text)
    return match[1] if match else None


def same_endpoint(url: str, redirect_uri: str) -> bool:
    """Return whether `url` is the redirect URI with any query; both as a browser writes them.

    The parser is WHATWG's (https://url.spec.whatwg.org): IDNA, percent-encoding, dot segments.
    """
    return (endpoint := _endpoint(url)) is not None and endpoint == _endpoint(redirect_uri)


def _endpoint(url: str) -> tuple[str, str | None, int | None, str] | None:
    try:
        parts = Url(url)
    except ValueError:
        return None
    path = _PERCENT_CODE.sub(
        lambda code: code[0].upper(), parts.path or "/"
    )  # in either case (RFC 3986, 6.2.2.1)
    return parts.scheme, parts.host, parts.port, path
