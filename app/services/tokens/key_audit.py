"""Audit of stored tokens: those that do not open, and the keys that are still needed."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import func, select

from app.database import Database
from app.models import Credential
from app.services.tokens import accounts
from app.services.tokens.vault import TOKEN_COLUMNS, CredentialVault
from app.utils.crypto import find_key_id
from app.utils.exceptions import DecryptionException


@dataclass
class AuditReport:
    values: Counter[str] = field(default_factory=Counter)
    """Values that open, by the id of the key that wrote them."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Account and app of each row with a value that no key opens."""
    missing_key_ids: set[str] = field(default_factory=set)
    """Ids of keys that values need and the settings do not have."""


async def count_rows(database: Database) -> int:
    async with database.reading() as db:
        return await db.scalar(select(func.count()).select_from(Credential)) or 0


async def audit(
    database: Database, vault: CredentialVault, *, progress: Callable[[int], None] = lambda _done: None
) -> AuditReport:
    """Open every value once; `progress` gets the rows done."""
    report, count = AuditReport(), 0
    async for rows in accounts.batches(database):
        for row in rows:
            _look_at(vault, row, report)
        count += len(rows)
        progress(count)
    return report


def _look_at(vault: CredentialVault, row: Credential, report: AuditReport) -> None:
    is_readable = True
    for column in TOKEN_COLUMNS:
        key_id = find_key_id(getattr(row, column) or "")
        try:
            if vault.token(row, column) is not None and key_id is not None:
                report.values[key_id] += 1
        except DecryptionException:
            is_readable = False
            if key_id is not None and key_id not in vault.key_ids:
                report.missing_key_ids.add(key_id)
    if not is_readable:
        report.unreadable.append((row.account_id, row.api_app))
