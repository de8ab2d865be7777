"""One service for all tests of the folder, which use accounts and names of their own."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import stamina

from app.config import load_settings
from app.context import Context
from sandbox.process import SandboxProcess
from tests.fixtures.api import API_KEY, NO_PLACE
from tests.fixtures.serving import Served, served
from tests.fixtures.settings import ENV_EXAMPLE


@pytest_asyncio.fixture(scope="package")
async def service(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, running_sandbox: SandboxProcess
) -> AsyncIterator[Served]:
    """At the sandbox's provider; its workers take nothing, so that a test says how a session ends."""
    folder, info = tmp_path_factory.mktemp("client"), running_sandbox.info
    shutil.copyfile(sqlite_template, folder / "service.db")
    settings = load_settings(
        ENV_EXAMPLE,
        database_url=f"sqlite+aiosqlite:///{folder}/service.db",
        port=0,
        token_spill_folder=folder,
        api_key=API_KEY,
        gologin_api_url=NO_PLACE,
        gologin_local_url=NO_PLACE,
        x_web_url=info.provider_url,
        x_api_url=info.provider_url,
        oauth_apps={name: app.model_dump() for name, app in info.apps.items()},
        rate_limit_per_minute=10_000,
        event_stream_lifetime=0.3,
        webhook_allow_private_addresses=True,
        shutdown_grace=5,
    )
    async with served(settings) as running:
        with stamina.set_testing(True, attempts=1):
            await running.app.state.context.workers.stop(grace=5)
        yield running


@pytest.fixture
def context(service: Served) -> Context:
    found: Context = service.app.state.context
    return found
