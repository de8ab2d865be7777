"""One chromedriver process per browser major version, shared by every session of the machine."""

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.utils.exceptions import ChromeDriverException
from app.utils.logger import get_logger
from app.utils.processes import dies_with_parent, is_running
from app.utils.tasks import run_shielded

_STARTED: Final = re.compile(rb"started successfully on port (\d+)")
_VERSION: Final = re.compile(r"ChromeDriver (\d+)\.")
_START_TIMEOUT: Final = 15.0
_START_ATTEMPTS: Final = 3
"""A start on a free port fails about once in 500 under load."""
_STOP_TIMEOUT: Final = 3.0
_ANSWER_TIMEOUT: Final = 5.0
"""Seconds for a driver's own status, which takes it a millisecond; generous, because all its sessions die with it."""
_MANAGER_TIMEOUT: Final = 60.0
"""Seconds for Selenium Manager, which may download a driver of some 10 MB."""
_MANAGER: Final = """
import sys
from selenium.webdriver.common.selenium_manager import SeleniumManager
print(SeleniumManager().binary_paths(sys.argv[1:])["driver_path"])
"""
_FOLDER_PREFIX: Final = "gologin-chromedriver-"
_FOLDER: Final = re.compile(rf"{_FOLDER_PREFIX}(\d+)-")

log = get_logger(__name__)


@dataclass
class _Driver:
    process: Process
    port: int
    drain: "asyncio.Task[None]"
    """Reads what the process prints, so that it never blocks on a full pipe."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answers(self, *, timeout: float) -> bool:
        """A driver that is stopped or hangs accepts connections all the same."""
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                    return (await reader.readline()).startswith(b"HTTP/1.1 200")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False


class ChromeDrivers:
    """Starts drivers when they are first needed and again when one has died or hangs; `close()` ends them all.

    Args:
        path: the driver of the settings; None finds one on PATH, else Selenium Manager's.
        answer_timeout: seconds for a driver's own status.
        manager: a program in Python that prints the path of a driver for the arguments of Selenium Manager.
        manager_timeout: seconds for that program.
    """

    def __init__(
        self,
        *,
        path: Path | None,
        answer_timeout: float = _ANSWER_TIMEOUT,
        manager: str = _MANAGER,
        manager_timeout: float = _MANAGER_TIMEOUT,
    ) -> None:
        self._configured = path
        self._answer_timeout = answer_timeout
        self._manager = manager
        self._manager_timeout = manager_timeout
        self._drivers: dict[int, _Driver] = {}
        self._lock = asyncio.Lock()
        self._temp = tempfile.TemporaryDirectory(
            prefix=f"{_FOLDER_PREFIX}{os.getpid()}-", ignore_cleanup_errors=True
        )

    async def url_for(self, major: int) -> str:
        """The address of a running driver for browsers of this major version.

        Raises `ChromeDriverException` when none fits or none starts.
        """
        async with self._lock:
            await self._end_hung(major)
            if (driver := self._drivers.get(major)) is None:
                driver = self._drivers[major] = await self._start(await self._executable(major))
                log.info("chromedriver.started", major=major, pid=driver.process.pid)
            return driver.url

    async def replace_hung(self, major: int) -> None:
        """End the driver if it does not answer: whoever waits for it goes on at once; `url_for` starts the next one."""
        async with self._lock:
            await self._end_hung(major)

    async def close(self) -> None:
        async with self._lock:
            await asyncio.gather(*(_stop(driver) for driver in self._drivers.values()))
            self._drivers.clear()
        self._temp.cleanup()

    async def _end_hung(self, major: int) -> None:
        driver = self._drivers.get(major)
        if driver is None or await driver.answers(timeout=self._answer_timeout):
            return
        del self._drivers[major]
        log.warning("chromedriver.ended", major=major, pid=driver.process.pid)
        await run_shielded(_end(driver))

    async def _executable(self, major: int) -> str:
        """The configured driver or the one on PATH when its version fits, else one that Selenium Manager has."""
        candidate = str(self._configured) if self._configured else shutil.which("chromedriver")
        version = await _major_version(candidate) if candidate else None
        if candidate and version == major:
            return candidate
        if self._configured:
            raise ChromeDriverException(
                f"CHROMEDRIVER_PATH is a driver for version {version}, the browser is {major}"
            )
        return await self._from_selenium_manager(major)

    async def _from_selenium_manager(self, major: int) -> str:
        """Ask Selenium Manager in a process of its own, which can be ended when its download hangs."""
        arguments = ("--browser", "chrome", "--browser-version", str(major), "--avoid-stats")
        try:
            output = await _output(self._manager_timeout, sys.executable, "-c", self._manager, *arguments)
        except (OSError, TimeoutError):
            output = b""
        if not (path := output.decode(errors="replace").strip()):
            raise ChromeDriverException(
                f"No chromedriver for Chromium {major}: install it, or set CHROMEDRIVER_PATH"
            )
        return path

    async def _start(self, executable: str) -> _Driver:
        for _ in range(_START_ATTEMPTS):
            process = await asyncio.create_subprocess_exec(
                *dies_with_parent("TERM"),
                executable,
                "--port=0",
                stdout=PIPE,
                stderr=DEVNULL,
                stdin=DEVNULL,
                env={"PATH": "/usr/bin:/bin", "TMPDIR": self._temp.name, "HOME": self._temp.name},
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(_START_TIMEOUT):
                    port = await _announced_port(process)
            except BaseException:
                await _kill(process)
                raise
            if port is not None:
                return _Driver(process, port, asyncio.create_task(_drain(process)))
            await _kill(process)
        raise ChromeDriverException(f"{executable} did not start in {_START_ATTEMPTS} attempts")


def remove_orphaned_folders() -> int:
    """Remove the temporary folders of processes that have died without doing so; how many there were."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        match = _FOLDER.match(folder.name)
        if match and not is_running(int(match[1])):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


async def _announced_port(process: Process) -> int | None:
    assert process.stdout is not None
    async for line in process.stdout:
        if match := _STARTED.search(line):
            return int(match[1])
    return None


async def _drain(process: Process) -> None:
    assert process.stdout is not None
    while await process.stdout.read(65_536):
        pass
    await process.wait()


async def _stop(driver: _Driver) -> None:
    with suppress(ProcessLookupError):
        driver.process.terminate()
    with suppress(TimeoutError):
        async with asyncio.timeout(_STOP_TIMEOUT):
            await driver.process.wait()
    await _end(driver)


async def _end(driver: _Driver) -> None:
    await _kill(driver.process)
    driver.drain.cancel()
    await asyncio.wait([driver.drain])


async def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _major_version(executable: str) -> int | None:
    """Return the driver's own version; None when it cannot be asked."""
    try:
        output = await _output(_START_TIMEOUT, executable, "--version")
    except (OSError, TimeoutError):
        return None
    match = _VERSION.search(output.decode(errors="replace"))
    return int(match[1]) if match else None


async def _output(timeout: float, *command: str) -> bytes:
    """Return the output of the command, whatever its exit code. It is killed with its children when it takes longer."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, start_new_session=True
    )
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    return output
