"""GoLogin: the profiles, their browsers, and who may run one."""

import os
from dataclasses import dataclass

import httpx

from app.clients.browsers.adspower import AdsPowerClient
from app.clients.browsers.devtools import DevToolsClient
from app.clients.browsers.gologin import GoLoginClient
from app.clients.browsers.profile_browser import ProfileBrowserClient
from app.config import Settings
from app.database import Database
from app.services.gologin_service import GoLoginService, ProfileRunLimits
from app.services.profiles.account_rule import AccountRule
from app.services.profiles.directory import ProfileDirectory
from app.services.profiles.leases import ProfileLeases
from app.services.profiles.request_budget import RequestBudget
from app.services.profiles.start_gate import StartGate
from app.services.profiles.sync import ProfileSyncService
from app.utils.loop_lag import LoopLag


@dataclass(frozen=True)
class Fleet:
    gate: RequestBudget
    client: ProfileBrowserClient
    leases: ProfileLeases
    directory: ProfileDirectory
    syncs: ProfileSyncService
    gologin: GoLoginService


def build_fleet(
    settings: Settings, database: Database, http: httpx.AsyncClient, loop_lag: LoopLag, owner: str
) -> Fleet:
    gate = RequestBudget(database=database, budget=settings.gologin_requests_per_minute)
    rule = AccountRule(source=settings.profile_rule, pattern=settings.profile_rule_pattern)
    directory = ProfileDirectory(rule=rule)
    client = _profile_browser(settings, http, gate)
    syncs = ProfileSyncService(database=database, client=client, rule=rule)
    leases = ProfileLeases(
        database=database,
        machine=settings.machine_name,
        owner=owner,
        lease_seconds=settings.lease_seconds,
        fleet_limit=settings.fleet_max_running_profiles,
        foreign_grace=settings.foreign_lease_grace,
        start_grace=settings.profile_start_timeout,
    )
    gologin = GoLoginService(
        client=client,
        devtools=DevToolsClient(http=http),
        leases=leases,
        directory=directory,
        sync=syncs,
        starts=StartGate(
            ceiling=settings.profile_starts_at_once or (os.cpu_count() or 1) + 1, lag=loop_lag.recent
        ),
        limits=ProfileRunLimits(
            max_concurrent=settings.max_concurrent_profiles, start_timeout=settings.profile_start_timeout
        ),
    )
    return Fleet(gate, client, leases, directory, syncs, gologin)


def _profile_browser(
    settings: Settings, http: httpx.AsyncClient, gate: RequestBudget
) -> ProfileBrowserClient:
    """Another kind of profile browser is one more client class and one more line here."""
    if settings.profile_browser == "adspower":
        return AdsPowerClient(
            http=http,
            base_url=settings.adspower_url,
            api_timeout=settings.gologin_api_timeout,
            stop_timeout=settings.profile_stop_timeout,
            browser_hosts=settings.browser_hosts,
        )
    return GoLoginClient(
        http=http,
        gate=gate,
        api_url=settings.gologin_api_url,
        api_token=settings.gologin_api_token.get_secret_value(),
        local_url=settings.gologin_local_url,
        api_timeout=settings.gologin_api_timeout,
        stop_timeout=settings.profile_stop_timeout,
        browser_hosts=settings.browser_hosts,
    )
