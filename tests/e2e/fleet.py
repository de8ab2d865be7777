"""A second service beside a house's own, on the same database."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sandbox.demo.service_process import ServiceProcess
from tests.e2e.harness import ServiceHarness


@asynccontextmanager
async def another_service(harness: ServiceHarness, **changes: Any) -> AsyncIterator[ServiceProcess]:
    """Its settings are those of the house, but for `changes`."""
    folder = harness.folder / f"another-{secrets.token_hex(4)}"
    folder.mkdir()
    different = {name.upper(): str(value) for name, value in changes.items()}
    service = ServiceProcess(folder, harness.environment | different)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
