"""Brings the profiles table up to date with the profile browser's list, page by page."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any, Final

from sqlalchemy import case, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.clients.browsers.profile_browser import BrowserProfile, ProfileBrowserClient
from app.database import Database, affected_rows, insert_or_update
from app.models import EventType, Profile, ProfileSync, SyncStatus, utc_now
from app.services.events import recorder
from app.services.profiles.account_rule import AccountRule
from app.services.shared import paging
from app.services.shared.isolation import isolate_rows
from app.services.shared.paging import Page, PageRequest
from app.utils.exceptions import (
    AppException,
    ErrorCode,
    GoLoginAPIException,
    LeaseLostException,
    SyncNotFoundException,
    SyncRefusedException,
)
from app.utils.logger import get_logger
from app.utils.request_id import current_request_id

_PAGE_SIZE: Final = 500
"""Rows of one statement over the whole table."""
_MAX_GONE: Final = 100
"""Profiles that may go at once without an operator's leave."""
_MAX_GONE_SHARE: Final = 0.5
"""Share of the active profiles that may go at once; beyond it, a wrong API token is likelier than a deletion."""
_MAX_LOOKUPS: Final = 100
"""Unseen profiles that are asked for one at a time; beyond it another pass over all pages costs fewer calls."""
_PERIODIC: Final = "service"
_RULE_COLUMNS: Final = ("account_id", "api_app")
"""Columns that the rule fills, unless the profile is linked by hand."""

_COUNTS: Final = ("pages", "seen", "created", "updated", "returned", "gone", "conflicts")
"""Columns of a pass."""
_MAX_NAMED_ROWS: Final = 20

log = get_logger(__name__)


@dataclass
class SyncResult:
    """Counts of profiles, but for `pages` and `conflicts`: accounts to which the rule gives several profiles."""

    pages: int = 0
    seen: int = 0
    created: int = 0
    updated: int = 0
    returned: int = 0
    gone: int = 0
    conflicts: int = 0
    skipped: int = 0
    """Rows that could not be stored."""
    skipped_rows: list[str] = field(default_factory=list)
    """Descriptions of the first skipped rows."""


class ProfileSyncService:
    """One pass at a time: the worker's turn sees to it."""

    def __init__(
        self,
        *,
        database: Database,
        client: ProfileBrowserClient,
        rule: AccountRule,
        max_lookups: int = _MAX_LOOKUPS,
    ) -> None:
        self._database = database
        self._max_lookups = max_lookups
        self._client = client
        self._rule = rule

    async def request(
        self, db: AsyncSession, *, requested_by: str, allow_mass_removal: bool = False
    ) -> ProfileSync:
        """Ask for a pass, in the caller's transaction; one that waits already is given back."""
        waiting = await _find_or_add_sync(db, requested_by)
        waiting.allow_mass_removal = waiting.allow_mass_removal or allow_mass_removal
        await db.flush()
        recorder.record(
            db,
            EventType.PROFILES_SYNC_REQUESTED,
            actor=requested_by,
            sync_id=waiting.sync_id,
            allow_mass_removal=allow_mass_removal,
        )
        return waiting

    async def get(self, db: AsyncSession, sync_id: str) -> ProfileSync:
        """Raises `SyncNotFoundException`."""
        row: ProfileSync | None = await db.scalar(select(ProfileSync).where(ProfileSync.sync_id == sync_id))
        if row is None:
            raise SyncNotFoundException(sync_id)
        return row

    async def latest(self, db: AsyncSession) -> ProfileSync | None:
        """Return the sync that was requested last."""
        latest: ProfileSync | None = await db.scalar(
            select(ProfileSync).order_by(ProfileSync.id.desc()).limit(1)
        )
        return latest

    async def fetch_page(self, db: AsyncSession, request: PageRequest) -> Page[ProfileSync]:
        return await paging.fetch_page(db, select(ProfileSync), ProfileSync, request)

    async def run(self) -> SyncResult:
        """The pass that was asked for, or a periodic one.

        Raises `GoLoginAPIException`, `GoLoginBreakerOpenException`, `SyncRefusedException`; what was read until then
        is kept, and nothing is marked as gone.
        """
        sync = await self._begin()
        start, result = monotonic(), SyncResult()
        started_at = utc_now()
        seen_ids: set[int] = set()
        try:
            async for rows in self._pages(result):
                result.pages += 1
                await self._apply(rows, result, seen_ids)
            result.seen = len(seen_ids)
            unseen = await self._find_unseen(seen_ids, started_at)
            await self._refuse_mass_removal(len(unseen), sync.allow_mass_removal)
            missing = await self._confirm_missing(unseen, result, seen_ids)
        except (Exception, asyncio.CancelledError) as error:
            await self._fail(sync.sync_id, result, error)
            raise
        await self._complete(sync.sync_id, result, missing)
        log.info("profiles.synced", seconds=round(monotonic() - start, 3), **asdict(result))
        return result

    async def _pages(self, result: SyncResult) -> AsyncIterator[dict[str, BrowserProfile]]:
        """Yield pages until an empty one, which must not come before the list's own total says so.

        The total is the last page's: profiles may come and go during the pass. Raises `GoLoginAPIException` for a list
        that breaks off.
        """
        page = rows_read = 0
        while True:
            page += 1
            answer = await self._client.list_profiles(page)
            if not answer.profiles and not answer.skipped:
                break
            rows_read += len(answer.profiles) + len(answer.skipped)
            if answer.skipped:
                names = answer.skipped[:_MAX_NAMED_ROWS]
                log.warning("profiles.rows_skipped", rows=names, count=len(answer.skipped))
                result.skipped += len(answer.skipped)
                result.skipped_rows += names[: _MAX_NAMED_ROWS - len(result.skipped_rows)]
            yield {row.id: row for row in answer.profiles}
        if answer.total is not None and rows_read < answer.total:
            raise GoLoginAPIException(
                "incomplete", f"the list broke off after {rows_read} of {answer.total} profiles"
            )

    async def _apply(
        self, rows: Mapping[str, BrowserProfile], result: SyncResult, seen_ids: set[int]
    ) -> None:
        """One read, and one write if anything is new or changed."""
        async with self._database.reading() as db:
            query = select(Profile).where(Profile.profile_id.in_(rows))
            stored = {profile.profile_id: profile for profile in await db.scalars(query)}
        values_by_id = {profile_id: self._values(row) for profile_id, row in rows.items()}
        changed = [
            profile_id
            for profile_id, values in values_by_id.items()
            if profile_id not in stored or _differs(stored[profile_id], values)
        ]
        ids = {profile_id: profile.id for profile_id, profile in stored.items()}
        written: set[str] = set()

        async def upsert(profile_ids: Sequence[str]) -> int:
            async with self._database.transaction() as db:
                upserted = await _upsert(db, [values_by_id[profile_id] for profile_id in profile_ids])
            ids.update(upserted)
            written.update(upserted)
            return len(upserted)

        await isolate_rows(changed, upsert, step="sync_profiles")
        seen_ids.update(ids.values())
        created = len(written - stored.keys())
        returned = sum(not stored[profile_id].is_active for profile_id in written & stored.keys())
        result.created += created
        result.returned += returned
        result.updated += len(written) - created - returned

    def _values(self, row: BrowserProfile) -> dict[str, Any]:
        metadata = row.model_dump(
            mode="json", include={"notes", "tags", "os", "browser_type", "can_be_running"}
        )
        owner = self._rule.find_owner(row.name, metadata)
        return {
            "profile_id": row.id,
            "profile_name": row.name,
            "account_id": owner.account_id,
            "api_app": owner.api_app,
            "metadata": metadata,
        }

    async def _find_unseen(self, seen_ids: set[int], pass_started_at: datetime) -> list[tuple[int, str]]:
        """(row id, profile id) of the active profiles that the pass did not meet."""
        unseen: list[tuple[int, str]] = []
        last = 0
        while True:
            query = (
                select(Profile.id, Profile.profile_id)
                .where(Profile.is_active, Profile.created_at < pass_started_at, Profile.id > last)
                .order_by(Profile.id)
                .limit(_PAGE_SIZE)
            )
            async with self._database.reading() as db:
                rows = (await db.execute(query)).all()
            if not rows:
                return unseen
            unseen += [(row_id, profile_id) for row_id, profile_id in rows if row_id not in seen_ids]
            last = rows[-1][0]

    async def _confirm_missing(
        self, unseen: list[tuple[int, str]], result: SyncResult, seen_ids: set[int]
    ) -> list[int]:
        """Return those that are gone indeed.

        A profile deleted during the pass moves all later ones up by one, and one of them from a page not yet read to
        one that was. So each is asked for by itself, or the list is read again, whichever costs fewer calls; from its
        end, because who moves up then moves towards the pages not yet read.
        """
        if len(unseen) <= max(result.pages, self._max_lookups):
            return [
                row_id for row_id, profile_id in unseen if not await self._client.profile_exists(profile_id)
            ]
        for page in range(result.pages, 0, -1):
            rows = (await self._client.list_profiles(page)).profiles
            await self._apply({row.id: row for row in rows}, SyncResult(), seen_ids)
        return [row_id for row_id, _ in unseen if row_id not in seen_ids]

    async def _refuse_mass_removal(self, missing: int, is_allowed: bool) -> None:
        async with self._database.reading() as db:
            active = await db.scalar(select(func.count()).where(Profile.is_active)) or 0
        if missing > max(_MAX_GONE, active * _MAX_GONE_SHARE) and not is_allowed:
            raise SyncRefusedException(missing, active)

    async def _begin(self) -> ProfileSync:
        async with self._database.transaction() as db:
            # The turn is ours, so whoever ran these has died.
            await db.execute(
                update(ProfileSync)
                .where(ProfileSync.status == SyncStatus.RUNNING)
                .values(
                    status=SyncStatus.FAILED,
                    completed_at=utc_now(),
                    error_code=ErrorCode.INTERRUPTED,
                    error_message="The process that ran it has ended",
                )
            )
            sync = await _find_or_add_sync(db, _PERIODIC)
            sync.status, sync.started_at = SyncStatus.RUNNING, utc_now()
        return sync

    async def _complete(self, sync_id: str, result: SyncResult, missing: list[int]) -> None:
        """Flags, counts and event in one transaction."""
        async with self._database.transaction() as db:
            is_running = (ProfileSync.sync_id == sync_id, ProfileSync.status == SyncStatus.RUNNING)
            kept = await db.execute(update(ProfileSync).where(*is_running).values(updated_at=utc_now()))
            if not affected_rows(kept):
                raise LeaseLostException  # another process has the turn, and has written this pass off
            for first in range(0, len(missing), _PAGE_SIZE):
                chunk = missing[first : first + _PAGE_SIZE]
                changed = await db.execute(
                    update(Profile).where(Profile.id.in_(chunk), Profile.is_active).values(is_active=False)
                )
                result.gone += affected_rows(changed)
            result.conflicts = await _count_conflicts(db)
            await _end(db, sync_id, SyncStatus.COMPLETED, result)
            recorder.record(db, EventType.PROFILES_SYNCED, sync_id=sync_id, **asdict(result))

    async def _fail(self, sync_id: str, result: SyncResult, error: BaseException) -> None:
        code, message = ErrorCode.INTERNAL_ERROR, "The pass was cut off; the next one repairs what is missing"
        if isinstance(error, AppException):
            code, message = error.error_code, error.message
        elif isinstance(error, asyncio.CancelledError):
            code = ErrorCode.INTERRUPTED
        async with self._database.transaction() as db:
            await _end(db, sync_id, SyncStatus.FAILED, result, error_code=code, error_message=message)
            recorder.record(db, EventType.PROFILES_SYNC_FAILED, sync_id=sync_id, error_code=code)


async def _find_or_add_sync(db: AsyncSession, requested_by: str) -> ProfileSync:
    """Return the pass that has waited longest, else a new one."""
    query = select(ProfileSync).where(ProfileSync.status == SyncStatus.PENDING).order_by(ProfileSync.id)
    sync: ProfileSync | None = await db.scalar(query.limit(1))
    if sync is None:
        sync = ProfileSync(
            sync_id=str(uuid.uuid4()), requested_by=requested_by, request_id=current_request_id()
        )
        db.add(sync)
    return sync


async def _end(db: AsyncSession, sync_id: str, status: SyncStatus, result: SyncResult, **error: str) -> None:
    counts = {name: getattr(result, name) for name in _COUNTS}
    await db.execute(
        update(ProfileSync)
        .where(ProfileSync.sync_id == sync_id, ProfileSync.status == SyncStatus.RUNNING)
        .values(status=status, completed_at=utc_now(), **counts, **error)
    )


def _differs(profile: Profile, values: Mapping[str, Any]) -> bool:
    stored = (profile.profile_name, profile.profile_metadata, profile.is_active)
    if stored != (values["profile_name"], values["metadata"], True):
        return True
    return not profile.is_linked and any(getattr(profile, name) != values[name] for name in _RULE_COLUMNS)


async def _upsert(db: AsyncSession, rows: list[dict[str, Any]]) -> dict[str, int]:
    """One statement for the page; row ids by profile id. A link made meanwhile by hand is kept."""
    now = utc_now()
    fixed = {"last_synced": now, "updated_at": now, "is_active": True}
    new = {"created_at": now, "in_use": False, "is_linked": False}
    insert = insert_or_update(db, Profile).values([{**row, **fixed, **new} for row in rows])
    incoming = insert.excluded
    update_set = {name: incoming[name] for name in ("profile_name", "metadata", *fixed)}
    for name in _RULE_COLUMNS:
        column = Profile.__mapper__.columns[name]
        update_set[column.name] = case((Profile.is_linked, column), else_=incoming[column.name])
    statement = insert.on_conflict_do_update(index_elements=[Profile.profile_id], set_=update_set)
    result = await db.execute(statement.returning(Profile.profile_id, Profile.id))
    return dict(result.all())


async def _count_conflicts(db: AsyncSession) -> int:
    """Accounts with several profiles by the rule and no link to tell which."""
    linked = aliased(Profile)
    has_link = select(linked.id).where(
        linked.is_linked,
        linked.is_active,
        linked.account_id == Profile.account_id,
        linked.api_app.is_(None) | (linked.api_app == Profile.api_app),
    )
    accounts = (
        select(Profile.account_id)
        .where(Profile.is_active, ~Profile.is_linked, Profile.account_id.is_not(None), ~has_link.exists())
        .group_by(Profile.account_id, Profile.api_app)
        .having(func.count() > 1)
    )
    names = list(await db.scalars(accounts.order_by(Profile.account_id)))
    if names:
        recorder.record(db, EventType.PROFILES_CONFLICT, accounts=names[:100], count=len(names))
        log.warning("profiles.conflict", accounts=names[:10], count=len(names))
    return len(names)
