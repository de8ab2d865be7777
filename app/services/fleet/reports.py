"""Reports of the monitor: counts of the whole fleet, and the state of each machine, one row each."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, insert_or_update
from app.models import FleetReport, utc_now
from app.services.oauth.app_state import AppStates
from app.services.operations.counts import count_sessions, count_tokens
from app.services.tokens.account_states import count_accounts
from app.services.tokens.account_views import AccountViews

FLEET: Final = "fleet"
MACHINE: Final = "machine:"
_KEPT: Final = timedelta(days=1)
"""Time for which the report of a machine that is gone is shown."""


class FleetReports:
    """`max_age`: seconds for which the counts of another machine's monitor are good enough."""

    def __init__(self, *, database: Database, views: AccountViews, apps: AppStates, max_age: float) -> None:
        self._database = database
        self._views = views
        self._apps = apps
        self._max_age = timedelta(seconds=max_age)

    async def store_machine(self, machine: str, data: dict[str, Any]) -> None:
        """Replace the report of a machine, and forget machines that are gone."""
        async with self._database.transaction() as db:
            await _store(db, f"{MACHINE}{machine}", data)
            is_gone = FleetReport.name.startswith(MACHINE) & (FleetReport.counted_at < utc_now() - _KEPT)
            await db.execute(delete(FleetReport).where(is_gone))

    async def store_fleet(self) -> bool:
        """Count the fleet and replace its report; False when another machine has just done so."""
        now = utc_now()
        async with self._database.reading() as db:
            query = select(FleetReport.counted_at).where(FleetReport.name == FLEET)
            counted_at = await db.scalar(query)
            if counted_at is not None and abs(now - counted_at) < self._max_age:
                return False
            paused = {row.api_app for row in await self._apps.list_paused(db)}
            accounts = await count_accounts(db, self._views.horizon(now), paused_apps=paused)
            sessions, tokens = await count_sessions(db), await count_tokens(db)
        data = {
            "accounts": [asdict(each) for each in accounts],
            "sessions": asdict(sessions),
            "tokens": asdict(tokens),
        }
        async with self._database.transaction() as db:
            await _store(db, FLEET, data)
        return True


async def _store(db: AsyncSession, name: str, data: dict[str, Any]) -> None:
    values = {"counted_at": utc_now(), "data": data}
    row = insert_or_update(db, FleetReport).values(name=name, **values)
    await db.execute(row.on_conflict_do_update(index_elements=[FleetReport.name], set_=values))
