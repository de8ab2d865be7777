"""Starts `python -m MODULE …` as a child process."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Protocol

from app.utils.processes import dies_with_parent


class ModuleStarter(Protocol):
    """`start_module`, or what stands in for it in the tests."""

    async def __call__(
        self,
        module: str,
        *arguments: str,
        env: Mapping[str, str],
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
        cwd: Path | None = None,
        limit: int = 2**16,
    ) -> Process: ...


async def start_module(
    module: str,
    *arguments: str,
    env: Mapping[str, str],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    cwd: Path | None = None,
    limit: int = 2**16,
) -> Process:
    """Start it as the leader of a new session, without standard input; SIGTERM ends it when this process dies.

    `limit`: bytes of a line on standard output.
    """
    return await asyncio.create_subprocess_exec(
        *dies_with_parent("TERM"), sys.executable, "-m", module, *arguments,
        cwd=cwd, env=env, stdin=DEVNULL, stdout=stdout, stderr=stderr, limit=limit, start_new_session=True,
    )  # fmt: skip
