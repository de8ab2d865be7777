"""The loops that work in the background, from the start of the process to its stop."""

from dataclasses import dataclass
from typing import Final

from app.config import Settings
from app.context.accounts import Accounts
from app.context.events import Events
from app.context.fleet import Fleet
from app.context.live import Live
from app.context.sessions import Sessions
from app.context.tokens import Tokens
from app.database import Database
from app.models import EventClass
from app.services.authorizations.repair import RepairLimits, TokenRepair
from app.services.events.recorder import RECORDED
from app.services.operations.alarms import AlarmService
from app.services.operations.event_retention import EventLimits, EventRetention
from app.services.operations.history_retention import HistoryRetention
from app.services.operations.retention import Retention, RetentionDays
from app.services.operations.worker_runs import PeriodicRuns
from app.services.tokens.service import REVOCATIONS_DUE
from app.services.webhooks.fanout import WebhookFanout
from app.services.workers.authorization_worker import AuthorizationWorker
from app.services.workers.base import Worker, WorkerGroup
from app.services.workers.cleanup_worker import CleanupWorker
from app.services.workers.live_worker import LiveViewWorker
from app.services.workers.monitor_worker import MonitorWorker, Thresholds
from app.services.workers.refresh_worker import TokenRefreshWorker
from app.services.workers.repair_worker import TokenRepairWorker
from app.services.workers.sync_worker import ProfileSyncWorker
from app.services.workers.webhook_worker import WebhookWorker
from app.utils.loop_lag import LoopLag

WORKERS_SHARE: Final = 0.8
"""Share of the grace period; the rest is for closing the drivers, the connections and the database."""


@dataclass(frozen=True)
class Workers:
    group: WorkerGroup
    sync: ProfileSyncWorker
    """One of the group, which callers of the API ask for a sync."""


def build_workers(
    settings: Settings,
    database: Database,
    fleet: Fleet,
    tokens: Tokens,
    sessions: Sessions,
    live: Live,
    accounts: Accounts,
    events: Events,
    alarms: AlarmService,
    loop_lag: LoopLag,
    runs: PeriodicRuns,
) -> Workers:
    sync = ProfileSyncWorker(
        gologin=fleet.gologin,
        syncs=fleet.syncs,
        runs=runs,
        interval=settings.sync_interval,
        retry_interval=settings.sync_retry_interval,
    )
    webhook = WebhookWorker(
        fanout=WebhookFanout(database=database), deliveries=events.deliveries, client=events.webhook_client
    )
    database.listen(RECORDED, webhook.wake)
    refresh = TokenRefreshWorker(
        leases=tokens.leases,
        refresher=tokens.refresher,
        credentials=tokens.credentials,
        concurrency=settings.refresh_concurrency,
    )
    database.listen(REVOCATIONS_DUE, refresh.expect_revocations)
    workers: list[Worker] = [
        AuthorizationWorker(
            runs=sessions.runs,
            batches=sessions.pacing,
            automator=sessions.automator,
            gologin=fleet.gologin,
            queue=sessions.queue,
            lease_seconds=settings.lease_seconds,
            grace=settings.shutdown_grace * WORKERS_SHARE,
        ),
        sync,
        CleanupWorker(
            sessions=sessions.runs,
            gologin=fleet.gologin,
            retention=_retention(settings, database),
            runs=runs,
            interval=settings.cleanup_interval,
        ),
        refresh,
        TokenRepairWorker(
            repair=_repair(settings, database, sessions), runs=runs, interval=settings.repair_interval
        ),
        MonitorWorker(
            database=database,
            gologin=fleet.gologin,
            gate=fleet.gate,
            alarms=alarms,
            loop_lag=loop_lag,
            thresholds=_thresholds(settings),
            reports=accounts.reports,
            workers=lambda: group.started,
            machine=settings.machine_name,
            runs=runs,
            interval=settings.monitor_interval,
        ),
        webhook,
        LiveViewWorker(server=live.server, processes=live.processes),
    ]
    group = WorkerGroup(workers)
    return Workers(group, sync)


def _retention(settings: Settings, database: Database) -> Retention:
    return Retention(
        database=database,
        days=RetentionDays(
            sessions=settings.session_retention_days,
            evidence=settings.evidence_retention_days,
            webhooks=settings.webhook_retention_days,
        ),
        events=EventRetention(
            database=database,
            limits={
                EventClass.AUDIT: EventLimits(
                    settings.event_audit_retention_days, settings.event_audit_retention_count
                ),
                EventClass.LIFECYCLE: EventLimits(
                    settings.event_lifecycle_retention_days, settings.event_lifecycle_retention_count
                ),
                EventClass.ROUTINE: EventLimits(
                    settings.event_routine_retention_days, settings.event_routine_retention_count
                ),
            },
        ),
        history=HistoryRetention(
            database=database,
            minute_days=settings.fleet_history_minute_days,
            hour_days=settings.fleet_history_hour_days,
        ),
        max_evidence_bytes=settings.evidence_max_total_mb * 1_000_000,
    )


def _repair(settings: Settings, database: Database, sessions: Sessions) -> TokenRepair:
    return TokenRepair(
        database=database,
        authorizations=sessions.authorizations,
        apps=settings.oauth_apps if settings.repair_apps is None else settings.repair_apps,
        limits=RepairLimits(a_day=settings.repair_per_day, at_once=settings.repair_at_once),
    )


def _thresholds(settings: Settings) -> Thresholds:
    return Thresholds(
        waiting_seconds=settings.alarm_waiting_seconds,
        pending=settings.alarm_pending,
        failures_per_hour=settings.alarm_failures_per_hour,
        sync_age_seconds=settings.alarm_sync_age,
    )
