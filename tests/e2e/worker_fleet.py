"""An API without workers, and workers without an API, on one PostgreSQL."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.models import Profile
from sandbox.demo.service_process import ServiceProcess, WorkerProcess
from sandbox.process import SandboxProcess
from tests.e2e.harness import ServiceHarness, environment_for
from tests.fixtures.waiting import eventually

SLOTS = 2


@dataclass
class WorkerFleet:
    harness: ServiceHarness
    """Its service answers the API only."""
    workers: list[WorkerProcess]

    async def start_worker(self, stack: AsyncExitStack, **changes: Any) -> WorkerProcess:
        folder = self.harness.folder / f"worker-{len(self.workers)}"
        folder.mkdir()
        different = {name.upper(): str(value) for name, value in changes.items()}
        worker = WorkerProcess(folder, self.harness.environment | different)
        await worker.start()
        stack.push_async_callback(worker.stop)
        self.workers.append(worker)
        return worker


@asynccontextmanager
async def open_worker_fleet(
    sandbox: SandboxProcess, parent: Path, url: str, *, workers: int, **changes: Any
) -> AsyncIterator[WorkerFleet]:
    """`url`: a migrated PostgreSQL database. Ready when the first sync has brought the profiles."""
    folder = parent / f"fleet-{secrets.token_hex(4)}"
    own = {"database_url": url, "serve_workers": False, "max_concurrent_profiles": SLOTS, "max_attempts": 5}
    environment = environment_for(sandbox, folder, **own | changes)
    service = ServiceProcess(folder, environment)
    async with AsyncExitStack() as stack:
        await service.start()
        stack.push_async_callback(service.stop)
        fleet = WorkerFleet(ServiceHarness(sandbox, service, environment, folder), [])
        for _ in range(workers):
            await fleet.start_worker(stack)

        async def is_synced() -> bool:
            # A sync stores page by page.
            return await fleet.harness.count(Profile) >= len(sandbox.info.accounts)

        await eventually(is_synced)
        yield fleet


def max_sessions_at_once(worker: ServiceProcess) -> int:
    """Sessions that it ran at one moment, by its log."""
    change = {"authorization.started": 1, "authorization.completed": -1, "authorization.failed": -1}
    running = most = 0
    for line in worker.log_lines():
        running += change.get(line["event"], 0)
        most = max(most, running)
    return most
