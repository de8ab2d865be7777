"""`SandboxProcess`: runs the sandbox as a child process, for the demo and the tests."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from pydantic import ValidationError

from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from sandbox.modules import ModuleStarter, start_module
from sandbox.process_groups import signal_group

__all__ = ["SandboxAdmin", "SandboxProcess", "SandboxStartError"]

START_TIMEOUT = 20.0  # seconds until the line on stdout
STOP_TIMEOUT = 12.0  # seconds for SIGTERM: a deaf browser alone may take 8
STDERR_TAIL = 2000  # characters
LINE_LIMIT = 64 * 1024 * 1024  # bytes; the line on stdout names every account


class SandboxStartError(Exception):
    """The child exited or did not announce itself in time; the message ends with the tail of its stderr."""


class SandboxProcess:
    """`async with SandboxProcess(accounts=5) as sandbox:` — real servers in a process of their own.

    `info` holds addresses and secrets, `admin` controls the sandbox. On the way out the child is terminated,
    in the end killed, and its temporary folder is removed; a `data_dir` that was given is kept.
    """

    info: SandboxInfo
    admin: SandboxAdmin
    start_module: ClassVar[ModuleStarter] = staticmethod(start_module)

    def __init__(
        self, *, accounts: int = 5, data_dir: Path | None = None, arguments: tuple[str, ...] = ()
    ) -> None:
        self._arguments = ("--accounts", str(accounts), *arguments)
        if data_dir is not None:
            self._arguments += ("--data-dir", str(data_dir))
        self.data_dir = data_dir
        self._process: Process | None = None
        self._temp_dir = Path()

    @property
    def pid(self) -> int:
        """The child's process id, which is also its group's."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        self._temp_dir = Path(tempfile.mkdtemp(prefix="sbx-"))
        try:
            self._process = await self._spawn()
            self.info = await self._read_info(self._process)
        except BaseException:
            await self._stop()
            raise
        self.admin = SandboxAdmin(self.info)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.admin.aclose()
        await self._stop()

    @property
    def _stderr(self) -> Path:
        return self._temp_dir / "stderr.log"

    async def _spawn(self) -> Process:
        with self._stderr.open("wb") as stderr:
            return await self.start_module(
                "sandbox",
                *self._arguments,
                env=self._environment(),
                stdout=PIPE,
                stderr=stderr,
                limit=LINE_LIMIT,
            )

    def _environment(self) -> dict[str, str]:
        """Ours, but temporary files go where we remove them, and `app` is found from anywhere."""
        root = str(Path(__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "TMPDIR": str(self._temp_dir), "PYTHONPATH": os.pathsep.join(paths)}

    async def _read_info(self, process: Process) -> SandboxInfo:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT):
                line = await process.stdout.readline()
            return SandboxInfo.model_validate_json(line)
        except (TimeoutError, ValidationError) as error:
            tail = self._stderr.read_text(errors="replace")[-STDERR_TAIL:]
            raise SandboxStartError(f"the sandbox did not start:\n{tail}") from error

    async def _stop(self) -> None:
        if self._process is not None:
            await _end(self._process)
        await asyncio.to_thread(shutil.rmtree, self._temp_dir, ignore_errors=True)


async def _end(process: Process) -> None:
    """SIGTERM, a deadline, SIGKILL to the group; reads stdout to its end, which closes the pipe."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_TIMEOUT):
            await process.communicate()
    signal_group(process.pid, signal.SIGKILL)
    await process.communicate()
