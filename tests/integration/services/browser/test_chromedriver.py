"""One driver for all, and what happens when it does not answer any more."""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from app.services.browser.chromedriver import ChromeDrivers
from app.utils.exceptions import ChromeDriverException

PATH = Path(os.environ.get("CHROMEDRIVER_PATH", "/usr/bin/chromedriver"))
HANGING = "import os, time; open({!r}, 'w').write(str(os.getpid())); time.sleep(600)"


@pytest.fixture
def answer_timeout() -> float:
    """Seconds; the machine may be busy."""
    return 5.0


@pytest.fixture
async def drivers(answer_timeout: float) -> AsyncIterator[ChromeDrivers]:
    drivers = ChromeDrivers(path=PATH, answer_timeout=answer_timeout)
    yield drivers
    await drivers.close()


@pytest.fixture(scope="module")
def major() -> int:
    output = subprocess.run([PATH, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"ChromeDriver (\d+)\.", output)
    assert found is not None
    return int(found[1])


def process_at(url: str) -> psutil.Process:
    port = urlsplit(url).port
    (found,) = [
        child
        for child in psutil.Process().children()
        if any(each.status == "LISTEN" and each.laddr.port == port for each in child.net_connections())
    ]
    return found


async def test_chromedriver_is_started_once(drivers: ChromeDrivers, major: int):
    urls = await asyncio.gather(*(drivers.url_for(major) for _ in range(5)))
    assert len(set(urls)) == 1
    await drivers.replace_hung(major)
    assert await drivers.url_for(major) == urls[0]


@pytest.mark.parametrize("answer_timeout", [2.0])
@pytest.mark.parametrize("sign", [signal.SIGSTOP, signal.SIGKILL])
async def test_hung_or_dead_chromedriver_is_replaced(
    drivers: ChromeDrivers, major: int, sign: signal.Signals
):
    first = await drivers.url_for(major)
    process = process_at(first)
    process.send_signal(sign)
    await drivers.replace_hung(major)
    assert not process.is_running()
    second = await drivers.url_for(major)
    assert (second != first, process_at(second).pid != process.pid) == (True, True)
    assert await drivers.url_for(major) == second, "it answers"


async def test_selenium_manager_that_hangs_is_ended(tmp_path: Path):
    """And holds nobody else: the lock of the drivers is free again."""
    hanging = HANGING.format(str(tmp_path / "pid"))
    drivers = ChromeDrivers(path=None, manager=hanging, manager_timeout=3.0)
    with pytest.raises(ChromeDriverException, match="No chromedriver for Chromium 1:"):
        await drivers.url_for(1)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    async with asyncio.timeout(60):
        await drivers.replace_hung(1)
        await drivers.close()


async def test_path_found_by_selenium_manager_is_used(tmp_path: Path):
    found = tmp_path / "driver"
    found.write_text(f'#!/bin/sh\nexec "{PATH}" "$@"\n')
    found.chmod(0o755)
    program = f"import sys; print({str(found)!r} if sys.argv[4] == '1' else '')"
    drivers = ChromeDrivers(path=None, manager=program)
    assert (await drivers.url_for(1)).startswith("http://127.0.0.1:")
    await drivers.close()
