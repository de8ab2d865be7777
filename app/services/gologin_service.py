"""GoLogin profiles: which one belongs to an account, and running it at most once and never too many."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from sqlalchemy import ScalarSelect
from sqlalchemy.ext.asyncio import AsyncSession

from app.clients.browsers.devtools import DevToolsClient
from app.clients.browsers.profile_browser import ProfileBrowserClient
from app.models import Profile, SessionStage
from app.services.interfaces import RunningBrowser, StageReporter
from app.services.profiles.directory import ProfileDirectory
from app.services.profiles.leases import OrphanedProfile, ProfileLeases
from app.services.profiles.start_gate import StartGate
from app.services.profiles.sync import ProfileSyncService, SyncResult
from app.services.shared.isolation import for_each
from app.utils.exceptions import (
    UNREACHABLE,
    ConcurrentProfileLimitException,
    GoLoginAPIException,
    LeaseLostException,
    SeleniumConnectionException,
)
from app.utils.logger import get_logger
from app.utils.tasks import run_shielded

_CLOSE_TIMEOUT: Final = 5.0
"""Seconds for a browser to save its profile and go; it takes 0.1 unless it hangs."""
_STOP_ATTEMPTS: Final = 2

log = get_logger(__name__)


@dataclass(frozen=True)
class ProfileRunLimits:
    max_concurrent: int
    """Profiles that may run on this machine at once."""
    start_timeout: float
    """Seconds for GoLogin to start a profile; its own starts take 5-60."""


class GoLoginService:
    """The one way to a profile's browser, over the profile browser's client, the leases and the directory.

    It serves every profile browser whose local API a client speaks; GoLogin was the first.
    """

    def __init__(
        self,
        *,
        client: ProfileBrowserClient,
        devtools: DevToolsClient,
        leases: ProfileLeases,
        directory: ProfileDirectory,
        sync: ProfileSyncService,
        starts: StartGate,
        limits: ProfileRunLimits,
    ) -> None:
        self._client = client
        self._devtools = devtools
        self._leases = leases
        self._directory = directory
        self._sync = sync
        self.starts = starts
        self.max_concurrent_profiles = limits.max_concurrent
        self._start_timeout = limits.start_timeout
        self._slots = asyncio.Semaphore(limits.max_concurrent)
        self._running: set[str] = set()

    @property
    def running_profiles(self) -> int:
        """Slots in use on this machine."""
        return len(self._running)

    @property
    def is_full(self) -> bool:
        """True when every slot of this machine is taken."""
        return self._slots.locked()

    async def get_profile_for_account(self, db: AsyncSession, account_id: str, api_app: str) -> Profile:
        """Raises `ProfileNotFoundException`, `ProfileConflictException`, `ProfileQuarantinedException`."""
        return await self._directory.get_for_account(db, account_id, api_app)

    async def check_free(self, db: AsyncSession, profile_id: "str | ScalarSelect[str]") -> None:
        """Lock the profile. Raises what `ProfileLeases.check_free` does that does not wait."""
        await self._leases.check_free(db, profile_id, waits=False)

    async def count_leases(self) -> int:
        """Profile leases that this process holds; as many as it has slots in use."""
        return await self._leases.count_held()

    async def check_token(self) -> None:
        """Raises `GoLoginAPIException` unless the API token of the settings works."""
        await self._client.check_token()

    async def sync_profiles(self) -> SyncResult:
        """One pass over GoLogin's list; see `ProfileSyncService.run`. The sync worker calls it in its turn."""
        return await self._sync.run()

    @asynccontextmanager
    async def running_profile(
        self,
        profile_id: str,
        *,
        report: StageReporter,
        wait: bool = True,
        start_timeout: float | None = None,
    ) -> AsyncIterator[RunningBrowser]:
        """The only way to a browser: a slot, the profile's lease, the start; and on any exit all three undone.

        `start_timeout`: seconds, without the wait for its turn to start; the setting's own is the longest.
        Waits for a slot (`wait=False`: raises `ConcurrentProfileLimitException` instead). Raises
        `ProfileInUseException`, `ProfileQuarantinedException`, `GoLoginAPIException`, `SeleniumConnectionException`.
        """
        is_waiting = self.is_full

        def report_wait() -> None:
            if not is_waiting:  # else it is reported already
                report(SessionStage.WAITING_FOR_SLOT)

        if is_waiting:
            if not wait:
                raise ConcurrentProfileLimitException(self.max_concurrent_profiles)
            report(SessionStage.WAITING_FOR_SLOT)
        # The lease comes before the turn to start: what waits counts as running to the fleet, so that no process
        # claims sessions for which the fleet has no place.
        async with self._slots, self._leases.hold(profile_id) as token:
            self._running.add(profile_id)
            try:
                async with self.starts.enter(report_wait):
                    report(SessionStage.PROFILE_STARTING)
                    browser = await self.start_profile(profile_id, token, timeout=start_timeout)
                try:
                    yield browser
                finally:
                    await run_shielded(self.stop_profile(browser, token))
            finally:
                self._running.discard(profile_id)

    async def start_profile(
        self, profile_id: str, token: str, *, timeout: float | None = None
    ) -> RunningBrowser:
        """Start the profile under its lease and check that its browser answers; else it is stopped again."""
        ceiling = self._start_timeout
        ws_url: str | None = None
        try:
            ws_url = await self._client.start_profile(profile_id, timeout=min(ceiling, timeout or ceiling))
            if not await self._leases.note_browser(profile_id, token, ws_url):
                raise LeaseLostException
            # The browser on the port must be the one that GoLogin says it started.
            address = urlsplit(ws_url).netloc
            version = await self._devtools.version(address)
            if urlsplit(version.ws_url).path != urlsplit(ws_url).path:
                raise SeleniumConnectionException(address.rpartition(":")[2])
        except BaseException as error:
            # It may have started all the same, or start later: its answer is what failed.
            await run_shielded(self._undo_start(profile_id, token, ws_url, error))
            raise
        return RunningBrowser(profile_id=profile_id, address=address, ws_url=ws_url, major=version.major)

    async def stop_profile(self, browser: RunningBrowser, token: str) -> None:
        """Let the browser close by itself, so that it keeps its cookies, then tell GoLogin; twice if need be.

        A profile whose browser lives on all the same is quarantined.
        """
        is_gone = await self.close_browser(browser)
        if (error := await self._stop(browser.profile_id)) is not None and not is_gone:
            reason = f"Its browser on {browser.address} did not close, and it could not be stopped: {error.message}"
            await self._leases.quarantine(browser.profile_id, token, reason)

    async def close_browser(self, browser: RunningBrowser) -> bool:
        """Close the browser and return whether it has gone within 5 seconds; its driver sees it gone at once."""
        if await self._devtools.close_browser(browser.ws_url, timeout=_CLOSE_TIMEOUT):
            return True
        log.warning("profile.browser_did_not_close", profile_id=browser.profile_id)
        return False

    async def stop_orphans(self) -> int:
        """Stop the browsers of processes that have died, and free their profiles. Returns how many."""
        by_id = {left_over.profile_id: left_over for left_over in await self._leases.take_over_expired()}

        async def stop(profile_id: str) -> int:
            await run_shielded(self._stop_left_over(by_id[profile_id]))
            return 1

        await asyncio.gather(*(for_each([profile_id], stop, step="stop_left_over") for profile_id in by_id))
        return len(by_id)

    async def _stop_left_over(self, left_over: OrphanedProfile) -> None:
        log.warning("profile.left_over", profile_id=left_over.profile_id)
        async with self._leases.keep(left_over):
            is_gone = left_over.ws_url is not None and await self._devtools.close_browser(
                left_over.ws_url, timeout=_CLOSE_TIMEOUT
            )
            if (error := await self._stop(left_over.profile_id)) is not None and not is_gone:
                reason = f"Its process has died, and it could not be stopped: {error.message}"
                await self._leases.quarantine(left_over.profile_id, left_over.lease_token, reason)

    async def _undo_start(
        self, profile_id: str, token: str, ws_url: str | None, error: BaseException
    ) -> None:
        status = error.status if isinstance(error, GoLoginAPIException) else None
        if status == UNREACHABLE:  # it was never asked
            return
        if ws_url is not None:
            try:
                await self._devtools.close_browser(ws_url, timeout=_CLOSE_TIMEOUT)
            except Exception:  # the address may be anything; the stop must come all the same
                log.exception("profile.browser_did_not_close", profile_id=profile_id)
        # Nobody has seen the browser on that address: that nothing is there does not tell that it has gone.
        if (failure := await self._stop(profile_id)) is not None:
            reason = f"Its start failed, and it could not be stopped: {failure.message}"
            await self._leases.quarantine(profile_id, token, reason)
        elif ws_url is None and (status == "timeout" or isinstance(error, asyncio.CancelledError)):
            # Nobody waits for the start's answer any more, so GoLogin may go on with it behind our stop.
            self._leases.expect_late_browser(token)

    async def _stop(self, profile_id: str) -> GoLoginAPIException | None:
        """Tell GoLogin, and again if that failed; the last failure."""
        failure: GoLoginAPIException | None = None
        for _ in range(_STOP_ATTEMPTS):
            try:
                await self._client.stop_profile(profile_id)
            except GoLoginAPIException as error:
                failure = error
                log.warning("profile.stop_failed", profile_id=profile_id, error=error.message)
            except Exception:
                failure = GoLoginAPIException("failed", "it could not be asked")
                log.exception("profile.stop_failed", profile_id=profile_id)
            else:
                return None
        return failure
