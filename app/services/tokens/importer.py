"""Existing tokens from CSV or JSON: checked entry by entry, and encrypted before anything else is done with them.

No value of an entry is in a message, column names included: a file without a header has a token in their place.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, insert_or_update
from app.models import Credential, EventType, utc_now
from app.services.events import recorder
from app.services.interfaces import TokenSet
from app.services.shared.import_files import MAX_IMPORT_ROWS, BadLine, csv_rows, limited
from app.services.tokens.service import CredentialService
from app.utils.exceptions import InvalidRequestException
from app.utils.foreign_text import restore
from app.utils.handles import normalize_handle

COLUMNS: Final = (
    "account_id",
    "api_app",
    "access_token",
    "refresh_token",
    "oauth_token_secret",
    "expires_at",
    "expires_in",
    "scopes",
    "provider_user_id",
)
_REQUIRED_COLUMNS: Final = COLUMNS[:3]
_EXPORTED_COLUMNS: Final = frozenset(("account_id", "api_app", "provider_user_id"))
_INSERT_SIZE: Final = 500
_MAX_BRACKETS: Final = 4
"""A row of JSON opens two at most, its own and that of its scopes; a token may hold some."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,8192}")
"""RFC 6749, A.12, without the space that no header can carry (RFC 6750, 2.1)."""
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
"""RFC 6749, 3.3."""
_USER_ID: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.:|-]{0,254})?")
"""Pattern of a user id. It is exported: a spreadsheet must not take it for a formula."""
_MAX_LIFE: Final = 10 * 365 * 86_400

Entry = tuple[int, Any]
"""Number of the entry, as messages name it, and its value."""


@dataclass(frozen=True)
class _Entry:
    number: int
    account_id: str
    api_app: str
    provider_user_id: str
    tokens: TokenSet

    @property
    def key(self) -> tuple[str, str]:
        return self.account_id, self.api_app


@dataclass
class ImportReport:
    stored: int = 0
    skipped: list[BadLine] = field(default_factory=list)
    """Good ones whose account has tokens already."""
    bad_lines: list[BadLine] = field(default_factory=list)


def csv_entries(lines: Iterable[str]) -> Iterator[Entry]:
    """Numbered by their lines. Raises `InvalidRequestException` for what is no such table."""
    rows = csv_rows(lines, columns=COLUMNS, required=_REQUIRED_COLUMNS, allow_unknown_columns=False)
    for number, values in limited(rows):
        present = {name: value for name, value in values.items() if value not in (None, "")}
        # Our own exports name these; a token is taken as it is.
        exported = {name: restore(present[name]) for name in _EXPORTED_COLUMNS & present.keys()}
        yield number, present | exported


def json_entries(content: bytes) -> list[Entry]:
    """Return the entries of a list of objects, numbered from 1. Raises `InvalidRequestException`."""
    # Before it is read: empty lists take twenty times the memory of their text.
    if content.count(b"{") + content.count(b"[") > _MAX_BRACKETS * MAX_IMPORT_ROWS:
        raise InvalidRequestException(
            f"A file to import has {MAX_IMPORT_ROWS} rows at most: this one has more, so split it, or is not valid JSON"
        )
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):  # no JSON, no UTF-8, or a number of thousands of digits
        raise InvalidRequestException("The file is not JSON in UTF-8") from None
    if not isinstance(rows, list):
        raise InvalidRequestException("The JSON must be a list of objects")
    return list(enumerate(limited(rows), start=1))


class TokenImport:
    """`api_apps`: the apps of the settings. `replace`: also the tokens of accounts that have some.

    `handle_problem`: why the app's provider has no such handle, as `OAuthService` has it.
    """

    def __init__(
        self,
        *,
        database: Database,
        credentials: CredentialService,
        api_apps: Sequence[str],
        handle_problem: Callable[[str, str], str | None],
        replace: bool,
    ) -> None:
        self._database = database
        self._credentials = credentials
        self._api_apps = api_apps
        self._handle_problem = handle_problem
        self._replace = replace

    async def run(
        self,
        entries: Iterable[Entry],
        *,
        actor: str,
        progress: Callable[[int], None] = lambda _number: None,
    ) -> ImportReport:
        """Store the good ones in batches; a bad one is reported and keeps none of the others back.

        `progress` gets the number of the last entry done. Raises what `entries` does; what came before is stored.
        """
        report, waiting = ImportReport(), []
        first_numbers: dict[tuple[str, str], int] = {}
        try:
            for number, values in entries:
                progress(number)
                try:
                    entry = _validate(number, values, self._api_apps)
                    if problem := self._handle_problem(entry.api_app, entry.account_id):
                        raise ValueError(f"account_id: {problem}")
                    if (first := first_numbers.setdefault(entry.key, number)) != number:
                        raise ValueError(f"the same account and app as in {first}")
                except ValueError as error:
                    report.bad_lines.append(BadLine(number, str(error)))
                    continue
                waiting.append(entry)
                if len(waiting) == _INSERT_SIZE:
                    batch, waiting = waiting, []
                    await self._store(batch, report, actor)
        except InvalidRequestException as error:
            await self._store(waiting, report, actor)
            raise InvalidRequestException(f"{error.message}; {report.stored} stored before it") from None
        await self._store(waiting, report, actor)
        return report

    async def _store(self, batch: Sequence[_Entry], report: ImportReport, actor: str) -> None:
        if not batch:
            return
        async with self._database.transaction() as db:
            stored = await self._insert(db, batch)
            for row in stored:
                recorder.record(
                    db,
                    EventType.CREDENTIAL_IMPORTED,
                    actor=actor,
                    account_id=row.account_id,
                    api_app=row.api_app,
                    version=row.version,
                    scopes=row.scopes,
                )
        report.stored += len(stored)
        stored_keys = {(row.account_id, row.api_app) for row in stored}
        report.skipped += [
            BadLine(entry.number, "has tokens already; skipped")
            for entry in batch
            if entry.key not in stored_keys
        ]

    async def _insert(self, db: AsyncSession, batch: Sequence[_Entry]) -> Sequence[Credential]:
        """The rows that were stored. In the order of their keys, so that two imports do not wait for each other."""
        now = utc_now()
        values = [
            {
                **self._credentials.current_columns(entry.account_id, entry.api_app, entry.tokens, now),
                "account_id": entry.account_id,
                "api_app": entry.api_app,
                "provider_user_id": entry.provider_user_id,
                "session_id": None,
                "version": 1,
                "created_at": now,
            }
            for entry in sorted(batch, key=lambda each: each.key)
        ]
        insert = insert_or_update(db, Credential)
        columns = [Credential.account_id, Credential.api_app]
        if self._replace:
            new = {name: insert.excluded[name] for name in values[0] if name not in ("created_at", "version")}
            statement = insert.on_conflict_do_update(
                index_elements=columns, set_={**new, "version": Credential.version + 1}
            )
        else:
            statement = insert.on_conflict_do_nothing(index_elements=columns)
        rows = await db.scalars(statement.returning(Credential), values)
        return rows.all()


def _validate(number: int, values: Any, api_apps: Sequence[str]) -> _Entry:
    """Raises `ValueError` with a sentence that quotes nothing of the entry."""
    if not isinstance(values, Mapping):
        raise ValueError("must be an object")
    if not values.keys() <= set(COLUMNS):
        raise ValueError(f"has more than the known columns: {', '.join(COLUMNS)}")
    if missing := [name for name in _REQUIRED_COLUMNS if values.get(name) is None]:
        raise ValueError(f"{missing[0]}: is missing")
    account_id, api_app = _handle(values["account_id"]), values["api_app"]
    if api_app not in api_apps:
        # Not as `UnknownApiAppException` has it: in a file with shifted columns the name may be a token.
        raise ValueError(f"api_app: none of OAUTH_APPS: {', '.join(sorted(api_apps))}")
    return _Entry(
        number,
        account_id,
        api_app,
        _text(values, "provider_user_id", _USER_ID, "must be up to 255 letters, digits and _.:|-") or "",
        _tokens(values),
    )


def _tokens(values: Mapping[str, Any]) -> TokenSet:
    access_token, refresh_token, token_secret = (
        _text(values, name, _TOKEN, "must be a token: visible ASCII characters without a space")
        for name in ("access_token", "refresh_token", "oauth_token_secret")
    )
    assert access_token is not None
    if refresh_token and token_secret:
        raise ValueError("refresh_token and oauth_token_secret: an account has one or the other")
    expires_in = _expires_in(values)
    if refresh_token is None and expires_in is not None and expires_in <= 0:
        raise ValueError("has expired, and there is no refresh_token to renew it")
    return TokenSet(
        access_token=SecretStr(access_token),
        refresh_token=SecretStr(refresh_token) if refresh_token else None,
        scopes=_scopes(values.get("scopes")),
        # Of an unknown end: refreshed before its first use.
        expires_in=0 if expires_in is None and refresh_token else expires_in,
        oauth_token_secret=SecretStr(token_secret) if token_secret else None,
    )


def _handle(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("account_id: must be text")
    try:
        return normalize_handle(value)
    except ValueError as error:
        raise ValueError(f"account_id: {error}") from None


def _text(values: Mapping[str, Any], name: str, pattern: re.Pattern[str], sentence: str) -> str | None:
    value = values.get(name)
    if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
        raise ValueError(f"{name}: {sentence}")
    return value


def _scopes(value: Any) -> tuple[str, ...]:
    """Return the scopes of a list or a text: split at spaces (RFC 6749, 3.3), commas or semicolons."""
    scopes = re.findall(r"[^\s,;]+", value) if isinstance(value, str) else value or []
    if not isinstance(scopes, list) or not all(isinstance(s, str) and _SCOPE.fullmatch(s) for s in scopes):
        raise ValueError(
            "scopes: must be names, with spaces, commas or semicolons between them, or in a list"
        )
    return tuple(scopes)


def _expires_in(values: Mapping[str, Any]) -> int | None:
    """Seconds from now; negative when it was before."""
    at, seconds = values.get("expires_at"), values.get("expires_in")
    if at is not None and seconds is not None:
        raise ValueError("expires_at and expires_in: give one of them")
    remaining: int | None = None
    if at is not None:
        remaining = int((_time(at) - utc_now()).total_seconds())
    elif seconds is not None:
        if isinstance(seconds, str) and seconds.isascii() and seconds.isdecimal():
            seconds = int(seconds[:12])
        if type(seconds) is not int or seconds < 0:
            raise ValueError("expires_in: must be a whole number of seconds from now")
        remaining = seconds
    if remaining is not None and abs(remaining) > _MAX_LIFE:
        raise ValueError("expires_at, expires_in: more than ten years from now")
    return remaining


def _time(value: Any) -> datetime:
    sentence = "expires_at: must be a time with its zone, such as 2026-11-21T08:00:00Z"
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(sentence) from None
    if time.tzinfo is None:
        raise ValueError(sentence)
    return time
