"""GoLogin profiles: which one belongs to an account, running it at most once and never too many, and the sync."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Final, cast
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Table, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.clients.devtools import DevToolsClient
from app.clients.gologin import GoLoginClient, GoLoginProfile
from app.database import Database
from app.models import Profile, SessionStage, utc_now
from app.services import event_service
from app.services.interfaces import RunningBrowser, StageReporter
from app.services.leases import kept_alive, lease_expiry, new_lease_token
from app.utils.exceptions import (
    ConcurrentProfileLimitException,
    GoLoginAPIException,
    ProfileInUseException,
    ProfileNotFoundException,
    SeleniumConnectionException,
)
from app.utils.logger import get_logger
from app.utils.tasks import uninterrupted

_HANDLE: Final = re.compile(r"@?([A-Za-z0-9_]{1,15})")
_CLOSE_TIMEOUT: Final = 5.0
"""Seconds for a browser to save its profile and go; it takes 0.1 unless it hangs."""

_SYNCED_COLUMNS: Final = (
    "profile_name",
    "twitter_username",
    "metadata",
    "last_synced",
    "is_active",
    "updated_at",
)

log = get_logger(__name__)


@dataclass(frozen=True)
class SyncResult:
    pages: int
    seen: int
    gone: int
    seconds: float


@dataclass(frozen=True)
class ProfileRunLimits:
    max_concurrent: int
    """Profiles that may run on this machine at once."""
    start_timeout: float
    """Seconds for GoLogin to start a profile; its own starts take 5-60."""
    lease_seconds: float


class GoLoginService:
    """`owner`: this process's name in the leases."""

    def __init__(
        self,
        *,
        database: Database,
        client: GoLoginClient,
        devtools: DevToolsClient,
        limits: ProfileRunLimits,
        owner: str,
    ) -> None:
        self._database = database
        self._client = client
        self._devtools = devtools
        self._limits = limits
        self._owner = owner
        self._slots = asyncio.Semaphore(limits.max_concurrent)
        self._running: set[str] = set()

    @property
    def running_profiles(self) -> int:
        """Slots in use on this machine."""
        return len(self._running)

    @property
    def max_concurrent_profiles(self) -> int:
        return self._limits.max_concurrent

    async def get_profile_for_account(self, session: AsyncSession, account_id: str, api_app: str) -> Profile:
        """The active profile of the account, one made for the app first. Raises `ProfileNotFoundException`."""
        query = (
            select(Profile)
            .where(Profile.twitter_username == account_id, Profile.is_active)
            .where(or_(Profile.api_app == api_app, Profile.api_app.is_(None)))
            .order_by(Profile.api_app.is_(None), Profile.id)
            .limit(1)
        )
        profile = await session.scalar(query)
        if profile is None:
            raise ProfileNotFoundException(account_id)
        return profile

    @asynccontextmanager
    async def running_profile(
        self, profile_id: str, *, report: StageReporter, wait: bool = True
    ) -> AsyncIterator[RunningBrowser]:
        """The only way to a browser: a slot, the profile's lease, the start; and on any exit all three undone.

        Waits for a slot (`wait=False`: raises `ConcurrentProfileLimitException` instead). Raises
        `ProfileInUseException`, `GoLoginAPIException`, `SeleniumConnectionException`.
        """
        if self._slots.locked():
            if not wait:
                raise ConcurrentProfileLimitException(self._limits.max_concurrent)
            report(SessionStage.WAITING_FOR_SLOT)
        async with self._slots, self._leased(profile_id):
            report(SessionStage.PROFILE_STARTING)
            browser = await self.start_profile(profile_id)
            try:
                yield browser
            finally:
                await uninterrupted(self.stop_profile(browser))

    async def start_profile(self, profile_id: str) -> RunningBrowser:
        """Start the profile and check that its browser answers; a start that fails or hangs is stopped again."""
        try:
            ws_url = await self._client.start_profile(profile_id, timeout=self._limits.start_timeout)
            return await self._verified(profile_id, ws_url)
        except BaseException:
            # It may have started all the same, or start later: its answer is what failed.
            await uninterrupted(self._stop_quietly(profile_id))
            raise

    async def stop_profile(self, browser: RunningBrowser) -> None:
        """Let the browser close by itself, so that it keeps its cookies, then tell GoLogin."""
        if not await self.close_browser(browser):
            log.warning("profile.browser_did_not_close", profile_id=browser.profile_id)
        await self._stop_quietly(browser.profile_id)

    async def close_browser(self, browser: RunningBrowser) -> bool:
        """Whether the browser has gone within 5 seconds; whoever drives it sees it gone at once."""
        return await self._devtools.close_browser(browser.ws_url, timeout=_CLOSE_TIMEOUT)

    async def sync_profiles(self) -> SyncResult:
        """Bring the profiles table up to date with GoLogin's list, page by page.

        Profiles that are gone become inactive only after a complete pass. Raises `GoLoginAPIException`.
        """
        began, started_at = monotonic(), utc_now()
        pages = seen = 0
        async for rows in self._pages():
            async with self._database.transaction() as session:
                await _upsert(session, rows, started_at)
            pages, seen = pages + 1, seen + len(rows)
        async with self._database.transaction() as session:
            gone = await _deactivate_unseen(session, started_at)
            event_service.record(session, "profiles.synced", pages=pages, seen=seen, gone=gone)
        result = SyncResult(pages=pages, seen=seen, gone=gone, seconds=round(monotonic() - began, 3))
        log.info("profiles.synced", pages=pages, seen=seen, gone=gone, seconds=result.seconds)
        return result

    async def _pages(self) -> AsyncIterator[list[GoLoginProfile]]:
        """Until an empty page: the list's own total may change during the pass."""
        page = 1
        while (answer := await self._client.list_profiles(page)).profiles:
            yield answer.profiles
            page += 1

    async def _verified(self, profile_id: str, ws_url: str) -> RunningBrowser:
        """The browser on the port must be the one that GoLogin says it started."""
        address = urlsplit(ws_url).netloc
        version = await self._devtools.version(address)
        if urlsplit(version.ws_url).path != urlsplit(ws_url).path:
            raise SeleniumConnectionException(address.rpartition(":")[2])
        return RunningBrowser(profile_id=profile_id, address=address, ws_url=ws_url, major=version.major)

    async def _stop_quietly(self, profile_id: str) -> None:
        try:
            await self._client.stop_profile(profile_id)
        except GoLoginAPIException as error:
            log.error("profile.stop_failed", profile_id=profile_id, error=error.message)

    @asynccontextmanager
    async def _leased(self, profile_id: str) -> AsyncIterator[None]:
        """Hold the profile's lease: taken in one statement, kept by a heartbeat, given back at the end."""
        token = new_lease_token()
        if not await self._take_lease(profile_id, token):
            raise ProfileInUseException(profile_id)
        self._running.add(profile_id)
        try:
            async with kept_alive(
                lambda: self._renew_lease(profile_id, token), seconds=self._limits.lease_seconds
            ):
                yield
        finally:
            self._running.discard(profile_id)
            await uninterrupted(self._give_lease_back(profile_id, token))

    async def _take_lease(self, profile_id: str, token: str) -> bool:
        free = or_(Profile.in_use.is_(False), Profile.lease_expires_at < utc_now())
        return await self._set_lease(
            profile_id,
            free,
            in_use=True,
            lease_token=token,
            lease_owner=self._owner,
            lease_expires_at=lease_expiry(self._limits.lease_seconds),
        )

    async def _renew_lease(self, profile_id: str, token: str) -> bool:
        held = Profile.lease_token == token
        return await self._set_lease(
            profile_id, held, lease_expires_at=lease_expiry(self._limits.lease_seconds)
        )

    async def _give_lease_back(self, profile_id: str, token: str) -> None:
        cleared = {"in_use": False, "lease_token": None, "lease_owner": None, "lease_expires_at": None}
        try:
            await self._set_lease(profile_id, Profile.lease_token == token, **cleared)
        except Exception:
            # It expires by itself; the browser has stopped already.
            log.exception("profile.lease_not_given_back", profile_id=profile_id)

    async def _set_lease(self, profile_id: str, condition: ColumnElement[bool], **values: Any) -> bool:
        """One guarded statement; whether it changed the row."""
        async with self._database.transaction() as session:
            result = await session.execute(
                update(Profile).where(Profile.profile_id == profile_id, condition).values(**values)
            )
        return bool(result.rowcount)  # type: ignore[attr-defined]


def account_of(name: str) -> str | None:
    """The handle that a profile's name is, lower case and without ``@``; None when the name is no handle."""
    match = _HANDLE.fullmatch(name)
    return match[1].lower() if match else None


async def _upsert(session: AsyncSession, rows: list[GoLoginProfile], synced_at: datetime) -> None:
    """One statement for the page."""
    table = cast(Table, Profile.__table__)
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    statement = insert(table)
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=[table.c.profile_id],
            set_={name: statement.excluded[name] for name in _SYNCED_COLUMNS},
        ),
        [_values(row, synced_at) for row in {row.id: row for row in rows}.values()],
    )


def _values(row: GoLoginProfile, synced_at: datetime) -> dict[str, Any]:
    return {
        "profile_id": row.id,
        "profile_name": row.name,
        "twitter_username": account_of(row.name),
        "metadata": row.model_dump(include={"notes", "os", "browser_type", "can_be_running"}),
        "last_synced": synced_at,
        "is_active": True,
        "in_use": False,
        "created_at": synced_at,
        "updated_at": synced_at,
    }


async def _deactivate_unseen(session: AsyncSession, pass_started_at: datetime) -> int:
    result = await session.execute(
        update(Profile)
        .where(Profile.is_active, func.coalesce(Profile.last_synced, pass_started_at) < pass_started_at)
        .values(is_active=False)
    )
    return int(result.rowcount)  # type: ignore[attr-defined]
