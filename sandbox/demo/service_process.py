"""The service as a child process with settings of its own, for the demo and the tests."""

import asyncio
import json
import os
import secrets
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from app.utils.crypto import generate_key
from sandbox.config import SandboxInfo
from sandbox.modules import ModuleStarter, start_module

_ROOT: Final = Path(__file__).resolve().parents[2]
_START_TIMEOUT: Final = 30.0
_COMMAND_TIMEOUT: Final = 60.0
_POLL: Final = 0.02
_KEPT_VARIABLES: Final = ("PATH", "HOME", "LANG", "CHROMEDRIVER_PATH", "TMPDIR", "VIRTUAL_ENV")
_LOG_TAIL: Final = 3000


class ServiceError(Exception):
    """A command failed or the service did not come up; the text ends with what it said."""


def settings_for(sandbox: SandboxInfo, *, folder: Path, **changes: Any) -> dict[str, str]:
    """Settings, as environment variables, of a service that takes the sandbox for GoLogin and X."""
    settings: dict[str, Any] = {
        "environment": "development",
        "host": "127.0.0.1",
        "port": 0,
        "database_url": f"sqlite+aiosqlite:///{folder / 'service.db'}",
        "api_key": secrets.token_urlsafe(32),
        "encryption_keys": f"demo:{generate_key()}",
        "gologin_api_url": sandbox.gologin_api_url,
        "gologin_api_token": sandbox.gologin_api_token,
        "gologin_local_url": sandbox.gologin_local_url,
        "x_web_url": sandbox.provider_url,
        "x_api_url": sandbox.provider_url,
        "oauth_apps": json.dumps({name: app.model_dump() for name, app in sandbox.apps.items()}),
        **changes,
    }
    return {name.upper(): str(value) for name, value in settings.items()}


class ServiceProcess:
    """`async with ServiceProcess(folder, settings) as service:` — migrated, serving, its log in `folder`.

    Nothing of the caller's environment or `.env` reaches it but the path and the driver.
    """

    url: str
    command: ClassVar[str] = "serve"
    first_line: ClassVar[str] = "service.listening"
    """Event of the log when the service is up."""
    start_module: ClassVar[ModuleStarter] = staticmethod(start_module)

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._environment = {**environment, **settings, "PYTHONPATH": str(_ROOT)}
        self.process: Process | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log_path(self) -> Path:
        return self._folder / "service.log"

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the lines that the service has logged so far."""
        if not self.log_path.exists():
            return []
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    async def run(self, *arguments: str) -> str:
        """Run a command of the service's CLI with its settings; returns its standard output."""
        process = await self.start_module(
            "app", *arguments, env=self._environment, stdout=PIPE, stderr=PIPE, cwd=self._folder
        )
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT):
                output, problems = await process.communicate()
        except BaseException:
            await _kill(process)
            raise
        if process.returncode != 0:
            text = (problems or output).decode(errors="replace")[-_LOG_TAIL:]
            raise ServiceError(f"`python -m app {' '.join(arguments)}` failed:\n{text}")
        return output.decode().strip()

    async def __aenter__(self) -> Self:
        await self.run("migrate")
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Return when it is up."""
        line_count = len(self.log_lines())
        with self.log_path.open("ab") as log:
            self.process = await self.start_module(
                "app", self.command, env=self._environment, stdout=log, stderr=log, cwd=self._folder
            )
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                self.url = await self._listening(line_count)
        except BaseException:
            await _kill(self.process)
            raise

    async def stop(self, *, timeout: float = 40.0) -> int:
        """SIGTERM; its exit code. Killed after `timeout` seconds."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout):
                return await self.process.wait()
        except TimeoutError:
            await _kill(self.process)
            raise ServiceError(f"the service did not stop within {timeout:g} s after SIGTERM") from None

    async def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        await _kill(self.process)

    async def _listening(self, known_lines: int) -> str:
        assert self.process is not None
        while True:
            for line in self.log_lines()[known_lines:]:
                if line.get("event") == self.first_line:
                    return f"http://{line['host']}:{line['port']}" if "port" in line else ""
            if self.process.returncode is not None:
                tail = self.log_path.read_text(errors="replace")[-_LOG_TAIL:]
                raise ServiceError(f"the service did not start:\n{tail}")
            await asyncio.sleep(_POLL)


class WorkerProcess(ServiceProcess):
    """The workers alone, `python -m app worker`; its `url` is empty."""

    command = "worker"
    first_line = "worker.started"


async def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
