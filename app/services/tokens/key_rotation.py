"""Stored tokens encrypted anew by the key that writes, while the service hands them out and refreshes them.

Nothing remembers how far a rotation is: what is left has another key's id. So it may be killed and run again, and two
may run at once.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import Database
from app.models import Credential, EventType
from app.services.events import recorder
from app.services.tokens import accounts
from app.services.tokens.vault import TOKEN_COLUMNS, CredentialVault
from app.utils.crypto import find_key_id
from app.utils.exceptions import DecryptionException

_PASSES: Final = 5
"""Over what others wrote meanwhile by another key; when they go on, their settings have to change first."""


@dataclass
class RotationReport:
    """Counts are of accounts' rows, which have up to three values each."""

    key_id: str
    rotated: int = 0
    old_key_ids: set[str] = field(default_factory=set)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Account and app of each row with a value that no key opens; it is left as it is."""
    left: int = 0
    """Readable rows that another process has written by another key again and again."""

    @property
    def is_complete(self) -> bool:
        return not self.unreadable and not self.left


async def count_outdated(database: Database, vault: CredentialVault) -> int:
    """Rows with a value that another than the writing key wrote."""
    async with database.reading() as db:
        return await db.scalar(select(func.count()).where(vault.is_outdated())) or 0


async def rotate(
    database: Database,
    vault: CredentialVault,
    *,
    actor: str,
    progress: Callable[[int], None] = lambda _done: None,
    batch_size: int = accounts.BATCH_SIZE,
) -> RotationReport:
    """Encrypt anew what another than the writing key wrote; `progress` gets the rows done."""
    report = RotationReport(vault.writing_key_id)
    for _ in range(_PASSES):
        await _pass_over(database, vault, report, progress, batch_size)
        report.left = max(0, await count_outdated(database, vault) - len(report.unreadable))
        if not report.left:
            break
    if report.rotated:
        async with database.transaction() as db:
            recorder.record(
                db,
                EventType.SECRETS_ROTATED,
                actor=actor,
                key_id=report.key_id,
                old_key_ids=sorted(report.old_key_ids - {report.key_id}),
                rotated=report.rotated,
                unreadable=len(report.unreadable),
                left=report.left,
            )
    return report


async def _pass_over(
    database: Database,
    vault: CredentialVault,
    report: RotationReport,
    progress: Callable[[int], None],
    batch_size: int,
) -> None:
    report.unreadable = []
    async for rows in accounts.batches(database, vault.is_outdated(), size=batch_size):
        changes = _changes(vault, rows, report)
        start = time.monotonic()
        if changes:
            report.rotated += await _write(database, changes)
        progress(report.rotated + len(report.unreadable))
        # As long as the writers have waited for us: SQLite lets one write at a time, and keeps no queue.
        await asyncio.sleep(time.monotonic() - start)


def _changes(
    vault: CredentialVault, rows: Sequence[Credential], report: RotationReport
) -> dict[int, dict[str, str | None]]:
    """The values of `_REPLACE` by the id of the row."""
    changes = {}
    for row in rows:
        try:
            new = vault.reseal(row)
        except DecryptionException:
            report.unreadable.append((row.account_id, row.api_app))
            continue
        old = {column: getattr(row, column) for column in TOKEN_COLUMNS}
        report.old_key_ids |= {key_id for value in old.values() if value and (key_id := find_key_id(value))}
        changes[row.id] = {"row_id": row.id, **new, **{f"old_{name}": value for name, value in old.items()}}
    return changes


async def _write(database: Database, changes: Mapping[int, Mapping[str, str | int | None]]) -> int:
    """Rows written: not those that somebody holds or has changed since they were read. It waits for no row."""
    free = select(Credential.id).where(Credential.id.in_(changes)).with_for_update(skip_locked=True)
    async with database.transaction() as db:
        ids = (await db.scalars(free)).all()
        if not ids:
            return 0
        connection: AsyncConnection = await db.connection()
        return (await connection.execute(_REPLACE, [changes[row_id] for row_id in ids])).rowcount


_TABLE: Final = Credential.metadata.tables[Credential.__tablename__]
_REPLACE: Final = (
    _TABLE.update()
    .where(
        _TABLE.c.id == bindparam("row_id"),
        *(_TABLE.c[name].is_not_distinct_from(bindparam(f"old_{name}")) for name in TOKEN_COLUMNS),
    )
    .values(**{name: bindparam(name) for name in TOKEN_COLUMNS}, updated_at=_TABLE.c.updated_at)
)
"""The UPDATE of a row that still has the old values: newer tokens stay. `updated_at` is the token's."""
