"""One driver for all, and what happens when it does not answer any more."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from app.services.browser import chromedriver
from app.services.browser.chromedriver import ChromeDrivers
from app.utils.exceptions import ChromeDriverException

HANGING = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"


@pytest.fixture
async def drivers() -> AsyncIterator[ChromeDrivers]:
    path = os.environ.get("CHROMEDRIVER_PATH", "/usr/bin/chromedriver")
    drivers = ChromeDrivers(path=Path(path))
    yield drivers
    await drivers.close()


@pytest.fixture
async def major(drivers: ChromeDrivers) -> int:
    found = await chromedriver._major_version(str(drivers._configured))
    assert found is not None
    return found


def pid_of(drivers: ChromeDrivers, major: int) -> int:
    return drivers._drivers[major].process.pid


async def test_chromedriver_is_started_once(drivers: ChromeDrivers, major: int):
    urls = await asyncio.gather(*(drivers.url_for(major) for _ in range(5)))
    assert len(set(urls)) == 1
    await drivers.replace_hung(major)
    assert await drivers.url_for(major) == urls[0]


@pytest.mark.parametrize("sign", [signal.SIGSTOP, signal.SIGKILL])
async def test_hung_or_dead_chromedriver_is_replaced(
    drivers: ChromeDrivers, major: int, sign: signal.Signals, monkeypatch: pytest.MonkeyPatch
):
    first = await drivers.url_for(major)
    pid = pid_of(drivers, major)
    monkeypatch.setattr(chromedriver, "_ANSWER_TIMEOUT", 0.5)
    os.kill(pid, sign)
    await drivers.replace_hung(major)
    assert not psutil.pid_exists(pid)
    monkeypatch.undo()
    second = await drivers.url_for(major)
    assert (second != first, pid_of(drivers, major) != pid) == (True, True)
    assert await drivers._drivers[major].answers()


async def test_selenium_manager_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And holds nobody else: the lock of the drivers is free again."""
    monkeypatch.setattr(chromedriver, "_MANAGER", HANGING.replace("sys.argv[1]", repr(str(tmp_path / "pid"))))
    monkeypatch.setattr(chromedriver, "_MANAGER_TIMEOUT", 3.0)
    drivers = ChromeDrivers(path=None)
    with pytest.raises(ChromeDriverException, match="No chromedriver for Chromium 1:"):
        await drivers.url_for(1)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert not drivers._lock.locked()
    await drivers.close()


async def test_path_found_by_selenium_manager_is_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chromedriver, "_MANAGER", "import sys; print('/a/driver', sys.argv[4])")
    assert await chromedriver._from_selenium_manager(156) == "/a/driver 156"
