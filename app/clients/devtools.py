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
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from app.clients import bounded
from app.clients.console import error_line
from app.utils.exceptions import SeleniumConnectionException

_VERSION_TIMEOUT: Final = 2.0
_MAJOR: Final = re.compile(r"(?:Headless)?Chrome/(\d{1,9})\.")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_MAX_MESSAGE: Final = 32 * 1024 * 1024
"""Bytes; a screenshot of a large window takes 10 MB, in base64."""
_CONSOLE_LINES: Final = 20
_FIRST_ASKED: Final = 100
"""Numbers of the commands whose answers somebody waits for; the lower ones are sent without."""
_CALLBACK_PAGE: Final = base64.b64encode(
    b"<!doctype html><title>Authorization</title><p>The authorization was received. You can close this tab."
).decode()


@dataclass(frozen=True)
class BrowserVersion:
    """What `/json/version` tells of a running browser."""

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
                response = await bounded.request(
                    self._http, "GET", f"http://{address}/json/version", timeout=_VERSION_TIMEOUT
                )
            body = response.raise_for_status().json()
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

        Returns whether it has gone.
        """
        try:
            async with connect_async(
                ws_url, open_timeout=timeout, close_timeout=0.1, max_size=_MAX_MESSAGE
            ) as socket:
                await socket.send(json.dumps({"id": 1, "method": "Browser.close"}))
                async with asyncio.timeout(timeout):
                    async for _ in socket:
                        pass
        except TimeoutError:
            return False
        except (OSError, WebSocketException):
            return True  # nobody listens there any more
        return True


class RedirectWatcher:
    """Catches the tab's request for the redirect URI the moment it starts, and answers it itself.

    The request never leaves the browser: the code is had without waiting for a callback page that may be slow or
    unreachable from the profile's proxy, and reaches no other server. Also keeps the last errors of the page's
    console, and asks the tab what somebody wants to know of it. A context manager; used from a Selenium thread.
    """

    def __init__(self, *, address: str, target_id: str, redirect_uri: str, timeout: float) -> None:
        self._url = f"ws://{address}/devtools/page/{target_id}"
        self._redirect_uri = redirect_uri
        self._timeout = timeout
        self._caught: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._numbers = itertools.count(_FIRST_ASKED)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self.redirect: str | None = None
        """The callback's URL, once it was caught."""
        self.console_errors: deque[str] = deque(maxlen=_CONSOLE_LINES)
        """As the page wrote them, secrets included; the latest last."""

    def __enter__(self) -> Self:
        self._socket: ClientConnection = connect(
            self._url,
            open_timeout=self._timeout,
            close_timeout=0.1,
            max_size=_MAX_MESSAGE,
            compression=None,
            legacy=True,  # the connection outlives this method
            ping_interval=None,  # a page that hangs does not answer, and is not gone
        )
        # Every document of the tab is looked at, because a pattern does not know equal spellings of one address.
        pattern = {"urlPattern": "*", "resourceType": "Document", "requestStage": "Request"}
        try:
            self._command(1, "Fetch.enable", patterns=[pattern])
            self._socket.recv(timeout=self._timeout)
        except BaseException:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._listen, name="redirect-watcher", daemon=True)
        self._thread.start()
        self._command(4, "Runtime.enable")
        self._command(5, "Log.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def ask(self, method: str, *, seconds: float, **params: Any) -> dict[str, Any] | None:
        """The result of a command; None when the tab refuses it, does not answer within `seconds` or has gone."""
        number = next(self._numbers)
        answers = self._answers[number] = queue.SimpleQueue()
        try:
            self._command(number, method, **params)
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
        for answers in list(self._answers.values()):
            answers.put({})

    def _handle(self, message: dict[str, Any]) -> None:
        if (answers := self._answers.get(message.get("id", 0))) is not None:
            answers.put(message)
        elif message.get("method") == "Fetch.requestPaused":
            self._answer(message["params"])
        elif line := error_line(message):
            self.console_errors.append(line)

    def _answer(self, paused: dict[str, Any]) -> None:
        request_id, url = paused["requestId"], paused["request"]["url"]
        if not same_endpoint(url, self._redirect_uri):
            self._command(3, "Fetch.continueRequest", requestId=request_id)
            return
        self.redirect = url
        self._caught.put(url)
        headers = [{"name": "Content-Type", "value": "text/html; charset=utf-8"}]
        self._command(
            2,
            "Fetch.fulfillRequest",
            requestId=request_id,
            responseCode=200,
            responseHeaders=headers,
            body=_CALLBACK_PAGE,
        )

    def _command(self, number: int, method: str, **params: Any) -> None:
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))


def same_endpoint(url: str, redirect_uri: str) -> bool:
    """Whether `url` is the redirect URI, whatever query it adds; compared as a browser normalises them."""
    return _endpoint(url) == _endpoint(redirect_uri)


def _endpoint(url: str) -> tuple[str, str | None, int | None, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme), parts.path or "/"
