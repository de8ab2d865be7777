"""Accounts with tokens as CSV, without the tokens."""

import csv
from datetime import datetime
from typing import Final, TextIO

from app.database import Database
from app.models import Credential
from app.services.tokens import accounts
from app.utils.foreign_text import neutralise

COLUMNS: Final = (
    "account_id",
    "api_app",
    "provider_user_id",
    "status",
    "expires_at",
    "refreshed_at",
    "failures",
    "last_error_code",
)


async def export(database: Database, file: TextIO) -> int:
    """Write every account's row; rows written."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    written = 0
    async for rows in accounts.batches(database):
        writer.writerows(map(neutralise, _line(row)) for row in rows)
        written += len(rows)
    return written


def _line(row: Credential) -> tuple[str | int, ...]:
    return (
        row.account_id,
        row.api_app,
        row.provider_user_id,
        row.status.value,
        _time(row.token_expires_at),
        _time(row.refreshed_at),
        row.refresh_failures,
        row.refresh_error_code or "",
    )


def _time(value: datetime | None) -> str:
    return value.isoformat(timespec="seconds") if value else ""
