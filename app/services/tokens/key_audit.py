"""Audit of stored tokens: those that do not open, and the keys that are still needed."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

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


SAMPLE_SIZE: Final = 5_000
"""Rows that `count_oldest` reads at most."""
_KEY_ID_LENGTH: Final = 33
"""Characters of a stored value that hold its key's id, with the colon."""


@dataclass(frozen=True)
class KeySample:
    """Values of some rows by the id of the key that wrote them; none of them was opened."""

    values: Counter[str]
    rows: int
    is_whole: bool
    """True: there are no more rows."""


async def count_oldest(db: AsyncSession, *, limit: int = SAMPLE_SIZE) -> KeySample:
    """Count the values of the oldest rows by key: there those are that an old key wrote, unless a refresh renewed them.

    One statement, of bounded cost however many rows there are; `audit` looks at all of them.
    """
    beginnings = [func.substr(getattr(Credential, name), 1, _KEY_ID_LENGTH) for name in TOKEN_COLUMNS]
    rows = (await db.execute(select(*beginnings).order_by(Credential.id).limit(limit + 1))).all()
    values = Counter(
        key_id for row in rows[:limit] for value in row if value and (key_id := find_key_id(value))
    )
    return KeySample(values, min(len(rows), limit), is_whole=len(rows) <= limit)


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
