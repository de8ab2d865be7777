"""One sandbox and one service per test process for the tests that break nothing; accounts are used once."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from selenium import webdriver

from sandbox.demo.service_process import ServiceProcess
from sandbox.process import SandboxProcess
from tests.e2e.children import Commands
from tests.e2e.fault_run import Run, open_run
from tests.e2e.harness import ServiceHarness, open_harness
from tests.fixtures.chrome import chrome
from tests.fixtures.warm import WarmPython

ACCOUNTS = 150


@pytest_asyncio.fixture(scope="session", loop_scope="session", autouse=True)
async def _warm_starts(warm: WarmPython) -> AsyncIterator[None]:
    """Services, commands and sandboxes start as forks of a process that has imported their code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServiceProcess, "start_module", warm.start)
        patch.setattr(SandboxProcess, "start_module", warm.start)
        patch.setattr(Commands, "warm", warm, raising=False)
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e2e")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sandbox(folder: Path) -> AsyncIterator[SandboxProcess]:
    async with SandboxProcess(accounts=ACCOUNTS, data_dir=folder / "profiles") as sandbox:
        yield sandbox


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def harness(sandbox: SandboxProcess, folder: Path) -> AsyncIterator[ServiceHarness]:
    async with open_harness(sandbox, folder) as harness:
        yield harness


@pytest.fixture(scope="session")
def unused_accounts(sandbox: SandboxProcess) -> Iterator[str]:
    return iter(sandbox.info.accounts)


@pytest.fixture
def account(unused_accounts: Iterator[str]) -> str:
    """An account that no other test of this process uses, so that its faults and browsers are this test's."""
    return next(unused_accounts)


@pytest.fixture
def driver() -> Iterator[webdriver.Chrome]:
    """The browser of a person at the operators' page."""
    with chrome() as opened:
        yield opened


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fault_run(
    sandbox: SandboxProcess, folder: Path, unused_accounts: Iterator[str]
) -> AsyncIterator[Run]:
    async with open_run(sandbox, folder, unused_accounts) as run:
        yield run
