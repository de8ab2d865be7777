"""Keeps the profiles table like GoLogin's list."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.models import ProfileSync
from app.services.gologin_service import GoLoginService
from app.services.operations.worker_runs import PeriodicRuns
from app.services.profiles.sync import ProfileSyncService
from app.services.workers.base import PeriodicWorker


class ProfileSyncWorker(PeriodicWorker):
    """Every 15 minutes by default, and when asked; a minute after an error."""

    name = "sync"
    is_maintenance = False

    def __init__(
        self,
        *,
        gologin: GoLoginService,
        syncs: ProfileSyncService,
        runs: PeriodicRuns,
        interval: float,
        retry_interval: float,
    ) -> None:
        super().__init__(runs=runs, interval=interval, retry_interval=retry_interval)
        self._gologin = gologin
        self._syncs = syncs

    async def request(
        self, db: AsyncSession, *, requested_by: str, allow_mass_removal: bool = False
    ) -> ProfileSync:
        """Ask for a pass in the caller's transaction; it starts once that has committed."""
        sync = await self._syncs.request(db, requested_by=requested_by, allow_mass_removal=allow_mass_removal)
        await self.request_run(db)
        return sync

    async def _work(self) -> None:
        await self._gologin.sync_profiles()
