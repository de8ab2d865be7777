"""SQLAlchemy tables and their enums.

Schema history (one entry per Alembic migration):

1. `001_initial_schema`: profiles, authorization_sessions, credentials, api_keys, events.
2. `002_profile_fleet`: links, quarantine and the running browser on profiles; profile_syncs, api_gates, worker_runs,
   alarms.
3. `003_session_life`: attempts, idempotency keys and paused apps; order, retry time and uniqueness of sessions.
4. `004_batches_and_people`: batches and evidence; consent mode, stage deadlines and batch of a session.
5. `005_job_queue`: pgqueuer's own tables, PostgreSQL only.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Enum,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}

# SQLite only numbers rows by itself for a column that is exactly INTEGER.
_BigId = BigInteger().with_variant(Integer(), "sqlite")


def utc_now() -> datetime:
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on both databases; SQLite stores no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a naive datetime reached the database")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class SessionStatus(StrEnum):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    NEEDS_ATTENTION = "needs_attention"

    @property
    def is_final(self) -> bool:
        return self not in OPEN_STATUSES


OPEN_STATUSES: Final = (SessionStatus.PENDING, SessionStatus.IN_PROGRESS)


class SessionStage(StrEnum):
    """How far a session in progress is; in their order."""

    WAITING_FOR_SLOT = "waiting_for_slot"
    PROFILE_STARTING = "profile_starting"
    BROWSER_ATTACHED = "browser_attached"
    CONSENT_SHOWN = "consent_shown"
    WAITING_FOR_PERSON = "waiting_for_person"
    """May also come before the consent is shown, and more than once."""
    CONSENT_GIVEN = "consent_given"
    CODE_RECEIVED = "code_received"
    TOKENS_STORED = "tokens_stored"


class ConsentMode(StrEnum):
    AUTOMATIC = "automatic"
    """The service presses Authorize."""
    ATTENDED = "attended"
    """A person presses it in the profile's window; the service does the rest."""


class BatchStatus(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    """Too many of its sessions failed, or its app was paused: what had not started was cancelled."""
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    """Every session has ended, however."""


class CredentialStatus(StrEnum):
    ACTIVE = "active"
    REAUTHORIZATION_REQUIRED = "reauthorization_required"
    """Its chain of refresh tokens is broken: only a new authorization brings tokens again."""
    REVOKING = "revoking"
    """To be forgotten once the provider has revoked it."""


class SyncStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
    }


def _string_enum(enum: type[StrEnum]) -> Enum:
    """Stored as its text, without a database type: a new member needs no migration."""
    return Enum(
        enum, native_enum=False, length=32, values_callable=lambda members: [m.value for m in members]
    )


class _Timestamps:
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class _Lease:
    """Who works on the row, until when. Whoever applies a result must still hold `lease_token`."""

    lease_token: Mapped[str | None] = mapped_column(String(36))
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_expires_at: Mapped[datetime | None] = mapped_column(index=True)


def _where(condition: str) -> dict[str, Any]:
    """Of an index that holds only the rows for which `condition` is true."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


def _unique_where(name: str, condition: str, *columns: str) -> Index:
    """Unique among the rows for which `condition` holds."""
    return Index(name, *columns, unique=True, **_where(condition))


_IN_BATCH: Final = "batch_id IS NOT NULL"


class Profile(_Timestamps, _Lease, Base):
    """A GoLogin profile, as the last sync saw it."""

    __tablename__ = "profiles"
    __table_args__ = (
        Index("ix_profiles_account", "twitter_username", "api_app"),
        Index("ix_profiles_in_use", "in_use", sqlite_where=text("in_use"), postgresql_where=text("in_use")),
        # One profile per account and app among those linked by hand.
        _unique_where("uq_profiles_link", "is_linked", "twitter_username", "api_app"),
        # NULLs are all different to a unique index, so the links for any app need one of their own.
        _unique_where("uq_profiles_link_any_app", "is_linked AND api_app IS NULL", "twitter_username"),
    )

    id: Mapped[int] = mapped_column(_BigId, primary_key=True)
    profile_id: Mapped[str] = mapped_column(String(64), unique=True)
    profile_name: Mapped[str] = mapped_column(Text)
    """As GoLogin has it, trimmed; neither short nor unique."""
    twitter_username: Mapped[str | None] = mapped_column(String(64))
    """Lower case, without ``@``."""
    api_app: Mapped[str | None] = mapped_column(String(64))
    """The one OAuth app this profile is for; None: any."""
    is_linked: Mapped[bool] = mapped_column(default=False)
    """Account and app were set by hand; else they follow from the rule of the settings."""
    last_synced: Mapped[datetime | None]
    """When a sync last changed the row; one that finds nothing new writes nothing."""
    profile_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    """What GoLogin says besides, never the proxy's password."""
    is_active: Mapped[bool] = mapped_column(default=True)
    in_use: Mapped[bool] = mapped_column(default=False)
    ws_url: Mapped[str | None] = mapped_column(Text)
    """DevTools address of the browser that runs under the lease: how a left-over one is found and stopped."""
    quarantined_at: Mapped[datetime | None]
    """Its browser could not be stopped: it is not started again until an operator releases it."""
    quarantine_reason: Mapped[str | None] = mapped_column(Text)


class ProfileSync(_Timestamps, Base):
    """One pass over GoLogin's profile list: asked for or periodic."""

    __tablename__ = "profile_syncs"

    id: Mapped[int] = mapped_column(_BigId, primary_key=True)
    sync_id: Mapped[str] = mapped_column(String(36), unique=True)
    status: Mapped[SyncStatus] = mapped_column(
        _string_enum(SyncStatus), default=SyncStatus.PENDING, index=True
    )
    requested_by: Mapped[str] = mapped_column(String(128))
    request_id: Mapped[str | None] = mapped_column(String(128))
    allow_mass_removal: Mapped[bool] = mapped_column(default=False)
    pages: Mapped[int] = mapped_column(default=0)
    seen: Mapped[int] = mapped_column(default=0)
    created: Mapped[int] = mapped_column(default=0)
    updated: Mapped[int] = mapped_column(default=0)
    returned: Mapped[int] = mapped_column(default=0)
    """Were gone and are listed again."""
    gone: Mapped[int] = mapped_column(default=0)
    conflicts: Mapped[int] = mapped_column(default=0)
    """Accounts to which the rule gives more than one profile."""
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]


class ApiGate(Base):
    """The fleet's request budget and breaker for one API; one row, shared by all processes."""

    __tablename__ = "api_gates"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    next_free: Mapped[float]
    """Unix seconds at which the budget's next place is free (GCRA's theoretical arrival time)."""
    opened_at: Mapped[datetime | None]
    """The breaker is open since then: no call is made."""
    open_reason: Mapped[str | None] = mapped_column(Text)


class WorkerRun(_Lease, Base):
    """A periodic worker's turn, over all processes: one has it at a time, under a lease."""

    __tablename__ = "worker_runs"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    next_run_at: Mapped[datetime]
    last_success_at: Mapped[datetime | None]


class Alarm(Base):
    """A threshold of the monitor: crossed or not, and since when."""

    __tablename__ = "alarms"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    is_active: Mapped[bool] = mapped_column(default=False)
    changed_at: Mapped[datetime] = mapped_column(default=utc_now)
    detail: Mapped[str] = mapped_column(Text)


class AuthorizationSession(_Timestamps, _Lease, Base):
    """One request to authorise an account."""

    __tablename__ = "authorization_sessions"
    __table_args__ = (
        Index("ix_authorization_sessions_queue", "status", "queue_rank", "id"),
        # One open session per account and app; those that were forced come on top.
        _unique_where(
            "uq_authorization_sessions_open",
            "status IN ('pending', 'in_progress') AND NOT is_forced",
            "twitter_username",
            "api_app",
        ),
        Index("ix_authorization_sessions_account", "twitter_username", "api_app", "status"),
        Index("ix_authorization_sessions_ended", "status", "completed_at"),
        Index("ix_authorization_sessions_batch", "batch_id", "status", "is_held", **_where(_IN_BATCH)),
        Index("ix_authorization_sessions_batch_ended", "batch_id", "completed_at", **_where(_IN_BATCH)),
        Index("ix_authorization_sessions_batch_held", "batch_id", "queue_rank", **_where("is_held")),
        Index("ix_authorization_sessions_expiry", "expires_at", **_where("status = 'pending'")),
    )

    id: Mapped[int] = mapped_column(_BigId, primary_key=True)
    session_id: Mapped[str] = mapped_column(String(36), unique=True)
    profile_id: Mapped[str] = mapped_column(String(64), index=True)
    twitter_username: Mapped[str] = mapped_column(String(64))
    api_app: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]]
    """Asked for, and after completion those granted."""
    missing_scopes: Mapped[list[str]] = mapped_column(default=list)
    """Asked for and not granted."""
    status: Mapped[SessionStatus] = mapped_column(_string_enum(SessionStatus), default=SessionStatus.PENDING)
    stage: Mapped[SessionStage | None] = mapped_column(_string_enum(SessionStage))
    stage_times: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Seconds from `started_at` at which each stage was reached."""
    priority: Mapped[int] = mapped_column(default=5)
    """0 to 9; the higher, the sooner."""
    queue_rank: Mapped[float] = mapped_column(default=0.0)
    """The lowest goes first: unix seconds of the request, less a head start for its priority. So age always wins."""
    not_before: Mapped[datetime | None]
    """Asked for by the caller, or the time of the next attempt."""
    timeout_seconds: Mapped[float | None]
    """For one attempt, from the running profile to the stored tokens; None: as the settings say."""
    stage_timeouts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """The caller's own deadlines of single steps, by name, seconds; the settings' are the longest."""
    is_forced: Mapped[bool] = mapped_column(default=False)
    """Asked for although another session of the account was open."""
    consent: Mapped[ConsentMode] = mapped_column(_string_enum(ConsentMode), default=ConsentMode.AUTOMATIC)
    awaits_person: Mapped[bool] = mapped_column(default=False)
    """A person is at the profile's window: a page that asks for one is waited for, it is not the end."""
    batch_id: Mapped[str | None] = mapped_column(String(36))
    is_held: Mapped[bool] = mapped_column(default=False)
    """Waits for its turn within its batch, not for a slot."""
    attempts: Mapped[int] = mapped_column(default=0)
    attempts_allowed: Mapped[int] = mapped_column(default=1)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str] = mapped_column(String(128))
    requested_by: Mapped[str] = mapped_column(String(128))
    """Name of the API key."""
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    expires_at: Mapped[datetime]
    """A session that waits longer than this ends as ``timeout``."""


class AuthorizationAttempt(Base):
    """One start of a session and how it ended; the last one may still run."""

    __tablename__ = "authorization_attempts"
    __table_args__ = (Index("uq_authorization_attempts_number", "session_id", "number", unique=True),)

    id: Mapped[int] = mapped_column(_BigId, primary_key=True)
    session_id: Mapped[str] = mapped_column(String(36))
    number: Mapped[int]
    """From 1."""
    stage: Mapped[SessionStage | None] = mapped_column(_string_enum(SessionStage))
    """How far it came."""
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    ended_at: Mapped[datetime | None]


class Batch(_Timestamps, Base):
    """Sessions that were asked for together and are paced together."""

    __tablename__ = "batches"
    __table_args__ = (
        _unique_where("uq_batches_source", "source_hash IS NOT NULL", "requested_by", "source_hash"),
        Index("ix_batches_open", "id", **_where("completed_at IS NULL")),
    )

    id: Mapped[int] = mapped_column(_BigId, primary_key=True)
    batch_id: Mapped[str] = mapped_column(String(36), unique=True)
    status: Mapped[BatchStatus] = mapped_column(_string_enum(BatchStatus), default=BatchStatus.RUNNING)
    requested_by: Mapped[str] = mapped_column(String(128))
    request_id: Mapped[str | None] = mapped_column(String(128))
    source_hash: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 of what it was made of; the same source of the same caller is the same batch."""
    accepted: Mapped[int] = mapped_column(default=0)
    """Rows with a session, those included whose session was open already."""
    rejected: Mapped[int] = mapped_column(default=0)
    """Rows that could not become a session."""
    max_running: Mapped[int]
    """Sessions of the batch that may be under way at once: a wave."""
    stop_percent: Mapped[int]
    """It stops when more than this share of the last `stop_window` sessions failed."""
    stop_window: Mapped[int]
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it was stopped."""
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    """When it was made or tried again: what ended before does not stop it."""
    completed_at: Mapped[datetime | None]
    """When the last of its sessions had ended, whatever the status; until then it is looked after."""


class BatchRow(Base):
    """A row of what a batch was made of, and what became of it."""

    __tablename__ = "batch_rows"

    batch_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 1."""
    account_id: Mapped[str] = mapped_column(String(128))
    """As it was given where it is no handle."""
    api_app: Mapped[str] = mapped_column(String(128))
    session_id: Mapped[str | None] = mapped_column(String(36))
    """None: the row could not become a session."""
    is_existing: Mapped[bool] = mapped_column(default=False)
    """The session was open already, or an earlier row made it."""
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)


class Evidence(Base):
    """What the browser showed when an attempt failed; secrets masked."""

    __tablename__ = "evidence"
    __table_args__ = (Index("uq_evidence_attempt", "session_id", "attempt", unique=True),)

    id: Mapped[int] = mapped_column(_BigId, primary_key=True)
    session_id: Mapped[str] = mapped_column(String(36))
    attempt: Mapped[int]
    taken_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    url: Mapped[str] = mapped_column(Text)
    """Without query and fragment."""
    title: Mapped[str] = mapped_column(Text)
    test_ids: Mapped[list[str]]
    """Of the elements that are visible."""
    console: Mapped[list[str]]
    """Errors of the page's console, the latest last."""
    screenshot: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    """JPEG; loaded only when asked for."""
    size_bytes: Mapped[int] = mapped_column(default=0)


class IdempotencyKey(Base):
    """A caller's `Idempotency-Key` and the session, or the batch, that its first request made."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("uq_idempotency_keys_key", "caller", "key_hash", unique=True),)

    id: Mapped[int] = mapped_column(_BigId, primary_key=True)
    caller: Mapped[str] = mapped_column(String(128))
    key_hash: Mapped[str] = mapped_column(String(64))
    body_hash: Mapped[str] = mapped_column(String(64))
    session_id: Mapped[str] = mapped_column(String(36))
    expires_at: Mapped[datetime] = mapped_column(index=True)


class AppState(Base):
    """An OAuth app's failures in a row that were its own fault, and whether it is paused for them."""

    __tablename__ = "app_states"

    api_app: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures_in_a_row: Mapped[int] = mapped_column(default=0)
    limited_until: Mapped[datetime | None]
    """The provider limits the app's rate until then."""
    paused_at: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)


class Credential(_Timestamps, _Lease, Base):
    """The current tokens of an account in an app; secrets encrypted, and nowhere else.

    The lease is held by whoever refreshes or revokes them.
    """

    __tablename__ = "credentials"
    __table_args__ = (
        Index("uq_credentials_account", "account_id", "api_app", unique=True),
        Index("ix_credentials_due", "status", "refresh_due_at"),
    )

    id: Mapped[int] = mapped_column(_BigId, primary_key=True)
    account_id: Mapped[str] = mapped_column(String(64))
    api_app: Mapped[str] = mapped_column(String(64))
    provider_user_id: Mapped[str] = mapped_column(String(64))
    access_token: Mapped[str] = mapped_column(Text)
    refresh_token: Mapped[str | None] = mapped_column(Text)
    oauth_token_secret: Mapped[str | None] = mapped_column(Text)
    scopes: Mapped[list[str]]
    token_expires_at: Mapped[datetime | None] = mapped_column(index=True)
    status: Mapped[CredentialStatus] = mapped_column(
        _string_enum(CredentialStatus), default=CredentialStatus.ACTIVE
    )
    version: Mapped[int] = mapped_column(default=1)
    """Grows with every new token set."""
    spending_version: Mapped[int | None]
    """Its refresh token is about to be spent, or was, and no answer is known: never spent again."""
    refresh_due_at: Mapped[datetime | None]
    """When it is refreshed without being asked for, its revocation or a refused repair tried again; None: never."""
    refreshed_at: Mapped[datetime | None]
    refresh_failures: Mapped[int] = mapped_column(default=0)
    """In a row."""
    refresh_error_code: Mapped[str | None] = mapped_column(String(64))
    """Of the last failure; of a broken chain its reason."""
    session_id: Mapped[str | None] = mapped_column(String(36))
    """The authorization that made it."""


class ApiKey(_Timestamps, Base):
    """A caller's key: only its hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(_BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    """The visible part, by which the row is found."""
    key_hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]]
    expires_at: Mapped[datetime | None]


class Event(Base):
    """What happened, to what, by whom, under which request id. Append-only; `event_service` is its only writer."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(_BigId, primary_key=True)
    event_type: Mapped[str] = mapped_column(String(64), index=True)
    occurred_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    account_id: Mapped[str | None] = mapped_column(String(64), index=True)
    api_app: Mapped[str | None] = mapped_column(String(64))
    session_id: Mapped[str | None] = mapped_column(String(36), index=True)
    profile_id: Mapped[str | None] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(128))
    request_id: Mapped[str | None] = mapped_column(String(128))
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)
