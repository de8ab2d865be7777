"""SQLAlchemy tables and their enums.

Schema history (one entry per Alembic migration):

1. `001_initial_schema`: profiles, authorization_sessions, credentials, api_keys, events.
2. `002_profile_fleet`: links, quarantine and the running browser on profiles; profile_syncs, api_gates, worker_runs,
   alarms.
3. `003_session_life`: attempts, idempotency keys and paused apps; order, retry time and uniqueness of sessions.
4. `004_batches_and_people`: batches and evidence; consent mode, stage deadlines and batch of a session.
5. `005_job_queue`: pgqueuer's own tables, PostgreSQL only.
6. `006_tokens_that_stay`: lease, marker and due time of a refresh on credentials; rate limits of apps.
7. `007_api_for_teams`: reach, rotation and last use of API keys; the order of events; webhooks; lists of sessions.
8. `008_provider_answers`: refusals of a refresh that name no known reason; longer provider user ids.
9. `009_actors`: kind and id of who asked for a session, and of who did what an event tells.
10. `010_limits_of_calls`: what limits an app, and when it was resumed; limits of single accounts.
"""

from app.models.audit import ApiKey, Event
from app.models.base import Base, utc_now
from app.models.batches import Batch, BatchRow
from app.models.credentials import AccountLimit, AppState, Credential
from app.models.event_types import EventType
from app.models.fleet import Alarm, ApiGate, WorkerRun
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
    "AccountLimit",
    "ActorKind",
    "Alarm",
    "ApiGate",
    "ApiKey",
    "AppState",
    "AuthorizationAttempt",
    "AuthorizationSession",
    "Base",
    "Batch",
    "BatchRow",
    "BatchStatus",
    "ConsentMode",
    "Credential",
    "CredentialStatus",
    "DeliveryStatus",
    "Event",
    "EventType",
    "Evidence",
    "IdempotencyKey",
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
    "utc_now",
]
