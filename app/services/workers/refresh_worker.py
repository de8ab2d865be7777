"""Keeps every token fresh before anybody asks, and tries again what the provider did not revoke."""

import asyncio
from time import monotonic
from typing import Final

from app.services.tokens.refresh_leases import RefreshLeases
from app.services.tokens.refresh_results import RefreshClaim
from app.services.tokens.refresher import TokenRefresher
from app.services.tokens.service import CredentialService
from app.services.workers.base import Worker
from app.utils.logger import get_logger
from app.utils.tasks import run_until, wait_for_event

_POLL_INTERVAL: Final = 1.0
_REVOKE_BATCH: Final = 20
_REVOKE_INTERVAL: Final = 5.0
"""Seconds between two looks for revocations, after one that found none."""

log = get_logger(__name__)


class TokenRefreshWorker(Worker):
    """Each process refreshes `concurrency` accounts at once; the leases share the work between processes."""

    name = "refresh"

    def __init__(
        self,
        *,
        leases: RefreshLeases,
        refresher: TokenRefresher,
        credentials: CredentialService,
        concurrency: int,
    ) -> None:
        super().__init__()
        self._leases = leases
        self._refresher = refresher
        self._credentials = credentials
        self._concurrency = concurrency
        self.in_flight: set[asyncio.Task[None]] = set()
        """Refreshes that have begun and not ended."""
        self._revoke_at = 0.0
        """Time (`monotonic`) of the next look for revocations."""

    def expect_revocations(self) -> None:
        """Look for revocations that are due at the next turn."""
        self._revoke_at = 0.0

    async def run(self) -> None:
        await self._run_guarded(
            self._pick_up, step="pick_up"
        )  # first: else what was saved there is taken for ambiguous
        housekeeping = asyncio.create_task(self._keep_house())
        try:
            while not self._stop.is_set():
                if not await self._run_guarded(self.run_once):
                    await self._pause(_POLL_INTERVAL)
            await self.finish_started()  # each has the call's deadline
            # It sees the stop, too; cancelled in the middle of a query it would log an error.
            await housekeeping
        finally:
            housekeeping.cancel()
            await asyncio.gather(housekeeping, return_exceptions=True)

    async def run_once(self) -> int:
        """Take as many as are due and as there is room for; how many were taken. They end by themselves."""
        await run_until(self._stop, self._wait_for_room())
        if self._stop.is_set():
            return 0
        due = await self._leases.take_due(self._concurrency - len(self.in_flight))
        for claim in due:
            task = asyncio.create_task(self._refresh(claim))
            self.in_flight.add(task)
            task.add_done_callback(self._note_end)
        return len(due)

    async def finish_started(self) -> None:
        if self.in_flight:
            await asyncio.wait(self.in_flight)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self.in_flight.discard(task)
        self.wake()  # an app whose budget was all in flight may have room again

    async def _wait_for_room(self) -> None:
        while len(self.in_flight) >= self._concurrency:
            await asyncio.wait(self.in_flight, return_when=asyncio.FIRST_COMPLETED)

    async def _refresh(self, claim: RefreshClaim) -> None:
        try:
            await self._refresher.finish(claim)
        except Exception as error:
            self._note_failure(error, step="refresh")
        else:
            self._note_success(step="refresh")

    async def _keep_house(self) -> None:
        """Revoke and tidy up, beside the refreshes, which do not wait for a provider that does not revoke."""
        while not await wait_for_event(self._stop, _POLL_INTERVAL):
            await self._run_guarded(self._pick_up, step="pick_up")
            await self._run_guarded(self._revoke, step="revoke")

    async def _revoke(self) -> int:
        if monotonic() < self._revoke_at:
            return 0
        self._revoke_at = monotonic() + _REVOKE_INTERVAL
        count: int | None = 0
        try:
            count = await self._credentials.revoke_due(_REVOKE_BATCH)
        finally:
            if count is not None:  # there may be more, or it failed
                self.expect_revocations()
        return count or 0

    async def _pick_up(self) -> int:
        if count := await self._refresher.pick_up_spilled():
            log.warning("credential.spilled_picked_up", count=count)
        return count
