"""Processes that serve live views: each writes its internal address to the database, and others find it there."""

import socket
from typing import Final

from sqlalchemy import delete

from app.database import Database, database_time, insert_or_update
from app.models import LiveControl, Process

_FORGOTTEN_AFTER: Final = 3_600.0
"""Seconds without a heartbeat after which a row is deleted; its process has most likely died."""
_ANY_ADDRESS: Final = ("0.0.0.0", "::", "")  # noqa: S104  # compared, not bound


class LiveProcesses:
    """`process`: this process's name. `host`: host of its internal address, as others reach it."""

    def __init__(self, *, database: Database, process: str, machine: str, host: str) -> None:
        self._database = database
        self._process = process
        self._machine = machine
        host = socket.gethostname() if host in _ANY_ADDRESS else host
        self._host = f"[{host}]" if ":" in host else host

    async def beat(self, port: int, certificate: str) -> None:
        """Write that the process lives and where, and delete the rows of those that died."""
        values = {
            "address": f"{self._host}:{port}",
            "certificate": certificate,
            "heartbeat_at": database_time(),
        }
        async with self._database.transaction() as db:
            row = insert_or_update(db, Process).values(
                owner=self._process, machine=self._machine, started_at=database_time(), **values
            )
            await db.execute(row.on_conflict_do_update(index_elements=[Process.owner], set_=values))
            await db.execute(
                delete(Process).where(Process.heartbeat_at < database_time(plus=-_FORGOTTEN_AFTER))
            )
            await db.execute(
                delete(LiveControl).where(
                    LiveControl.lease_expires_at < database_time(plus=-_FORGOTTEN_AFTER)
                )
            )

    async def remove(self) -> None:
        async with self._database.autocommit() as db:
            await db.execute(delete(Process).where(Process.owner == self._process))
