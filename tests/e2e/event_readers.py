"""Readers of the event stream over real sockets: one that reads, one that comes again, one that stalls."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

LONGEST = 60.0
"""Seconds that a reader waits for the next line."""


@dataclass
class StreamReader:
    """What a client of the stream keeps: the last id, and what it was told."""

    url: str
    key: str
    last_id: str = ""
    ids: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    notices: list[dict[str, Any]] = field(default_factory=list)

    async def follow(self, *, until: int, seconds: float = LONGEST) -> None:
        """Until so many events were told, the server ends it, or the seconds are over."""
        headers = {"X-API-Key": self.key} | ({"Last-Event-ID": self.last_id} if self.last_id else {})
        began = time.monotonic()
        async with (
            httpx.AsyncClient(trust_env=False, timeout=LONGEST) as http,
            http.stream("GET", f"{self.url}/events/stream", headers=headers, params=QUERY) as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            async for block in _blocks(answer):
                self._take(block)
                if len(self.numbers) >= until or time.monotonic() - began > seconds:
                    return

    async def reconnect_often(self, *, until: int, every: float) -> int:
        """A new connection every so many seconds; how many it were."""
        connections = 0
        async with asyncio.timeout(LONGEST):
            while len(self.numbers) < until:
                connections += 1
                await self.follow(until=until, seconds=every)
        return connections

    def _take(self, block: dict[str, str]) -> None:
        self.last_id = block.get("id", self.last_id)
        if "event" in block:
            self.notices.append(json.loads(block["data"]))
        elif "data" in block:
            self.ids.append(block["id"])
            self.numbers.append(json.loads(block["data"])["data"]["number"])


QUERY = {"event_type": "batch.*"}


async def _blocks(answer: httpx.Response) -> AsyncIterator[dict[str, str]]:
    block: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            block[name] = value
        else:
            yield block
            block = {}


class StalledReader:
    """Asks for the stream and takes nothing of it, with as small a buffer as the kernel allows."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect((address.hostname, address.port))
        request = f"GET /events/stream HTTP/1.1\r\nHost: {address.netloc}\r\nX-API-Key: {key}\r\n\r\n"
        self._socket.sendall(request.encode())

    async def was_cut_off(self) -> bool:
        """The connection ends, within some seconds, in the middle of the answer."""
        self._socket.setblocking(False)
        loop, end = asyncio.get_running_loop(), b""
        try:
            async with asyncio.timeout(60):
                while part := await loop.sock_recv(self._socket, 1 << 20):
                    end = part[-16:]
        except ConnectionResetError:
            return True
        return not end.endswith(b"0\r\n\r\n")

    def close(self) -> None:
        self._socket.close()
