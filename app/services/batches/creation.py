"""Creation of batches: sessions from the rows of a request, with a fixed number of statements for each 1,000 rows."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import AuthorizationSession, Batch, BatchRow, EventType, Profile, utc_now
from app.services.authorizations import transitions
from app.services.authorizations.requests import (
    AuthorizationCommand,
    column_values,
    open_sessions,
    unless_open,
)
from app.services.authorizations.service import AuthorizationService
from app.services.batches.queries import RowResult
from app.services.batches.rows import InputRow
from app.services.events import recorder
from app.services.interfaces import OAuthServiceProtocol
from app.services.keys.service import Caller
from app.services.oauth.app_state import AppStates
from app.services.profiles.directory import ProfileDirectory
from app.services.shared import bulk_insert
from app.utils.exceptions import (
    AppException,
    AppPausedException,
    BatchEmptyException,
    InvalidRequestException,
    OutOfReachException,
)
from app.utils.request_id import accept_request_id, current_request_id

CHUNK_SIZE: Final = bulk_insert.MAX_ROWS
"""Rows of one statement."""

_Key = tuple[str, str]
"""Account and app: one open session each."""
_OWN_VALUES: Final = (
    "session_id", "account_id", "api_app", "profile_id", "priority", "created_at", "queue_rank",
)  # fmt: skip
"""Attributes of a session that differ within a batch and an app."""
_Values = dict[str, Any]
"""A new session by attribute, without those of its app: objects of the mapper would take most of the time."""


@dataclass(frozen=True)
class BatchCommand:
    """A caller's request for a batch; None: the settings' value."""

    rows: Sequence[InputRow]
    max_running: int | None = None
    stop_percent: int | None = None
    stop_window: int | None = None
    not_before: datetime | None = None
    expires_at: datetime | None = None
    timeout_seconds: float | None = None


class BatchCreation:
    """One batch on its way into the database, in the caller's transaction."""

    def __init__(
        self,
        *,
        authorizations: AuthorizationService,
        oauth: OAuthServiceProtocol,
        directory: ProfileDirectory,
        apps: AppStates,
        command: BatchCommand,
        caller: Caller,
        batch_id: str,
        chunk_size: int = CHUNK_SIZE,
    ) -> None:
        self._authorizations = authorizations
        self._oauth = oauth
        self._directory = directory
        self._apps = apps
        self._command = command
        self._caller = caller
        self._batch_id = batch_id
        self._chunk_size = chunk_size
        self._now = utc_now()
        self._request_id = accept_request_id(current_request_id())
        self._results: dict[int, dict[str, Any]] = {}
        self._first: dict[_Key, InputRow] = {}
        self._shared: dict[str, _Values] = {}
        """Values that all sessions of an app have, by app."""

    async def run(self, db: AsyncSession) -> None:
        """Insert sessions and row results, and count them on the batch.

        Raises `BatchEmptyException`, `TooManyWaitingException`, `InvalidRequestException`.
        """
        duplicates = self._sort_out(await self._refused_apps(db))
        await self._authorizations.waiting.reserve(db, coming=len(self._first))
        # In one order everywhere: two batches of the same accounts wait for each other, but never in a circle.
        # By app first: a statement inserts sessions of one app.
        keys = sorted(self._first, key=itemgetter(1, 0))
        for start in range(0, len(keys), self._chunk_size):
            await self._make(db, keys[start : start + self._chunk_size])
        self._note_duplicates(duplicates)
        await self._store_results(db)

    async def check(self, db: AsyncSession) -> list[RowResult]:
        """Return what would become of each row now, in their order; nothing is written.

        A row that would get a new session has neither a session nor an error.
        """
        duplicates = self._sort_out(await self._refused_apps(db))
        keys = sorted(self._first, key=itemgetter(1, 0))
        for start in range(0, len(keys), self._chunk_size):
            rows = [row for row, _ in await self._with_profiles(db, keys[start : start + self._chunk_size])]
            open_ids = await open_sessions(db, {row.account_id for row in rows})
            for row in rows:
                session_id = open_ids.get((row.account_id, row.api_app))
                self._note(row, session_id=session_id, is_existing=session_id is not None)
        self._note_duplicates(duplicates)
        return [_checked(self._results[row.number]) for row in self._command.rows]

    async def _refused_apps(self, db: AsyncSession) -> dict[str, AppException]:
        """Apps of the rows for which there can be no session, with the reason."""
        paused = {app.api_app: app.reason or "" for app in await self._apps.list_paused(db)}
        refusals: dict[str, AppException] = {}
        for api_app in {row.api_app for row in self._command.rows if row.error is None}:
            try:
                self._oauth.app(api_app)
                if api_app in paused:
                    raise AppPausedException(api_app, paused[api_app])
            except AppException as error:
                refusals[api_app] = error
        return refusals

    def _sort_out(self, refusals: dict[str, AppException]) -> list[InputRow]:
        """Note the bad rows, and the first good one of each key; return the good ones of a key that had one before."""
        duplicates = []
        for row in self._command.rows:
            if row.error is not None:
                self._note(row, error=InvalidRequestException(row.error))
            elif not self._caller.access.covers(row.account_id, row.api_app):
                self._note(row, error=OutOfReachException(row.account_id, row.api_app))
            elif row.api_app in refusals:
                self._note(row, error=refusals[row.api_app])
            elif problem := self._oauth.handle_problem(row.api_app, row.account_id):
                self._note(row, error=InvalidRequestException(f"account_id: {problem}"))
            elif (row.account_id, row.api_app) in self._first:
                duplicates.append(row)
            else:
                self._first[row.account_id, row.api_app] = row
        return duplicates

    async def _make(self, db: AsyncSession, keys: Sequence[_Key]) -> None:
        new = [self._session(row, profile) for row, profile in await self._with_profiles(db, keys)]
        while new:
            new = await self._insert(db, new)

    async def _with_profiles(self, db: AsyncSession, keys: Sequence[_Key]) -> list[tuple[InputRow, Profile]]:
        """Return the rows that have a profile, and note the others."""
        profiles = await self._directory.get_for_accounts(db, keys)
        found = []
        for key in keys:
            row, profile = self._first[key], profiles[key]
            if isinstance(profile, AppException):
                self._note(row, error=profile)
            else:
                found.append((row, profile))
        return found

    def _session(self, row: InputRow, profile: Profile) -> _Values:
        # They start in the order of the rows.
        created_at = self._now + timedelta(microseconds=row.number)
        return {
            "session_id": str(uuid.uuid4()),
            "account_id": row.account_id,
            "api_app": row.api_app,
            "profile_id": profile.profile_id,
            "priority": row.priority,
            "created_at": created_at,
            "queue_rank": transitions.rank_of(created_at, row.priority),
        }

    def _shared_values(self, api_app: str) -> _Values:
        if (shared := self._shared.get(api_app)) is None:
            command = AuthorizationCommand(
                "",
                api_app,
                not_before=self._command.not_before,
                expires_at=self._command.expires_at,
                timeout_seconds=self._command.timeout_seconds,
            )
            session = self._authorizations.row_for(
                command, self._oauth.app(api_app), "", self._caller, "", self._request_id
            )
            session.batch_id, session.is_held = self._batch_id, True
            values = column_values(session)
            shared = {name: value for name, value in values.items() if name not in _OWN_VALUES}
            self._shared[api_app] = shared
        return shared

    async def _insert(self, db: AsyncSession, new: Sequence[_Values]) -> list[_Values]:
        """Insert them but those whose account has an open session; those to try again, as that one has just ended."""
        skipped = []
        for api_app, group in groupby(new, key=itemgetter("api_app")):
            rows, shared = list(group), self._shared_values(api_app)
            insert = bulk_insert.insert_from_json(db, AuthorizationSession, _OWN_VALUES, shared)
            ids = unless_open(insert).returning(AuthorizationSession.session_id)
            inserted = set(await db.scalars(ids, bulk_insert.json_rows(rows)))
            created = [row for row in rows if row["session_id"] in inserted]
            await recorder.record_for_all(
                db,
                EventType.AUTHORIZATION_REQUESTED,
                created,
                actor=self._caller.name,
                request_id=self._request_id,
            )
            for row in created:
                self._note(self._first[_key(row)], session_id=row["session_id"])
            skipped += [row for row in rows if row["session_id"] not in inserted]
        open_ids = await open_sessions(db, {row["account_id"] for row in skipped})
        for row in skipped:
            if (session_id := open_ids.get(_key(row))) is not None:
                self._note(self._first[_key(row)], session_id=session_id, is_existing=True)
        return [row for row in skipped if _key(row) not in open_ids]

    def _note(
        self,
        row: InputRow,
        *,
        session_id: str | None = None,
        is_existing: bool = False,
        error: AppException | None = None,
    ) -> None:
        self._results[row.number] = {
            "batch_id": self._batch_id,
            "number": row.number,
            "account_id": row.account_id,
            "api_app": row.api_app,
            "session_id": session_id,
            "is_existing": is_existing,
            "error_code": error.error_code if error else None,
            "error_message": error.message if error else None,
        }

    def _note_duplicates(self, rows: Sequence[InputRow]) -> None:
        """Give rows of a key that had one before the outcome of that one."""
        for row in rows:
            first = self._results[self._first[row.account_id, row.api_app].number]
            self._results[row.number] = first | {
                "number": row.number,
                "is_existing": first["error_code"] is None,
            }

    async def _store_results(self, db: AsyncSession) -> None:
        results = [self._results[row.number] for row in self._command.rows]
        accepted = sum(result["session_id"] is not None for result in results)
        if not accepted:
            raise BatchEmptyException(results[0]["error_message"] if results else "it has no rows")
        await bulk_insert.insert_rows(db, BatchRow, results)
        await db.execute(
            update(Batch)
            .where(Batch.batch_id == self._batch_id)
            .values(accepted=accepted, rejected=len(results) - accepted)
        )


def _key(row: _Values) -> _Key:
    return row["account_id"], row["api_app"]


def _checked(result: dict[str, Any]) -> RowResult:
    return RowResult(
        row=result["number"],
        account_id=result["account_id"],
        api_app=result["api_app"],
        session_id=result["session_id"],
        existing=result["is_existing"],
        status=None,
        error_code=result["error_code"],
        error=result["error_message"],
    )
