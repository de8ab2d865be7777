"""Starts as forks: a start that is given up, or that cannot be, harms no other."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app import __version__
from tests.e2e.children import commands
from tests.fixtures.waiting import eventually
from tests.fixtures.warm import ROOT, connected, start_warm_python

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[psutil.Process]:
    """A process of the test's own, at `tmp_path / "warm"`, that has imported nothing."""
    with start_warm_python(tmp_path / "warm") as process:
        yield psutil.Process(process.pid)
        process.kill()


@pytest.mark.long
async def test_cancelled_start_leaves_no_process_and_no_answer(tmp_path: Path, starter: psutil.Process):
    async with connected(tmp_path / "warm") as warm:
        with (tmp_path / "output").open("w+b") as output:
            streams = {"env": {"PATH": os.environ["PATH"]}, "stdout": output, "stderr": output}
            given_up = asyncio.create_task(warm.start("app", "--help", **streams))
            await asyncio.sleep(0)  # it has sent its task, and the import takes a second
            given_up.cancel()
            following = await warm.start("app", "--version", **streams)
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert await following.wait() == 0
            assert starter.children() == []
            with pytest.raises(RuntimeError, match="elsewhere cannot be started: KeyError"):
                await warm.start("elsewhere", **streams)
            assert await (await warm.start("app", "--version", **streams)).wait() == 0


async def test_processes_end_with_the_connection_that_started_them(tmp_path: Path, starter: psutil.Process):
    streams = {"env": {"PATH": os.environ["PATH"]}, "stdout": DEVNULL, "stderr": DEVNULL}
    async with connected(tmp_path / "warm") as other:
        async with connected(tmp_path / "warm") as warm:
            await warm.start("sandbox", **streams)
            kept = await other.start("sandbox", **streams)
        await eventually(lambda: [each.pid for each in starter.children()] == [kept.pid])
    await eventually(lambda: not starter.children())


async def test_command_that_still_runs_at_the_end_of_its_block_is_killed(tmp_path: Path):
    async with commands(tmp_path / "commands") as opened:
        environment = {"DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/s.db"}
        command = await opened.start("serve", environment=environment)
    assert not psutil.pid_exists(command.pid)


@pytest.mark.long
@pytest.mark.usefixtures("starter")
async def test_start_from_the_shell_passes_on_the_output_and_the_end(tmp_path: Path):
    async def start(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(ROOT / "tests" / "fixtures" / "start_warm.py"), *arguments,
            env={"PATH": os.environ["PATH"], "TESTS_WARM_PYTHON": str(tmp_path / "warm")},
            stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    assert await start("app", "--version") == (0, f"gologin-automation {__version__}\n")
    code, output = await start("app", "no-such-command")
    assert code == 2
    assert "No such command" in output
    code, output = await start("elsewhere")
    assert code == 1
    assert "elsewhere cannot be started" in output
    kill = "import os; os.kill(os.getpid(), 9)"
    assert await start("tests.fixtures.test_process", "-c", kill) == (128 + 9, "")
