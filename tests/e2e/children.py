"""Child processes that a test talks to line by line, and the service's commands without their second of imports."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tests.fixtures.warm import WarmProcess, WarmPython

TIMEOUT = 180
"""Seconds for one line or one command; a busy machine needs a few."""


class Child:
    """A module of `tests/fixtures` in a process of its own."""

    def __init__(self, process: WarmProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def line(self) -> str:
        """Return the next line that it prints."""
        assert self._process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            found = (await self._process.stdout.readline()).decode()
        assert found, "the child has ended; its problems are in the test's captured output"
        return found.strip()

    async def until(self, wanted: str) -> None:
        while not (await self.line()).startswith(wanted):
            pass

    async def rest(self) -> list[str]:
        """End it by closing its standard input; return what it printed until then."""
        assert self._process.stdin is not None
        self._process.stdin.close()  # communicate() leaves it open when there is nothing to send
        async with asyncio.timeout(TIMEOUT):
            output, _ = await self._process.communicate()
        assert self._process.returncode == 0
        return output.decode().splitlines()


@asynccontextmanager
async def child(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """Start the module of `tests/fixtures`; kill its process at the end if it has not ended by itself."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "CHROMEDRIVER_PATH") if name in os.environ}
    process = await Commands.warm.start(
        f"tests.fixtures.{module}", *arguments,
        stdin=PIPE, stdout=PIPE, stderr=sys.stderr.buffer, env=kept | dict(environment or {}),
    )  # fmt: skip
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.kill()
        assert process.stdin is not None
        process.stdin.close()
        await process.communicate()


@dataclass(frozen=True)
class CommandResult:
    code: int
    output: str
    problems: str

    @property
    def text(self) -> str:
        return self.output + self.problems


class Command:
    """One run of `python -m app`, under way."""

    def __init__(self, process: WarmProcess, folder: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._folder = folder

    def kill(self) -> None:
        self._process.kill()

    async def ended(self) -> CommandResult:
        async with asyncio.timeout(TIMEOUT):
            code = await self._process.wait()
        return CommandResult(
            code, (self._folder / "output").read_text(), (self._folder / "problems").read_text()
        )


class Commands:
    """Runs commands one after the other; each is a process of its own with its own settings."""

    warm: ClassVar[WarmPython]
    """Process that starts the commands; the tests' fixture sets it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[WarmProcess] = []

    async def kill(self) -> None:
        """Kill those that still run."""
        for process in self._started:
            with suppress(ProcessLookupError):
                process.kill()
            async with asyncio.timeout(TIMEOUT):
                await process.wait()

    async def start(
        self, *arguments: str, environment: Mapping[str, str], prelude: str | None = None
    ) -> Command:
        """`prelude`: a module that the process imports first, for its effects."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        with (
            (self._folder / "output").open("wb") as output,
            (self._folder / "problems").open("wb") as problems,
        ):
            process = await self.warm.start(
                "app",
                *arguments,
                env=kept | dict(environment),
                stdout=output,
                stderr=problems,
                cwd=self._folder,
                prelude=prelude,
            )
        self._started.append(process)
        return Command(process, self._folder)

    async def __call__(self, *arguments: str, environment: Mapping[str, str]) -> CommandResult:
        command = await self.start(*arguments, environment=environment)
        ended = await command.ended()
        assert "Traceback" not in ended.text
        return ended


@asynccontextmanager
async def commands(folder: Path) -> AsyncIterator[Commands]:
    """Run commands in `folder`, where their output goes, too. Those that still run at the end are killed."""
    folder.mkdir(parents=True, exist_ok=True)
    commands = Commands(folder)
    try:
        yield commands
    finally:
        await commands.kill()
