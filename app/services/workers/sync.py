"""Keeps the profiles table like GoLogin's list."""

from app.services.gologin_service import GoLoginService
from app.services.workers.base import PeriodicWorker


class ProfileSyncWorker(PeriodicWorker):
    """Every 15 minutes by default; a minute after an error."""

    name = "sync"

    def __init__(self, *, gologin: GoLoginService, interval: float, retry_interval: float) -> None:
        super().__init__(interval=interval, retry_interval=retry_interval)
        self._gologin = gologin

    async def run_once(self) -> None:
        await self._gologin.sync_profiles()
