"""The event stream of a real process: many readers, one that stalls, one that comes again, and a browser's own."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from app.database import Database
from app.models import EventType
from app.services.events import recorder
from app.utils.crypto import generate_key
from sandbox.browsers import find_chromium
from sandbox.demo.service_process import ServiceProcess
from tests.e2e.event_readers import StalledReader, StreamReader
from tests.fixtures.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

IS_LONG = "EVENT_STREAM_LONG" in os.environ
"""10,000 events and 50 readers instead of the short form."""
EVENTS, READERS = (10_000, 50) if IS_LONG else (1_200, 10)
KEY = secrets.token_urlsafe(32)
PADDING = "x" * (800 if IS_LONG else 5_000)
"""More than the kernel's own buffer of a connection, about 4 MB, has to be sent before a stalled reader is noticed."""
_NOBODY = "http://127.0.0.1:9"


@asynccontextmanager
async def served(folder: Path, database_url: str, **changes: Any) -> AsyncIterator[ServiceProcess]:
    settings = {
        "environment": "development",
        "port": 0,
        "database_url": database_url,
        "api_key": KEY,
        "encryption_keys": f"test:{generate_key()}",
        "gologin_api_url": _NOBODY,
        "gologin_local_url": _NOBODY,
        "gologin_api_token": "of-the-tests",
        "event_stream_readers_per_key": 100,
        "rate_limit_per_minute": 100_000,
        "client_stall_timeout": 1,
        **changes,
    }
    environment = {name.upper(): str(value) for name, value in settings.items()}
    async with ServiceProcess(folder, environment) as service:
        yield service


async def write(database: Database, first: int, *, step: int, pause: float) -> None:
    """Five in a transaction, and the next ones of the same writer a little later."""
    numbers = range(first, EVENTS, step)
    for at in range(0, len(numbers), 5):
        async with database.transaction() as db:
            for number in numbers[at : at + 5]:
                recorder.record(db, EventType.BATCH_COMPLETED, number=number, padding=PADDING)
        await asyncio.sleep(pause)


async def stats(service: ServiceProcess) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False, headers={"X-API-Key": KEY}) as http:
        answer = await http.get(f"{service.url}/events/stream/stats")
    found: dict[str, Any] = answer.json()["data"]
    return found


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)
async def test_readers_get_each_event_once_while_one_stalls_and_one_reconnects(
    tmp_path: Path, database_url: str
):
    async with served(tmp_path, database_url) as service:
        database = Database(database_url, pool_size=4)
        staying = [StreamReader(service.url, KEY) for _ in range(READERS - 1)]
        again = StreamReader(service.url, KEY)
        stalled = StalledReader(service.url, KEY)
        following = [asyncio.create_task(reader.follow(until=EVENTS)) for reader in staying]
        coming = asyncio.create_task(again.reconnect_often(until=EVENTS, every=1.0 if IS_LONG else 0.2))

        async def all_there() -> bool:
            return len((await stats(service))["readers"]) == READERS + 1

        await eventually(all_there)
        memory = psutil.Process(service.pid).memory_info
        before = memory().rss
        async with asyncio.timeout(200):
            await asyncio.gather(*(write(database, first, step=4, pause=0.005) for first in range(4)))
            await asyncio.gather(*following)
            connections = await coming
        grown = (memory().rss - before) / 2**20

        async def all_gone() -> bool:
            return not (await stats(service))["readers"]

        await eventually(all_gone)  # before the stalled one reads on
        assert await stalled.was_cut_off()
        stalled.close()
        await database.close()
        for reader in (*staying, again):
            assert sorted(reader.numbers) == list(range(EVENTS))
            assert reader.ids == staying[0].ids
        assert connections > 2
        seen = await stats(service)
        print(f"{READERS} readers, {EVENTS} events: {grown:.1f} MiB more; {connections} connections; {seen}")
        assert (seen["cut_off"], seen["readers"]) == (1, [])
        # No more is kept than the last few thousand events, once for all readers.
        assert grown < 40


PAGE = """<pre id=seen></pre><script>
const seen = [], source = new EventSource("/events/stream?event_type=batch.*")
source.onmessage = (message) => seen.push(JSON.parse(message.data).data.number)
source.addEventListener("end", () => seen.push("end"))
</script>"""


def headless() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = find_chromium()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(os.environ["CHROMEDRIVER_PATH"]))


@asynccontextmanager
async def proxy(url: str) -> AsyncIterator[str]:
    """Serves the page, and hands everything else on with a key: a browser's EventSource can send no header."""
    address = urlsplit(url)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if request.startswith(b"GET /events/"):
            upstream, sending = await asyncio.open_connection(address.hostname, address.port)
            line, rest = request.split(b"\r\n", 1)
            sending.write(line + f"\r\nX-API-Key: {KEY}\r\nConnection: close\r\n".encode() + rest)
            while part := await upstream.read(65_536):
                writer.write(part)
            sending.close()
        else:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(PAGE)}\r\n\r\n"
            writer.write((head + PAGE).encode())
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1") as server:
        yield "http://{}:{}/".format(*server.sockets[0].getsockname()[:2])


async def test_a_browsers_own_event_source_misses_nothing(tmp_path: Path, sqlite_url: str):
    """The server ends its stream again and again: the browser reconnects by itself, with its Last-Event-ID."""
    numbers, browser = list(range(300)), await asyncio.to_thread(headless)
    try:
        async with (
            served(tmp_path, sqlite_url, event_stream_lifetime=0.5) as service,
            proxy(service.url) as page,
        ):
            await asyncio.to_thread(browser.get, page)

            async def opened() -> bool:
                return bool((await stats(service))["opened"])

            async def seen() -> list[Any]:
                return list(await asyncio.to_thread(browser.execute_script, "return seen"))

            async def all_seen() -> bool:
                return numbers[-1] in await seen()

            await eventually(opened)
            database = Database(sqlite_url, pool_size=1)
            for number in numbers:
                async with database.transaction() as db:
                    recorder.record(db, EventType.BATCH_COMPLETED, number=number)
                await asyncio.sleep(0.01)
            await eventually(all_seen, seconds=60)
            await database.close()
            found = await seen()
            assert [each for each in found if each != "end"] == numbers
            assert found.count("end") >= 2
    finally:
        await asyncio.to_thread(browser.quit)


async def test_a_stop_ends_the_streams_first(tmp_path: Path, sqlite_url: str):
    async with served(tmp_path, sqlite_url, shutdown_grace=20) as service:
        reader = StreamReader(service.url, KEY)
        following = asyncio.create_task(reader.follow(until=1))
        stalled = StalledReader(service.url, KEY)

        async def there() -> bool:
            return len((await stats(service))["readers"]) == 2

        await eventually(there)
        assert await service.stop(timeout=10) == 0
        await following
        assert reader.notices == [{"reason": "shutdown"}]
        stalled.close()
