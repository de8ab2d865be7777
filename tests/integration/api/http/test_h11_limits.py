"""What the server does with bytes, before the application sees a request of them, and while it answers one."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest
from fastapi import Response

from app.api.http import stalled_clients
from app.api.http.h11_limits import MAX_HEADER_BYTES, MAX_URI_BYTES
from app.api.http.stalled_clients import _TimedProtocol
from app.config import Settings
from tests.fixtures.api import API_KEY, NO_PLACE
from tests.fixtures.logs import logged
from tests.fixtures.serving import Served, served
from tests.fixtures.settings import MakeSettings
from tests.fixtures.waiting import eventually

STALL = 0.5
KEY = b"X-API-Key: " + API_KEY.encode() + b"\r\n"
AUTHORIZE = b"POST /authorize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = AUTHORIZE + b"Transfer-Encoding: chunked\r\n"
BODY = b'{"account_id": "alice", "api_app": "AIOTT1"}'


@pytest.fixture
async def service(make_settings: MakeSettings, sqlite_url: str, no_retries: None) -> Any:
    async with served(settings_of(make_settings, sqlite_url)) as it:
        yield it


@pytest.fixture
async def impatient(make_settings: MakeSettings, sqlite_url: str, no_retries: None) -> Any:
    async with served(settings_of(make_settings, sqlite_url, client_stall_timeout=STALL)) as it:
        yield it


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[_TimedProtocol]:
    """Connections as they come, with the kernel's least buffers: what is not taken stays with us."""
    made: list[_TimedProtocol] = []
    connection_made = _TimedProtocol.connection_made

    def noted(self: _TimedProtocol, transport: asyncio.Transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        connection_made(self, transport)
        made.append(self)

    monkeypatch.setattr(_TimedProtocol, "connection_made", noted)
    return made


def settings_of(make_settings: MakeSettings, url: str, **changes: Any) -> Settings:
    nobody = {"gologin_api_url": NO_PLACE, "gologin_local_url": NO_PLACE}
    return make_settings(database_url=url, api_key=API_KEY, shutdown_grace=2, **nobody, **changes)


async def exchange(service: Served, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to what is sent, piece by piece, until the server closes."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    try:
        async with asyncio.timeout(60):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, body


async def exchange_continued(service: Served, head: bytes, body: bytes) -> bytes:
    """All that is answered; the body is sent when the server has read the head and asks for it."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    try:
        async with asyncio.timeout(60):
            writer.write(head + b"Expect: 100-continue\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            return await reader.read()
    finally:
        writer.close()


async def test_oversized_or_malformed_request_is_refused_before_it_is_read(
    service: Served, caplog: pytest.LogCaptureFixture
):
    start, end = b"GET /health HTTP/1.1\r\nHost: x\r\n", b"Connection: close\r\n\r\n"
    long_name = b"X-A: " + b"a" * MAX_HEADER_BYTES
    for pieces, status, code in (
        ((b"GET /" + b"a" * MAX_URI_BYTES + b" HTTP/1.1\r\nHost: x\r\n" + end,), 414, "URI_TOO_LONG"),
        ((b"GET /health?" + b"a" * 3 * MAX_HEADER_BYTES,), 414, "URI_TOO_LONG"),
        ((start + long_name + b"\r\n" + end,), 431, "HEADERS_TOO_LARGE"),
        ((start + b"X-A: a\r\n" * 9_000 + end,), 431, "HEADERS_TOO_LARGE"),
        ((start + long_name, b"a"), 431, "HEADERS_TOO_LARGE"),  # and no end of it
        ((b"\x16\x03\x01\x02\x00\x01", b"\r\n\r\n"), 400, "MALFORMED_REQUEST"),
        ((b"GET /\xff HTTP/1.1\r\nHost: x\r\n" + end,), 400, "MALFORMED_REQUEST"),
        ((b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\x00b\r\n" + end,), 400, "MALFORMED_REQUEST"),
        ((b"\r\n" * 20_000,), 400, "MALFORMED_REQUEST"),
        ((CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",), 400, "MALFORMED_REQUEST"),
        ((CHUNKED + b"\r\n5;" + b"a" * 2 * MAX_HEADER_BYTES,), 400, "MALFORMED_REQUEST"),
        ((CHUNKED + b"\r\nhello\r\n",), 400, "MALFORMED_REQUEST"),
    ):
        found, headers, body = await exchange(service, *pieces)
        answer = json.loads(body)
        assert (found, answer["error_code"], answer["success"]) == (status, code, False), pieces[0][:40]
        assert answer["request_id"] == headers["x-request-id"]
        assert (headers["cache-control"], headers["connection"]) == ("no-store", "close")
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert not [error for error in errors if "was destroyed" not in error], (
        "that would be an earlier test's task"
    )


async def test_large_request_within_the_limits_is_accepted(service: Served):
    """Bodies, and many requests on one connection, count for nothing."""
    head = b"POST /profiles/sync HTTP/1.1\r\nHost: x\r\nX-API-Key: " + API_KEY.encode() + b"\r\n"
    padding = b"X-A: " + b"a" * (MAX_HEADER_BYTES - 1_000) + b"\r\n"
    body = b'{"allow_mass_removal": false' + b" " * 60_000 + b"}"
    sized = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    request = head + padding + sized
    chunks = [body[start : start + 7_000] for start in range(0, len(body), 7_000)]
    status, _, answers = await exchange(
        service, request + b"\r\n" + body, request + b"Connection: close\r\n\r\n", *chunks
    )
    assert (status, answers.count(b'"success":true')) == (202, 2)


async def test_a_body_after_an_upgrade_is_a_body(service: Served):
    """It was lost, and what came in a later segment was a request of its own."""
    inner = b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for upgrade in (b"h2c", b"websocket"):
        head = AUTHORIZE + KEY + b"Connection: close, Upgrade\r\nUpgrade: " + upgrade + b"\r\n"
        for body, status in ((BODY, 404), (inner, 422)):
            answer = await exchange_continued(service, head + b"Content-Length: %d\r\n" % len(body), body)
            assert answer.count(b"HTTP/1.1 ") == 1
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer


async def test_an_answer_instead_of_100_ends_the_connection(service: Served):
    """A client may send no body then: the next request would be taken for it (RFC 9110, 10.1.1)."""
    head = AUTHORIZE + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(BODY)
    status, headers, _ = await exchange(service, head)
    assert (status, headers["connection"]) == (401, "close")


async def test_trailers_are_no_headers(service: Served):
    trailers = b"X-Request-ID: of-the-trailer\r\n" + KEY + b"\r\n"
    request = CHUNKED + b"Connection: close\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n" + trailers
    status, headers, _ = await exchange(service, request)
    assert status == 401
    assert headers["x-request-id"] != "of-the-trailer"


async def test_address_in_absolute_form_is_understood(service: Served):
    for address, expected in ((b"http://x/health?a=b", 200), (b"HTTPS://x", 404), (b"http://x?a", 404)):
        request = b"GET " + address + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await exchange(service, request))[0] == expected


async def test_head_is_get_without_its_content(service: Served):
    end = b" HTTP/1.1\r\nHost: x\r\n" + KEY
    _, whole, _ = await exchange(service, b"GET /health" + end + b"Connection: close\r\n\r\n")
    for path, expected in ((b"/health", 200), (b"/events/stream", 200), (b"/nowhere", 404), (b"/keys", 200)):
        status, headers, rest = await exchange(
            service, b"HEAD " + path + end + b"\r\nGET /health" + end + b"Connection: close\r\n\r\n"
        )
        assert (status, rest.count(b"HTTP/1.1 200"), rest[:8]) == (expected, 1, b"HTTP/1.1"), path
        assert (path != b"/health") or headers["content-length"] == whole["content-length"]


async def test_a_websocket_is_a_request_like_any_other(service: Served):
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
    status, _, body = await exchange(
        service, b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + upgrade + b"\r\n"
    )
    assert (status, json.loads(body)["error_code"]) == (404, "NOT_FOUND")


# --- clients that stop in the middle of a request ------------------------------------------------------------------


async def test_a_client_that_stops_sending_is_cut_off(impatient: Served):
    sized = AUTHORIZE + KEY + b"Content-Length: 10\r\n\r\n"
    for pieces in (
        (b"GET /",),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n",),
        (sized + b"{",),
        (CHUNKED + KEY + b"\r\n1\r\n{\r\n",),
    ):
        status, headers, body = await exchange(impatient, *pieces)
        assert (status, json.loads(body)["error_code"]) == (408, "REQUEST_TIMEOUT"), pieces
        assert headers["connection"] == "close"
    async with asyncio.timeout(60):
        async with kept_connection(impatient) as (reader, writer):
            writer.write(b"G")
            assert (await reader.read()).startswith(b"HTTP/1.1 408")
        reader, writer = await asyncio.open_connection(impatient.host, impatient.port)
        assert await reader.read() == b"", "nothing was asked"
        writer.close()


async def test_an_answer_may_take_longer_than_a_client_may(
    impatient: Served, monkeypatch: pytest.MonkeyPatch
):
    """Nor is a connection cut off that is kept for the next request, or has its body left unread."""
    monkeypatch.setattr(stalled_clients, "_READ_RATE", 10**9)
    begun, may_end = asyncio.Event(), asyncio.Event()

    @impatient.app.get("/slow")
    async def slow() -> None:
        begun.set()
        await may_end.wait()

    unread = b"Content-Length: 200000\r\n\r\n" + b"a" * 200_000
    for rest in (b"\r\n", unread):
        begun.clear()
        may_end.clear()
        async with kept_connection(impatient) as (reader, writer):
            writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n" + rest)
            async with asyncio.timeout(60):
                await begun.wait()
                assert (await exchange(impatient, b"GET /"))[
                    0
                ] == 408  # so the same time is over for the other
                may_end.set()
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_a_body_that_comes_fast_enough_may_take_longer(
    service: Served, connected: list[_TimedProtocol], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stalled_clients, "_READ_RATE", 1)
    sized = AUTHORIZE + KEY + b"Content-Length: 50000\r\n\r\n"
    reader, writer = await asyncio.open_connection(service.host, service.port)
    async with asyncio.timeout(60):
        writer.write(sized)
        await eventually(lambda: connected and connected[0]._reading is h11.SEND_BODY)
        (connection,) = connected
        writer.write(b"a" * 100)
        await eventually(lambda: connection._received == 100)
        connection._end_reading()
        assert not connection.transport.is_closing()
        connection._end_reading()
        assert (await reader.read()).startswith(b"HTTP/1.1 408")
    writer.close()


@asynccontextmanager
async def kept_connection(
    service: Served,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """One on which a request was answered already."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    try:
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(60):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
        yield reader, writer
    finally:
        writer.close()


# --- clients that do not take their answer -------------------------------------------------------------------------


@asynccontextmanager
async def asked_for(service: Served, size: int) -> AsyncIterator[socket.socket]:
    """Of which nothing is taken until the test does."""

    @service.app.get("/large")
    async def large() -> Response:
        return Response(b"a" * size)

    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (service.host, service.port))
        await loop.sock_sendall(client, b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        yield client


async def test_client_that_leaves_a_small_answer_unread_is_cut_off(
    impatient: Served, connected: list[_TimedProtocol], caplog: pytest.LogCaptureFixture
):
    """Less than transports take before they say that it is too much."""
    async with asked_for(impatient, 40_000):
        await eventually(lambda: logged(caplog, "http.client_stalled"))
        (connection,) = connected
        await eventually(lambda: connection not in connection.connections)


async def test_slow_client_gets_its_whole_answer(service: Served, connected: list[_TimedProtocol]):
    size, taken = 200_000, 0
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60), asked_for(service, size) as client:
        await eventually(lambda: connected and connected[0]._deadline)
        (connection,) = connected
        for _ in range(3):
            unsent = connection.transport.get_write_buffer_size()
            while connection.transport.get_write_buffer_size() == unsent:
                taken += len(await loop.sock_recv(client, 4096))
                await asyncio.sleep(0)
            connection._end_writing()
        while part := await loop.sock_recv(client, 65536):
            taken += len(part)
    assert taken > size


async def test_client_that_stops_reading_is_cut_off(service: Served, connected: list[_TimedProtocol]):
    size, taken = 200_000, 0
    async with asyncio.timeout(60), asked_for(service, size) as client:
        await eventually(lambda: connected and connected[0]._deadline)
        connected[0]._end_writing()
        while part := await asyncio.get_running_loop().sock_recv(client, 65536):
            taken += len(part)
    assert taken < size


def test_an_idle_connection_is_kept_as_long_as_the_setting_says(
    make_settings: MakeSettings, sqlite_url: str, no_retries: None, monkeypatch: pytest.MonkeyPatch
):
    """The loop's clock is put on in place of waiting; what is due by then comes before the next request is read.

    It is a loop of its own: the timers of others would wait until the right clock comes to the one that was put on.
    """

    async def visit() -> None:
        loop = asyncio.get_running_loop()
        clock, later = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: clock() + later)
        request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        async with served(settings_of(make_settings, sqlite_url, keep_alive_seconds=3600)) as service:
            reader, writer = await asyncio.open_connection(service.host, service.port)
            for seconds in (0.0, 3000.0, 6000.0):
                later = seconds
                await asyncio.sleep(0)
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
            later = 10_000.0
            async with asyncio.timeout(60):
                assert await reader.read() == b""
            writer.close()

    with ThreadPoolExecutor(1) as own_thread:
        own_thread.submit(asyncio.run, visit()).result()
