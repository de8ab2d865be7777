"""SQLAlchemy tables and their enums.

Schema history (one entry per Alembic migration):

1. `001_initial_schema`: profiles, authorization_sessions, credentials, api_keys, events.
2. `002_add_profile_links_syncs_alarms`: links, quarantine and the running browser on profiles; profile_syncs,
   api_gates, worker_runs, alarms.
3. `003_add_attempts_idempotency_keys_app_states`: authorization_attempts, idempotency_keys, app_states; rank, retry
   time and uniqueness of sessions.
4. `004_add_batches_and_evidence`: batches, batch_rows, evidence; consent mode, stage deadlines and batch of a session.
5. `005_add_job_queue`: the tables of pgqueuer, PostgreSQL only.
6. `006_add_refresh_leases_and_due_times`: lease, spending marker, due time and failures of a refresh on credentials;
   rate limit of an app.
7. `007_add_keys_events_webhooks`: restrictions, rotation and last use of API keys; stream order of events;
   webhook_endpoints, webhook_deliveries, webhook_attempts; indexes for lists of sessions.
8. `008_add_refresh_refusals_widen_user_ids`: refusals of a refresh without a known reason; longer provider user ids.
9. `009_add_actor_kinds_and_ids`: kind and key id of a session's requester and of an event's actor.
10. `010_add_call_limits`: cause of an app's limit, time of its resume; account_limits.
11. `011_add_waiting_index_drop_queue_trigger`: index of the queue of waiting sessions; no notification per job.
12. `012_add_profile_name_index`: index of the profiles by name, with names of at most 500 characters.
13. `013_add_dashboard_sessions`: dashboard_sessions, dashboard_tickets.
14. `014_add_event_classes`: class of an event, by which it is kept; event_deletions, event_hours.
15. `015_add_account_states_fleet_reports`: indexes of accounts by state, time since which tokens are unusable;
    fleet_reports.
16. `016_add_processes_and_live_controls`: processes, live_controls.
17. `017_add_fleet_history`: fleet_history.
18. `018_add_single_sign_on`: the person of a sign-in to the operators' page; authentication_requests.
"""

from app.models.audit import ApiKey, Event, EventDeletions, EventHour
from app.models.base import Base, utc_now
from app.models.batches import Batch, BatchRow
from app.models.credentials import AccountLimit, AppState, Credential
from app.models.dashboard import AuthenticationRequest, DashboardSession, DashboardTicket
from app.models.event_types import TYPES_BY_CLASS, EventClass, EventType, class_of
from app.models.fleet import Alarm, ApiGate, FleetHistory, FleetReport, WorkerRun
from app.models.live import LiveControl, Process
from app.models.profiles import Profile, ProfileSync
from app.models.sessions import AuthorizationAttempt, AuthorizationSession, Evidence, IdempotencyKey
from app.models.statuses import (
    OPEN_STATUSES,
    ActorKind,
    BatchStatus,
    ConsentMode,
    CredentialStatus,
    DeliveryStatus,
    SessionStage,
    SessionStatus,
    SyncStatus,
    WebhookStatus,
)
from app.models.webhooks import WebhookAttempt, WebhookDelivery, WebhookEndpoint

__all__ = [
    "OPEN_STATUSES",
    "TYPES_BY_CLASS",
    "AccountLimit",
    "ActorKind",
    "Alarm",
    "ApiGate",
    "ApiKey",
    "AppState",
    "AuthenticationRequest",
    "AuthorizationAttempt",
    "AuthorizationSession",
    "Base",
    "Batch",
    "BatchRow",
    "BatchStatus",
    "ConsentMode",
    "Credential",
    "CredentialStatus",
    "DashboardSession",
    "DashboardTicket",
    "DeliveryStatus",
    "Event",
    "EventClass",
    "EventDeletions",
    "EventHour",
    "EventType",
    "Evidence",
    "FleetHistory",
    "FleetReport",
    "IdempotencyKey",
    "LiveControl",
    "Process",
    "Profile",
    "ProfileSync",
    "SessionStage",
    "SessionStatus",
    "SyncStatus",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookStatus",
    "WorkerRun",
    "class_of",
    "utc_now",
]
