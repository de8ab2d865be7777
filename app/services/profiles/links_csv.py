"""Links between profiles and accounts as CSV: `profile_id,twitter_username,api_app`, the last one optional."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TextIO

from sqlalchemy import select

from app.clients.browsers.profile_browser import is_profile_id
from app.database import Database
from app.models import Profile
from app.services.profiles.directory import ProfileDirectory
from app.services.shared.import_files import BadLine, csv_rows, limited
from app.utils.exceptions import AppException, InvalidRequestException
from app.utils.foreign_text import neutralise, restore
from app.utils.handles import APP_NAME, normalize_handle

COLUMNS: Final = ("profile_id", "twitter_username", "api_app")
_REQUIRED_COLUMNS: Final = COLUMNS[:2]
_PAGE_SIZE: Final = 1000


@dataclass
class ImportReport:
    linked: int = 0
    bad_lines: list[BadLine] = field(default_factory=list)


async def import_links(
    database: Database,
    directory: ProfileDirectory,
    lines: Iterable[str],
    *,
    actor: str,
    progress: Callable[[int], None] = lambda _line: None,
) -> ImportReport:
    """Link line by line, each in a transaction of its own: a bad line is reported and keeps none of the others back.

    `progress` gets the number of each line done. Raises `InvalidRequestException` when the header lacks a column, a
    line is no CSV, or there are too many rows; what came before is linked.
    """
    report = ImportReport()
    try:
        for number, row in limited(
            csv_rows(lines, columns=COLUMNS, required=_REQUIRED_COLUMNS, strict=False)
        ):
            try:
                await _link(database, directory, row, actor)
                report.linked += 1
            except (AppException, ValueError) as error:
                reason = error.message if isinstance(error, AppException) else str(error)
                report.bad_lines.append(BadLine(number, reason))
            progress(number)
    except InvalidRequestException as error:
        raise InvalidRequestException(f"{error.message}; {report.linked} linked before it") from None
    return report


async def export_links(database: Database, file: TextIO, *, everything: bool = False) -> int:
    """Write the links made by hand, or `everything` that has an account; rows written."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    query = select(Profile.id, Profile.profile_id, Profile.account_id, Profile.api_app)
    query = query.where(Profile.account_id.is_not(None) if everything else Profile.is_linked)
    last = written = 0
    while True:
        async with database.reading() as db:
            rows = (
                await db.execute(query.where(Profile.id > last).order_by(Profile.id).limit(_PAGE_SIZE))
            ).all()
        if not rows:
            return written
        for row in rows:
            cells = (row.profile_id, row.account_id, row.api_app or "")
            writer.writerow(map(neutralise, cells))
        last, written = rows[-1].id, written + len(rows)


async def _link(
    database: Database, directory: ProfileDirectory, row: dict[str, str | None], actor: str
) -> None:
    profile_id = restore(row["profile_id"] or "").strip()
    if not profile_id:
        raise ValueError("profile_id is empty")
    if not is_profile_id(profile_id):  # a NUL is more than PostgreSQL takes, also to look for it
        raise ValueError(
            "profile_id cannot be one: it is too long or holds characters that cannot be printed"
        )
    try:
        account_id = normalize_handle(restore(row["twitter_username"] or ""))
    except ValueError as error:
        raise ValueError(f"twitter_username {error}") from None
    api_app = restore(row.get("api_app") or "").strip() or None
    if api_app is not None and not APP_NAME.fullmatch(api_app):
        raise ValueError("api_app must be 1 to 64 letters, digits, - and _")
    async with database.transaction() as db:
        await directory.link(db, profile_id, account_id=account_id, api_app=api_app, actor=actor)
