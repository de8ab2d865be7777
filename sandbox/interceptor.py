"""A pure ASGI layer around each server: applies the general faults, and keeps the statistics."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.utils.tasks import wait_for_event
from sandbox.faults import GENERAL_KINDS, Call, Fault, canned_response, echo_response
from sandbox.sandbox_state import SandboxState
from sandbox.traffic import RequestRecord

Identify = Callable[[Request, bytes, SandboxState], Call | None]

_SILENT = {"hang", "drop"}
_SILENT_AFTER = {"hang_after", "drop_after", "start_hang_running"}
_UNHEARD = _SILENT_AFTER | {"html_after"}
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_ANSWERS = (GENERAL_KINDS.keys() - {"delay"}) | {"start_hang_running"}


class Interceptor:
    """Wraps a server's app.

    `identify` names the endpoint and account of a request; None: no business of faults.
    """

    def __init__(self, app: ASGIApp, *, sandbox: SandboxState, identify: Identify) -> None:
        self._app = app
        self._sandbox = sandbox
        self._identify = identify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await _read_body(receive)
        call = self._identify(Request(scope), body, self._sandbox)
        exchange = _Exchange(scope, _replay(body, receive), send)
        if call is None:
            await self._app(scope, exchange.receive, exchange.send)
            return
        await self._handle(call, exchange)

    async def _handle(self, call: Call, exchange: "_Exchange") -> None:
        record = self._sandbox.traffic.begin(exchange.scope["method"], call)
        started = time.perf_counter()
        exchange.record = record
        try:
            await self._slow_down(call, record)
            fault = self._sandbox.faults.take(call.endpoint, call.account, _ANSWERS)
            if fault is None:
                await self._app(exchange.scope, exchange.receive, exchange.send)
            else:
                record.fault = fault.kind
                await self._misbehave(fault, exchange)
        finally:
            record.seconds = time.perf_counter() - started

    async def _slow_down(self, call: Call, record: RequestRecord) -> None:
        sandbox = self._sandbox
        delay = sandbox.faults.take(call.endpoint, call.account, {"delay"})
        seconds = sandbox.settings.latency_ms / 1000
        if delay is not None:
            record.fault = delay.kind
            seconds += 1.0 if delay.seconds is None else delay.seconds
        if seconds:
            await wait_for_event(sandbox.stopping, seconds)
        kill = sandbox.faults.take(call.endpoint, call.account, {"kill_browser"})
        if kill is not None and call.account is not None:
            record.fault = kill.kind
            await sandbox.browsers.kill(call.account, after=kill.seconds or 0.0)

    async def _misbehave(self, fault: Fault, exchange: "_Exchange") -> None:
        if fault.kind in _UNHEARD:
            await self._app(exchange.scope, exchange.receive, _swallow)
        if "hang" in fault.kind:
            await until_gone(exchange.receive, self._sandbox.stopping)
        if fault.kind in _SILENT | _SILENT_AFTER:
            await exchange.abort()
        elif fault.kind == "echo":
            quoted = f"{Request(exchange.scope).headers.get('authorization', '')} {await exchange.body()}"
            await echo_response(fault, quoted)(exchange.scope, exchange.receive, exchange.send)
        elif fault.kind == "truncated_json":
            await self._truncate(exchange)
        elif fault.kind == "alter":
            await self._alter(fault, exchange)
        else:
            await canned_response(fault)(exchange.scope, exchange.receive, exchange.send)

    async def _truncate(self, exchange: "_Exchange") -> None:
        """Runs the app and sends the first half of its body, under a correct content-length."""
        start, whole = await self._real_answer(exchange)
        await _send_changed(exchange, start, whole[: len(whole) // 2])

    async def _alter(self, fault: Fault, exchange: "_Exchange") -> None:
        """Runs the app and sends its JSON with other fields, headers and status."""
        start, whole = await self._real_answer(exchange)
        changes = fault.body if isinstance(fault.body, dict) else {}
        fields = {name: value for name, value in (json.loads(whole) | changes).items() if value is not None}
        start = {**start, "status": fault.status or start["status"]}
        await _send_changed(exchange, start, json.dumps(fields).encode(), fault.headers or {})

    async def _real_answer(self, exchange: "_Exchange") -> tuple[Message, bytes]:
        """The start and the body of what the app answers."""
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        await self._app(exchange.scope, exchange.receive, collect)
        return messages[0], b"".join(message.get("body", b"") for message in messages)


@dataclass(slots=True)
class _Exchange:
    """One request on its connection."""

    scope: Scope
    receive: Receive
    raw_send: Send
    record: RequestRecord | None = field(default=None)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self.record is not None:
            self.record.status = message["status"]
        await self.raw_send(message)

    async def body(self) -> str:
        """Read the request's body, once."""
        message = await self.receive()
        return bytes(message.get("body", b"")).decode(errors="replace")

    async def abort(self) -> None:
        """Cuts the connection. ASGI cannot; but uvicorn's `send` is a method of the transport's holder."""
        holder: Any = getattr(self.raw_send, "__self__", None)
        holder.transport.abort()
        while (await self.receive())["type"] != "http.disconnect":
            pass


async def _send_changed(
    exchange: _Exchange, start: Message, body: bytes, headers: Mapping[str, str] = _NO_HEADERS
) -> None:
    """`headers` take the place of those of the same name; the length is that of the new body."""
    changes = {b"content-length": str(len(body)).encode()}
    changes |= {name.lower().encode(): value.encode() for name, value in headers.items()}
    unchanged = [(name, value) for name, value in start["headers"] if name not in changes]
    await exchange.send({**start, "headers": [*unchanged, *changes.items()]})
    await exchange.send({"type": "http.response.body", "body": body})


async def until_gone(receive: Receive, stopping: asyncio.Event) -> None:
    """Returns when the client has left or the sandbox stops."""

    async def client_leaves() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    waiters = [asyncio.create_task(client_leaves()), asyncio.create_task(stopping.wait())]
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()


async def _read_body(receive: Receive) -> bytes:
    chunks = []
    more = True
    while more:
        message = await receive()
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


async def _swallow(message: Message) -> None:
    """Takes the place of `send` when the answer must not leave."""
