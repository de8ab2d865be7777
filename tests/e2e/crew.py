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
from tests.e2e.house import House, environment_for
from tests.fixtures.waiting import eventually

SLOTS = 2


@dataclass
class Crew:
    house: House
    """Its service answers the API only."""
    workers: list[WorkerProcess]

    async def hire(self, stack: AsyncExitStack, **changes: Any) -> WorkerProcess:
        folder = self.house.folder / f"worker-{len(self.workers)}"
        folder.mkdir()
        different = {name.upper(): str(value) for name, value in changes.items()}
        worker = WorkerProcess(folder, self.house.environment | different)
        await worker.start()
        stack.push_async_callback(worker.stop)
        self.workers.append(worker)
        return worker


@asynccontextmanager
async def open_crew(
    sandbox: SandboxProcess, parent: Path, url: str, *, workers: int, **changes: Any
) -> AsyncIterator[Crew]:
    """`url`: a migrated PostgreSQL database. Ready when the first sync has brought the profiles."""
    folder = parent / f"crew-{secrets.token_hex(4)}"
    own = {"database_url": url, "serve_workers": False, "max_concurrent_profiles": SLOTS, "max_attempts": 5}
    environment = environment_for(sandbox, folder, **own | changes)
    service = ServiceProcess(folder, environment)
    async with AsyncExitStack() as stack:
        await service.start()
        stack.push_async_callback(service.stop)
        crew = Crew(House(sandbox, service, environment, folder), [])
        for _ in range(workers):
            await crew.hire(stack)
        await eventually(lambda: crew.house.count(Profile))
        yield crew


def most_at_once(worker: ServiceProcess) -> int:
    """Sessions that it ran at one moment, by its log."""
    change = {"authorization.started": 1, "authorization.completed": -1, "authorization.failed": -1}
    running = most = 0
    for line in worker.log_lines():
        running += change.get(line["event"], 0)
        most = max(most, running)
    return most
