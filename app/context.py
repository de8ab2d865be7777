"""The one place where process-wide objects are built and closed; the app, the CLI and the tests open the same."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import httpx

from app.clients.adspower import AdsPowerClient
from app.clients.connections import StackedTransport
from app.clients.devtools import DevToolsClient
from app.clients.gologin import GoLoginClient
from app.clients.oauth_provider import OAuthProviderClient
from app.clients.profile_browser import ProfileBrowserClient
from app.clients.webhooks import WebhookClient, new_transport
from app.config import Environment, Settings
from app.database import Database
from app.models import ConsentMode
from app.services.account_rule import AccountRule
from app.services.alarm_service import AlarmService
from app.services.app_states import AppStates
from app.services.authorization_service import AuthorizationService, OrderLimits
from app.services.automation import BrowserController, ProfileAutomator
from app.services.batch_pacing import BatchPacing
from app.services.batch_service import BatchLimits, BatchService
from app.services.call_budgets import CallBudgets
from app.services.chromedriver import ChromeDrivers
from app.services.cloud_gate import CloudGate
from app.services.credential_service import CredentialService
from app.services.credential_vault import CredentialVault
from app.services.event_exports import EventExports, ExportLimits
from app.services.event_service import RECORDED
from app.services.event_streams import EventStreams, StreamLimits
from app.services.event_tail import EventTail, check_order
from app.services.gologin_service import GoLoginService, ProfileRunLimits
from app.services.interfaces import BrowserTimeouts
from app.services.job_queue import JobQueue
from app.services.key_service import KeyService
from app.services.oauth_service import OAuthService
from app.services.profile_directory import ProfileDirectory
from app.services.profile_leases import ProfileLeases
from app.services.profile_sync import ProfileSyncService
from app.services.provider_file import load_providers
from app.services.refresh_leases import RefreshLeases, RefreshTimes
from app.services.retention import Retention, RetentionDays
from app.services.session_runs import RunLimits, SessionRuns
from app.services.session_waiters import SessionWaiters
from app.services.token_refresher import TokenRefresher
from app.services.token_repair import RepairLimits, TokenRepair
from app.services.token_spill import TokenSpill
from app.services.webhook_deliveries import DeliveryLimits, WebhookDeliveries
from app.services.webhook_fanout import WebhookFanout
from app.services.webhook_service import WebhookService
from app.services.webhook_vault import WebhookVault
from app.services.worker_runs import WorkerRuns
from app.services.workers.authorization import AuthorizationWorker
from app.services.workers.base import Worker, WorkerGroup
from app.services.workers.cleanup import CleanupWorker
from app.services.workers.monitor import MonitorWorker, Thresholds
from app.services.workers.refresh import TokenRefreshWorker
from app.services.workers.repair import TokenRepairWorker
from app.services.workers.sync import ProfileSyncWorker
from app.services.workers.webhook import WebhookWorker
from app.utils.cursors import Cursors
from app.utils.loop_lag import LoopLag

_WORKERS_SHARE: Final = 0.8
"""Of the grace period: the rest is for closing the drivers, the connections and the database."""
_TOKEN_FRESH_FOR: Final = 30.0
"""Seconds that a token lives at least when it is handed out."""

_IDLE_CONNECTION: Final = 2.0
"""Seconds; less than any server's own, often 5: a POST into a connection that it is just closing has no known end."""


@dataclass(frozen=True)
class Context:
    """Everything that lives as long as the process."""

    settings: Settings
    database: Database
    keys: KeyService
    oauth: OAuthService
    vault: CredentialVault
    credentials: CredentialService
    gate: CloudGate
    directory: ProfileDirectory
    syncs: ProfileSyncService
    gologin: GoLoginService
    authorizations: AuthorizationService
    batches: BatchService
    batch_pacing: BatchPacing
    session_runs: SessionRuns
    apps: AppStates
    event_streams: EventStreams
    event_exports: EventExports
    cursors: Cursors
    automator: ProfileAutomator
    alarms: AlarmService
    loop_lag: LoopLag
    queue: JobQueue
    workers: WorkerGroup
    sync_worker: ProfileSyncWorker
    webhooks: WebhookService

    def begin_shutdown(self) -> None:
        """Take no new work, and answer those who wait for a session's end or follow events so that they can go."""
        self.workers.signal_stop()
        self.authorizations.release_waiters()
        self.event_streams.close()

    async def stop_workers(self) -> None:
        await self.workers.stop(grace=self.settings.shutdown_grace * _WORKERS_SHARE)


@asynccontextmanager
async def open_context(settings: Settings) -> AsyncIterator[Context]:
    """Build everything, check the schema, and close all in reverse order at the end.

    Raises `SchemaOutOfDateException`, `SettingsError`. Workers are not started here: `Context.workers.start()` does.
    """
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url.get_secret_value(), pool_size=settings.database_pool_size)
        stack.push_async_callback(database.close)
        await database.check_schema()
        await check_order(database)
        tls = httpx.create_ssl_context(trust_env=False)  # one: it takes 20 ms to make
        # No environment proxies: every address is one of ours or of the settings.
        connections = StackedTransport(tls=tls, most=_most_connections(settings), keep_idle=_IDLE_CONNECTION)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=connections, trust_env=False))
        transport = await stack.enter_async_context(new_transport(tls))
        context = _build(settings, database, http, transport, stack)
        context.loop_lag.start()
        stack.push_async_callback(context.loop_lag.stop)
        yield context


def _build(
    settings: Settings,
    database: Database,
    http: httpx.AsyncClient,
    webhook_transport: httpx.AsyncBaseTransport,
    stack: AsyncExitStack,
) -> Context:
    # Containers of one machine may all have the same process id.
    owner = f"{settings.machine_name}:{os.getpid()}:{secrets.token_hex(3)}"
    budgets = CallBudgets(apps=settings.oauth_apps)
    oauth = _oauth_service(settings, http, budgets)
    keys = KeyService(
        database=database,
        bootstrap_key=settings.api_key,
        api_apps=settings.oauth_apps,
        rate_limit_per_minute=settings.rate_limit_per_minute,
    )
    stack.push_async_callback(keys.close)
    gate = CloudGate(database=database, budget=settings.gologin_requests_per_minute)
    rule = AccountRule(source=settings.profile_rule, pattern=settings.profile_rule_pattern)
    directory = ProfileDirectory(rule=rule)
    client = _profile_browser(settings, http, gate)
    syncs = ProfileSyncService(database=database, client=client, rule=rule)
    gologin = GoLoginService(
        client=client,
        devtools=DevToolsClient(http=http),
        leases=_profile_leases(settings, database, owner),
        directory=directory,
        sync=syncs,
        limits=ProfileRunLimits(
            max_concurrent=settings.max_concurrent_profiles, start_timeout=settings.profile_start_timeout
        ),
    )
    apps = AppStates(pause_after=settings.app_pause_after)
    vault = CredentialVault(key_ring=settings.key_ring)
    leases, refresher, credentials = _credentials(settings, database, vault, oauth, apps, budgets, owner)
    stack.push_async_callback(refresher.wait_for_running)
    stack.push_async_callback(credentials.close)
    queue = JobQueue(
        database=database,
        slots=settings.max_concurrent_profiles,
        attended_limit=_attended_limit(settings),
        heartbeat_timeout=settings.lease_seconds,
    )
    stack.push_async_callback(queue.close)
    waiters = SessionWaiters()
    batch_pacing = BatchPacing(database=database, queue=queue, waiters=waiters)
    stack.push_async_callback(batch_pacing.close)
    authorizations = AuthorizationService(
        database=database,
        gologin=gologin,
        oauth=oauth,
        apps=apps,
        batches=batch_pacing,
        queue=queue,
        waiters=waiters,
        limits=OrderLimits(
            lifetime=settings.session_lifetime,
            max_attempts=settings.max_attempts,
            max_waiting=settings.max_waiting,
        ),
        consent=ConsentMode(settings.consent_mode),
    )
    session_runs = SessionRuns(
        database=database,
        gologin=gologin,
        credentials=credentials,
        apps=apps,
        batches=batch_pacing,
        queue=queue,
        waiters=waiters,
        limits=RunLimits(
            max_running=settings.session_max_running,
            lease=settings.lease_seconds,
            retry_wait=settings.retry_wait,
        ),
        owner=owner,
    )
    automator = _automator(settings, gologin, oauth, stack)
    loop_lag = LoopLag(tick=settings.loop_tick)
    alarms = AlarmService(database=database)
    runs = WorkerRuns(database=database, owner=owner, lease_seconds=settings.lease_seconds)
    sync_worker = ProfileSyncWorker(
        gologin=gologin,
        syncs=syncs,
        runs=runs,
        interval=settings.sync_interval,
        retry_interval=settings.sync_retry_interval,
    )
    webhooks, webhook_worker = _webhooks(settings, database, webhook_transport, owner)
    workers: list[Worker] = [
        AuthorizationWorker(
            runs=session_runs,
            automator=automator,
            gologin=gologin,
            queue=queue,
            lease_seconds=settings.lease_seconds,
            grace=settings.shutdown_grace * _WORKERS_SHARE,
        ),
        sync_worker,
        CleanupWorker(
            sessions=session_runs,
            gologin=gologin,
            retention=_retention(settings, database),
            runs=runs,
            interval=settings.cleanup_interval,
        ),
        TokenRefreshWorker(
            leases=leases,
            refresher=refresher,
            credentials=credentials,
            concurrency=settings.refresh_concurrency,
        ),
        TokenRepairWorker(
            repair=TokenRepair(
                database=database,
                authorizations=authorizations,
                apps=settings.oauth_apps if settings.repair_apps is None else settings.repair_apps,
                limits=RepairLimits(a_day=settings.repair_per_day, at_once=settings.repair_at_once),
            ),
            runs=runs,
            interval=settings.repair_interval,
        ),
        MonitorWorker(
            database=database,
            gologin=gologin,
            gate=gate,
            alarms=alarms,
            loop_lag=loop_lag,
            thresholds=_thresholds(settings),
            machine=settings.machine_name,
            runs=runs,
            interval=settings.monitor_interval,
        ),
        webhook_worker,
    ]
    return Context(
        settings=settings,
        database=database,
        keys=keys,
        oauth=oauth,
        vault=vault,
        credentials=credentials,
        gate=gate,
        directory=directory,
        syncs=syncs,
        gologin=gologin,
        authorizations=authorizations,
        batches=BatchService(
            authorizations=authorizations,
            oauth=oauth,
            directory=directory,
            apps=apps,
            pacing=batch_pacing,
            limits=BatchLimits(
                max_running=settings.batch_max_running,
                stop_percent=settings.batch_stop_percent,
                stop_window=settings.batch_stop_window,
                max_rows=settings.max_batch_rows,
            ),
        ),
        batch_pacing=batch_pacing,
        session_runs=session_runs,
        apps=apps,
        event_streams=_event_streams(settings, database),
        event_exports=_event_exports(settings, database),
        cursors=settings.cursors,
        automator=automator,
        alarms=alarms,
        loop_lag=loop_lag,
        queue=queue,
        workers=WorkerGroup(workers),
        sync_worker=sync_worker,
        webhooks=webhooks,
    )


def _credentials(
    settings: Settings,
    database: Database,
    vault: CredentialVault,
    oauth: OAuthService,
    apps: AppStates,
    budgets: CallBudgets,
    owner: str,
) -> tuple[RefreshLeases, TokenRefresher, CredentialService]:
    save_for = settings.lease_seconds
    times = RefreshTimes(
        lease=settings.oauth_api_timeout + save_for,
        margin=settings.refresh_margin,
        jitter=settings.refresh_jitter,
        retry=settings.refresh_retry_wait,
    )
    leases = RefreshLeases(
        database=database, vault=vault, apps=apps, budgets=budgets, times=times, owner=owner
    )
    refresher = TokenRefresher(
        database=database,
        leases=leases,
        oauth=oauth,
        apps=apps,
        budgets=budgets,
        spill=TokenSpill(folder=settings.token_spill_folder, key_ring=settings.key_ring),
        save_for=save_for,
    )
    credentials = CredentialService(
        database=database,
        vault=vault,
        leases=leases,
        refresher=refresher,
        oauth=oauth,
        fresh_for=_TOKEN_FRESH_FOR,
        wait_for=times.lease + settings.oauth_api_timeout,
    )
    return leases, refresher, credentials


def _webhooks(
    settings: Settings, database: Database, transport: httpx.AsyncBaseTransport, owner: str
) -> tuple[WebhookService, WebhookWorker]:
    client = WebhookClient(
        transport=transport,
        timeout=settings.webhook_timeout,
        allow_private=settings.webhook_allow_private_addresses,
        allow_http=settings.environment is Environment.DEVELOPMENT,
    )
    vault = WebhookVault(key_ring=settings.key_ring)
    limits = DeliveryLimits(
        retry_waits=settings.webhook_retry_waits,
        pause_after=timedelta(hours=settings.webhook_pause_after_hours),
        concurrency=settings.webhook_concurrency,
        lease=settings.lease_seconds,
    )
    deliveries = WebhookDeliveries(database=database, vault=vault, limits=limits, owner=owner)
    service = WebhookService(
        database=database, client=client, vault=vault, max_endpoints=settings.webhook_max_endpoints
    )
    worker = WebhookWorker(fanout=WebhookFanout(database=database), deliveries=deliveries, client=client)
    database.listen(RECORDED, worker.wake)
    return service, worker


def _attended_limit(settings: Settings) -> int:
    """A process that is alone keeps a slot for those that need nobody, when it has more than one."""
    if not settings.is_sqlite:
        return settings.attended_max_running
    return min(settings.attended_max_running, max(1, settings.max_concurrent_profiles - 1))


def _profile_leases(settings: Settings, database: Database, owner: str) -> ProfileLeases:
    return ProfileLeases(
        database=database,
        machine=settings.machine_name,
        owner=owner,
        lease_seconds=settings.lease_seconds,
        fleet_limit=settings.fleet_max_running_profiles,
        foreign_grace=settings.foreign_lease_grace,
        start_grace=settings.profile_start_timeout,
    )


def _retention(settings: Settings, database: Database) -> Retention:
    return Retention(
        database=database,
        days=RetentionDays(
            sessions=settings.session_retention_days,
            events=settings.event_retention_days,
            evidence=settings.evidence_retention_days,
            webhooks=settings.webhook_retention_days,
        ),
        max_events=settings.event_retention_count,
        max_evidence_bytes=settings.evidence_max_total_mb * 1_000_000,
    )


def _event_streams(settings: Settings, database: Database) -> EventStreams:
    limits = StreamLimits(
        readers=settings.event_stream_readers,
        readers_per_key=settings.event_stream_readers_per_key,
        lifetime=settings.event_stream_lifetime,
        heartbeat=settings.event_stream_heartbeat,
    )
    return EventStreams(database=database, tail=EventTail(database=database), limits=limits)


def _event_exports(settings: Settings, database: Database) -> EventExports:
    limits = ExportLimits(
        exports=settings.event_exports,
        exports_per_key=settings.event_exports_per_key,
        lifetime=settings.event_export_lifetime,
    )
    return EventExports(database=database, limits=limits)


def _thresholds(settings: Settings) -> Thresholds:
    return Thresholds(
        waiting_seconds=settings.alarm_waiting_seconds,
        pending=settings.alarm_pending,
        failures_per_hour=settings.alarm_failures_per_hour,
        sync_age_seconds=settings.alarm_sync_age,
    )


def _oauth_service(settings: Settings, http: httpx.AsyncClient, budgets: CallBudgets) -> OAuthService:
    return OAuthService(
        apps=settings.oauth_apps,
        providers=load_providers(settings),
        client=OAuthProviderClient(http=http, timeout=settings.oauth_api_timeout),
        budgets=budgets,
    )


def _profile_browser(settings: Settings, http: httpx.AsyncClient, gate: CloudGate) -> ProfileBrowserClient:
    """Another kind of profile browser is one more client class and one more line here."""
    if settings.profile_browser == "adspower":
        return AdsPowerClient(
            http=http,
            base_url=settings.adspower_url,
            api_timeout=settings.gologin_api_timeout,
            stop_timeout=settings.profile_stop_timeout,
        )
    return GoLoginClient(
        http=http,
        gate=gate,
        api_url=settings.gologin_api_url,
        api_token=settings.gologin_api_token.get_secret_value(),
        local_url=settings.gologin_local_url,
        api_timeout=settings.gologin_api_timeout,
        stop_timeout=settings.profile_stop_timeout,
    )


def _automator(
    settings: Settings, gologin: GoLoginService, oauth: OAuthService, stack: AsyncExitStack
) -> ProfileAutomator:
    drivers = ChromeDrivers(path=settings.chromedriver_path)
    stack.push_async_callback(drivers.close)
    timeouts = BrowserTimeouts(
        attach=settings.browser_attach_timeout,
        page_load=settings.page_load_timeout,
        consent_button=settings.consent_button_timeout,
        callback=settings.callback_timeout,
        person=settings.attended_timeout,
    )
    automator = ProfileAutomator(
        gologin=gologin,
        browser=BrowserController(max_screenshot_bytes=settings.evidence_max_screenshot_bytes),
        oauth=oauth,
        drivers=drivers,
        max_concurrent=settings.max_concurrent_profiles,
        timeout=settings.authorization_timeout,
        timeouts=timeouts,
    )
    stack.callback(automator.close)
    return automator


def _most_connections(settings: Settings) -> int:
    """Every running profile may hold a connection to GoLogin, its browser and the provider at once."""
    return 20 + settings.refresh_concurrency + 4 * settings.max_concurrent_profiles
