"""Overview of the fleet: the monitor's last reports, and the state that is cheap to read at any time."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Alarm, AppState, FleetReport, Profile, WebhookEndpoint, WebhookStatus, WorkerRun
from app.services.fleet.reports import FLEET, MACHINE
from app.services.oauth.app_state import AppStates
from app.services.profiles.request_budget import BudgetUsage, RequestBudget


@dataclass(frozen=True)
class Overview:
    fleet: FleetReport | None
    """Counts of the fleet; None: no monitor has counted yet."""
    machines: Mapping[str, FleetReport]
    """Reports of machines, by name."""
    running_profiles: Mapping[str, int]
    """Profile leases by machine, those that have expired included: their browsers may still run."""
    gologin: BudgetUsage
    apps: Mapping[str, AppState | None]
    """Configured apps; None: neither paused nor limited."""
    webhooks: Sequence[WebhookEndpoint]
    """Webhooks that are paused, or whose last delivery failed."""
    alarms: Sequence[Alarm]
    runs: Sequence[WorkerRun]


class FleetOverview:
    """`api_apps`: the apps of the settings. Each table that is read here has few rows, or few that an index names."""

    def __init__(self, *, gate: RequestBudget, apps: AppStates, api_apps: Collection[str]) -> None:
        self._gate = gate
        self._apps = apps
        self._api_apps = api_apps

    async def read(self, db: AsyncSession) -> Overview:
        """Seven statements, however large the fleet is."""
        reports = {row.name: row for row in await db.scalars(select(FleetReport))}
        stopped = {row.api_app: row for row in await self._apps.list_stopped(db)}
        owners = await db.scalars(select(Profile.lease_owner).where(Profile.in_use))
        is_failing = or_(
            WebhookEndpoint.failing_since.is_not(None), WebhookEndpoint.status == WebhookStatus.PAUSED
        )
        webhooks = select(WebhookEndpoint).where(WebhookEndpoint.status != WebhookStatus.DELETED, is_failing)
        return Overview(
            fleet=reports.get(FLEET),
            machines={
                name.removeprefix(MACHINE): row
                for name, row in sorted(reports.items())
                if name.startswith(MACHINE)
            },
            running_profiles=Counter((owner or "").partition(":")[0] for owner in owners),
            gologin=await self._gate.usage(db),
            apps={api_app: stopped.get(api_app) for api_app in sorted({*self._api_apps, *stopped})},
            webhooks=(await db.scalars(webhooks.order_by(WebhookEndpoint.id))).all(),
            alarms=(await db.scalars(select(Alarm).where(Alarm.is_active).order_by(Alarm.name))).all(),
            runs=(await db.scalars(select(WorkerRun).order_by(WorkerRun.name))).all(),
        )
