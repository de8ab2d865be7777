"""A service that cannot serve says so before it does anything."""

import os
import socket
import stat
from pathlib import Path

import pytest

from sandbox.demo.service_process import ServiceError, ServiceProcess
from sandbox.process import SandboxProcess
from tests.e2e.harness import environment_for, open_harness

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_port_in_use_is_reported_before_any_call(sandbox: SandboxProcess, folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        own = folder / "port-in-use"
        # It has no migrated database either: the port comes first.
        service = ServiceProcess(own, environment_for(sandbox, own, port=port))
        with pytest.raises(ServiceError, match=f"PORT: another process listens on port {port} of 127.0.0.1"):
            await service.start()
    assert service.log_lines() == []
    assert not (own / "service.db").exists()


async def test_a_second_service_on_one_sqlite_file_is_refused_until_the_first_has_gone(
    sandbox: SandboxProcess, folder: Path
):
    async with open_harness(sandbox, folder) as harness:
        second = ServiceProcess(harness.folder / "second", harness.environment)
        (harness.folder / "second").mkdir()
        with pytest.raises(ServiceError, match=r"DATABASE_URL: another service runs on .*service\.db"):
            await second.start()
        assert "ok" in await harness.service.run("doctor")  # commands work beside it
        await harness.service.kill()
        await second.start()
        assert await second.stop() == 0


async def test_files_of_a_service_are_readable_by_its_user_alone(sandbox: SandboxProcess, folder: Path):
    """At the usual umask of 022, which the children inherit."""
    before = os.umask(0o022)
    try:
        own = folder / "modes"
        url = f"sqlite+aiosqlite:///{own}/data/service.db"
        service = ServiceProcess(own, environment_for(sandbox, own, database_url=url))
        async with service:
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (own / "data").iterdir()}
            assert stat.S_IMODE((own / "data").stat().st_mode) == 0o700
            assert modes == dict.fromkeys(
                ("service.db", "service.db-wal", "service.db-shm", "service.db.lock"), 0o600
            )
    finally:
        os.umask(before)
