"""Serves this process's live views at its internal address, and writes the address to the database."""

from typing import ClassVar, Final

from app.services.live.processes import LiveProcesses
from app.services.live.server import LiveServer
from app.services.workers.base import Worker

_BEAT: Final = 60.0
"""Seconds between two heartbeats."""
_RETRY: Final = 5.0


class LiveViewWorker(Worker):
    """Live views are a help: a process whose address cannot be served works on without them."""

    name = "live"
    is_maintenance: ClassVar[bool] = False

    def __init__(self, *, server: LiveServer, processes: LiveProcesses) -> None:
        super().__init__()
        self._server = server
        self._processes = processes

    async def run(self) -> None:
        while not self._stop.is_set():
            await self._run_guarded(self._serve)
            await self._pause(_RETRY)

    async def _serve(self) -> int:
        """Serve until the stop. Raises `OSError` when the address cannot be had."""
        async with self._server.listening() as (port, certificate):

            async def beat() -> int:
                await self._processes.beat(port, certificate)
                return 1

            try:
                while not self._stop.is_set():
                    is_written = await self._run_guarded(beat)
                    await self._pause(_BEAT if is_written else _RETRY)
            finally:
                await self._run_guarded(self._leave, step="leave")
        return 1

    async def _leave(self) -> int:
        await self._processes.remove()
        return 1
