"""Connections are used again, by one request at a time, as long as they are fresh; never more than allowed."""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from app.clients.connections import StackedTransport
from tests.fixtures.waiting import eventually

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Site:
    """Answers on each connection once it may; `/drop` closes it without an answer."""

    url: str = ""
    requests: Counter[int] = field(default_factory=Counter)
    """By connection."""
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    open_now: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.requests)
        self.requests[number] = 0
        self.open_now += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests[number] += 1
                if head.startswith(b"GET /drop"):
                    return
                await self.may_answer.wait()
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open_now -= 1
            writer.close()


@asynccontextmanager
async def running_site() -> AsyncIterator[Site]:
    site = Site()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    site.may_answer.set()
    try:
        yield site
    finally:
        server.close()


@asynccontextmanager
async def client(*, most: int = 10, keep_idle: float = 60) -> AsyncIterator[httpx.AsyncClient]:
    transport = StackedTransport(tls=_NO_TLS, max_connections=most, keep_idle=keep_idle)
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=20) as http:
        yield http


async def test_successive_requests_use_one_connection():
    async with running_site() as site, client() as http:
        for _ in range(5):
            assert (await http.get(site.url)).text == "ok"
        assert site.requests == {0: 5}
    await eventually(lambda: site.open_now == 0)


async def test_simultaneous_requests_have_their_own_connections_and_keep_them():
    async with running_site() as site, client() as http:
        for _ in range(2):
            site.may_answer.clear()
            asked = [asyncio.create_task(http.get(site.url)) for _ in range(4)]
            await eventually(lambda: sum(site.requests.values()) % 4 == 0 and len(site.requests) == 4)
            site.may_answer.set()
            await asyncio.gather(*asked)
        assert site.requests == dict.fromkeys(range(4), 2)


async def test_client_opens_no_more_connections_than_allowed_and_waits_until_its_deadline():
    async with running_site() as site, client(most=2) as http:
        site.may_answer.clear()
        asked = [asyncio.create_task(http.get(site.url)) for _ in range(2)]
        await eventually(lambda: site.open_now == 2)
        with pytest.raises(httpx.PoolTimeout):
            await http.get(site.url, timeout=httpx.Timeout(20, pool=0.05))
        site.may_answer.set()
        await asyncio.gather(*asked)
        assert [(await http.get(site.url)).text for _ in range(3)] == ["ok"] * 3
        assert len(site.requests) == 2


async def test_a_request_that_is_given_up_or_fails_frees_its_place():
    async with running_site() as site, client(most=1) as http:
        site.may_answer.clear()
        asked = asyncio.create_task(http.get(site.url))
        await eventually(lambda: sum(site.requests.values()) == 1)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        site.may_answer.set()
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(f"{site.url}/drop")
        with pytest.raises(httpx.ConnectError):
            await http.get("http://127.0.0.1:9")
        async with http.stream("GET", site.url) as response:
            assert response.status_code == 200  # and its body is not read
        assert (await http.get(site.url)).text == "ok"
        await eventually(lambda: site.open_now == 1)


async def test_an_old_connection_is_not_used_again_and_closed():
    async with running_site() as site, client(keep_idle=0.05) as http:
        site.may_answer.clear()
        asked = [asyncio.create_task(http.get(site.url)) for _ in range(3)]
        await eventually(lambda: site.open_now == 3)
        site.may_answer.set()
        await asyncio.gather(*asked)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await eventually(lambda: loop.time() - began > 0.1)
        assert (await http.get(site.url)).text == "ok"
        assert site.requests[3] == 1
        await eventually(lambda: site.open_now == 1)


async def test_a_connection_in_use_is_closed_after_its_transport():
    async with running_site() as site:
        async with client() as http:
            await http.get(site.url)
            request = http.build_request("GET", site.url)
            response = await http.send(request, stream=True)
        assert site.open_now == 1
        assert await response.aread() == b"ok"
        await eventually(lambda: site.open_now == 0)
