"""Accounts: their states and problems, actions on many of them, and the fleet in numbers."""

from dataclasses import dataclass

from app.config import Settings
from app.context.fleet import Fleet
from app.context.sessions import Sessions
from app.context.tokens import Tokens
from app.database import Database
from app.services.batches.account_actions import AccountActions
from app.services.fleet.overview import FleetOverview
from app.services.fleet.reports import FleetReports
from app.services.tokens.account_problems import RepairRule
from app.services.tokens.account_views import AccountViews


@dataclass(frozen=True)
class Accounts:
    views: AccountViews
    actions: AccountActions
    reports: FleetReports
    overview: FleetOverview


def build_accounts(
    settings: Settings, database: Database, fleet: Fleet, tokens: Tokens, sessions: Sessions
) -> Accounts:
    repaired = settings.oauth_apps if settings.repair_apps is None else settings.repair_apps
    views = AccountViews(
        directory=fleet.directory,
        apps=tokens.apps,
        rule=RepairRule(apps=repaired, a_day=settings.repair_per_day),
        # Refreshes begin at the margin: half of it later one is late.
        expiring_within=settings.refresh_margin / 2,
    )
    actions = AccountActions(views=views, batches=sessions.batches, max_accounts=settings.max_batch_rows)
    reports = FleetReports(
        database=database, views=views, apps=tokens.apps, max_age=settings.monitor_interval / 2
    )
    overview = FleetOverview(gate=fleet.gate, apps=tokens.apps, api_apps=settings.oauth_apps)
    return Accounts(views, actions, reports, overview)
