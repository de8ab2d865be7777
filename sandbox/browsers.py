"""Starts and stops real headless Chromium browsers, one per profile, each with a persistent folder."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException

from app.utils.processes import dies_with_parent
from sandbox.devtools import DevToolsError, command, read_ws_url
from sandbox.process_groups import group_is_gone, signal_group, yield_cpu
from sandbox.state import Profile

START_TIMEOUT = (
    60.0  # seconds; 5.1 is the slowest start seen with ten browsers on two cores, more beside other work
)
CLOSE_TIMEOUT = 5.0  # seconds for CDP Browser.close, which writes cookies to disk
TERMINATE_TIMEOUT = 3.0  # seconds for SIGTERM, before the process group is killed
GROUP_TIMEOUT = 1.0  # seconds for the helpers of a browser that has ended
POLL = 0.02  # seconds between two looks at what tells no news of itself

FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--remote-debugging-port=0",
)

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

CookieParam = dict[str, Any]


class BrowserStartError(Exception):
    """Chromium is missing, exited at once, or did not open its debugging port in time."""


@dataclass(slots=True)
class Browser:
    """A Chromium process, leader of its own process group; `ws_url` is empty until it is up."""

    profile_id: str
    account: str
    process: Process
    temp_dir: Path
    since: float
    ws_url: str = ""
    watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self.process.pid


DEAD_PROXY = ("--proxy-server=http://127.0.0.1:1", "--proxy-bypass-list=<-loopback>")
"""Flags of a browser whose proxy refuses connections; without the second one, loopback is reached without it."""


class Browsers:
    """The browsers of all profiles: at most one each, whoever asks and however many at once.

    `cookies_for` gives the cookies (CDP `CookieParam`s) that sign a browser in as an account.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        cookies_for: Callable[[str], Sequence[CookieParam]],
        chromium: str | None = None,
        extra_flags: Sequence[str] = (),
    ) -> None:
        self.most_at_once = 0
        self._data_dir = data_dir
        self._cookies_for = cookies_for
        self._chromium = chromium
        self._extra_flags = extra_flags
        self._browsers: dict[str, Browser] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def running(self) -> list[Browser]:
        """Every browser whose process is alive, also while it starts or stops."""
        return list(self._browsers.values())

    async def start(self, profile: Profile, *, flags: Sequence[str] = ()) -> str:
        """The websocket URL of the profile's browser, signed in; starts it unless it is running.

        Raises `BrowserStartError`.
        """
        async with self._locks[profile.id]:
            browser = self._browsers.get(profile.id)
            if browser is None:
                browser = await self._launch(profile, flags)
                await self._prepare(browser)
            return browser.ws_url

    def start_soon(self, profile: Profile) -> None:
        """Starts the browser without waiting; a failure is only seen as "not running"."""

        async def start() -> None:
            with contextlib.suppress(BrowserStartError):
                await self.start(profile)

        self._spawn(start())

    async def stop(self, profile_id: str) -> None:
        """Ends the browser so that its cookies are kept, and returns when all of it is gone.

        No error if none runs.
        """
        async with self._locks[profile_id]:
            browser = self._browsers.get(profile_id)
            if browser is not None:
                await _stop_process(browser)
                await _wait_for_end(browser)

    async def kill(self, account: str, *, after: float = 0.0) -> None:
        """SIGKILLs the account's browser: now, and waits until it is gone, or in `after` seconds."""
        if after > 0:
            self._spawn(self._kill_later(account, after))
            return
        for browser in [each for each in self.running() if each.account == account]:
            signal_group(browser.pid, signal.SIGKILL)
            await _wait_for_end(browser)

    async def close(self) -> None:
        """Stops every browser, all at the same time; one that is still starting is killed.

        Nothing starts afterwards.
        """
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for browser in self.running():
            if not browser.ws_url:
                signal_group(browser.pid, signal.SIGKILL)
        await asyncio.gather(*(self.stop(profile_id) for profile_id in list(self._locks)))

    async def _launch(self, profile: Profile, flags: Sequence[str]) -> Browser:
        if self._closed:
            raise BrowserStartError("the sandbox is stopping")
        chromium = find_chromium(self._chromium)
        profile_dir = self._prepare_folder(profile.id)
        temp_dir = Path(tempfile.mkdtemp(prefix="browser-"))
        process = await asyncio.create_subprocess_exec(
            *dies_with_parent("KILL"), chromium, *self._flags(profile_dir, flags),
            stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL,
            env={**os.environ, "TMPDIR": str(temp_dir)}, start_new_session=True,
        )  # fmt: skip
        yield_cpu(process.pid)
        browser = Browser(profile.id, profile.account, process, temp_dir, since=time.time())
        self._browsers[profile.id] = browser
        self.most_at_once = max(self.most_at_once, len(self._browsers))
        browser.watcher = asyncio.create_task(self._reap(browser))
        return browser

    async def _prepare(self, browser: Browser) -> None:
        """Waits for the debugging port and signs the browser in; on any error the browser is killed."""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                ws_url = await self._wait_for_ws_url(browser)
                cookies = list(self._cookies_for(browser.account))
                await command(ws_url, "Storage.setCookies", {"cookies": cookies})
                browser.ws_url = ws_url
        except BaseException as error:
            signal_group(browser.pid, signal.SIGKILL)
            await _wait_for_end(browser)
            if isinstance(error, OSError | WebSocketException | DevToolsError):
                raise BrowserStartError(f"the browser did not come up: {error!r}") from error
            raise

    async def _wait_for_ws_url(self, browser: Browser) -> str:
        while (ws_url := read_ws_url(self._data_dir / browser.profile_id)) is None:
            if browser.process.returncode is not None:
                raise BrowserStartError(f"the browser exited with code {browser.process.returncode}")
            await asyncio.sleep(POLL)
        return ws_url

    async def _reap(self, browser: Browser) -> None:
        """Ends with the process, however it ended: takes its helpers down and its temporary files away."""
        await browser.process.wait()
        signal_group(browser.pid, signal.SIGKILL)
        await _wait_for_group(browser.pid)
        await asyncio.to_thread(shutil.rmtree, browser.temp_dir, ignore_errors=True)
        self._browsers.pop(browser.profile_id, None)

    async def _kill_later(self, account: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.kill(account)

    def _prepare_folder(self, profile_id: str) -> Path:
        folder = self._data_dir / profile_id
        folder.mkdir(parents=True, exist_ok=True)
        # The port of the last run would be read as this one's; a lock that names another host is
        # never taken over.
        for leftover in ("DevToolsActivePort", "SingletonLock"):
            (folder / leftover).unlink(missing_ok=True)
        return folder

    def _flags(self, profile_dir: Path, flags: Sequence[str]) -> list[str]:
        # Chromium refuses to run as root inside its own sandbox.
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        return [*FLAGS, *root, *self._extra_flags, *flags, f"--user-data-dir={profile_dir}", "about:blank"]

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def find_chromium(configured: str | None = None) -> str:
    """The browser to start: the configured path, `CHROMIUM_PATH`, or a well-known name on PATH.

    Raises `BrowserStartError`.
    """
    chosen = configured or os.environ.get("CHROMIUM_PATH")
    path = chosen or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None or shutil.which(path) is None:
        raise BrowserStartError(
            f"no browser: {chosen or ', '.join(CHROMIUM_NAMES)} not found; set CHROMIUM_PATH"
        )
    return path


async def _stop_process(browser: Browser) -> None:
    """Browser.close → SIGTERM → SIGKILL, each with its own deadline.

    As the desktop apps do, a browser that is closing already is killed: it answers nobody any more, and whatever of
    its profile it has not written yet is lost.
    """
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await command(browser.ws_url, "Browser.close")
            await browser.process.wait()
            return
    except TimeoutError:  # a deaf one
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TERMINATE_TIMEOUT):
                signal_group(browser.pid, signal.SIGTERM)
                await browser.process.wait()
                return
    except (OSError, WebSocketException, DevToolsError):
        pass
    signal_group(browser.pid, signal.SIGKILL)


async def _wait_for_group(leader_pid: int) -> None:
    """Waits for the helpers of a browser whose main process has ended."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GROUP_TIMEOUT):
            while not group_is_gone(leader_pid):
                await asyncio.sleep(POLL)


async def _wait_for_end(browser: Browser) -> None:
    if browser.watcher is not None:
        await asyncio.shield(browser.watcher)
