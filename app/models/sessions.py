"""Requests to authorise an account, and what became of them."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigId, Lease, Timestamps, rows_where, string_enum, unique_where, utc_now
from app.models.statuses import (
    ActorKind,
    ConsentMode,
    SessionStage,
    SessionStatus,
)

_HAS_BATCH: Final = "batch_id IS NOT NULL"
_HAS_ERROR: Final = "error_code IS NOT NULL"
IN_QUEUE: Final = "status = 'pending' AND NOT is_held"
"""Sessions that wait for a slot. A query uses the index when it has these words: parameters would not match."""
PERSON_CODES: Final = ("ACCOUNT_MISMATCH", "CONSENT_DECLINED")
"""Error codes of failed sessions that only a person can help, besides those that need attention."""
_PERSON_FAILURE: Final = "status = 'failed' AND error_code IN ('ACCOUNT_MISMATCH', 'CONSENT_DECLINED')"
ENDED_FOR_PERSON: Final = f"status = 'needs_attention' OR ({_PERSON_FAILURE})"
"""Sessions that ended because a person must act."""
OPEN_AND_NOT_FORCED: Final = "status IN ('pending', 'in_progress') AND NOT is_forced"
"""Sessions of which an account has one at most in each app. An insert names the index by these words."""


class AuthorizationSession(Timestamps, Lease, Base):
    """One request to authorise an account."""

    __tablename__ = "authorization_sessions"
    __table_args__ = (
        Index("ix_authorization_sessions_queue", "status", "queue_rank", "id"),
        Index("ix_authorization_sessions_waiting", "queue_rank", "id", **rows_where(IN_QUEUE)),
        # One open session per account and app; those that were forced come on top.
        unique_where(
            "uq_authorization_sessions_open",
            OPEN_AND_NOT_FORCED,
            "twitter_username",
            "api_app",
        ),
        Index("ix_authorization_sessions_person", "id", **rows_where(ENDED_FOR_PERSON)),
        Index("ix_authorization_sessions_account", "twitter_username", "api_app", "status"),
        Index("ix_authorization_sessions_ended", "status", "completed_at"),
        Index("ix_authorization_sessions_batch", "batch_id", "status", "is_held", **rows_where(_HAS_BATCH)),
        Index("ix_authorization_sessions_batch_ended", "batch_id", "completed_at", **rows_where(_HAS_BATCH)),
        Index("ix_authorization_sessions_batch_held", "batch_id", "queue_rank", **rows_where("is_held")),
        Index("ix_authorization_sessions_created", "created_at", "id"),
        Index("ix_authorization_sessions_status", "status", "created_at", "id"),
        Index("ix_authorization_sessions_app", "api_app", "created_at", "id"),
        Index("ix_authorization_sessions_requested_by", "requested_by", "created_at", "id"),
        Index("ix_authorization_sessions_error", "error_code", "created_at", "id", **rows_where(_HAS_ERROR)),
        Index("ix_authorization_sessions_request", "request_id"),
        Index("ix_authorization_sessions_expiry", "expires_at", **rows_where("status = 'pending'")),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    session_id: Mapped[str] = mapped_column(String(36), unique=True)
    profile_id: Mapped[str] = mapped_column(String(64), index=True)
    account_id: Mapped[str] = mapped_column("twitter_username", String(64))
    api_app: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]]
    """Asked for, and after completion those granted."""
    missing_scopes: Mapped[list[str]] = mapped_column(default=list)
    """Asked for and not granted."""
    status: Mapped[SessionStatus] = mapped_column(string_enum(SessionStatus), default=SessionStatus.PENDING)
    stage: Mapped[SessionStage | None] = mapped_column(string_enum(SessionStage))
    stage_times: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Seconds from `started_at` at which each stage was reached."""
    priority: Mapped[int] = mapped_column(default=5)
    """0 to 9; the higher, the sooner."""
    queue_rank: Mapped[float] = mapped_column(default=0.0)
    """The lowest goes first: unix seconds of the request, less a head start for its priority. So age always wins."""
    not_before: Mapped[datetime | None]
    """Asked for by the caller, or the time of the next attempt."""
    timeout_seconds: Mapped[float | None]
    """Deadline of one attempt, from the running profile to the stored tokens; None: that of the settings."""
    stage_timeouts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """The caller's own deadlines of single steps, by name, seconds; the settings' are the longest."""
    is_forced: Mapped[bool] = mapped_column(default=False)
    """Asked for although another session of the account was open."""
    consent: Mapped[ConsentMode] = mapped_column(string_enum(ConsentMode), default=ConsentMode.AUTOMATIC)
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
    requested_by_kind: Mapped[ActorKind] = mapped_column(string_enum(ActorKind), default=ActorKind.KEY)
    requested_by_id: Mapped[str | None] = mapped_column(String(36))
    """Id of the API key."""
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    expires_at: Mapped[datetime]
    """A session that waits longer than this ends as ``timeout``."""


class AuthorizationAttempt(Base):
    """One start of a session and how it ended; the last one may still run."""

    __tablename__ = "authorization_attempts"
    __table_args__ = (Index("uq_authorization_attempts_number", "session_id", "number", unique=True),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    session_id: Mapped[str] = mapped_column(String(36))
    number: Mapped[int]
    """Number of the attempt, from 1."""
    stage: Mapped[SessionStage | None] = mapped_column(string_enum(SessionStage))
    """Last stage that the attempt reached."""
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    ended_at: Mapped[datetime | None]


class Evidence(Base):
    """Page of the browser when an attempt failed; secrets are masked."""

    __tablename__ = "evidence"
    __table_args__ = (Index("uq_evidence_attempt", "session_id", "attempt", unique=True),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    session_id: Mapped[str] = mapped_column(String(36))
    attempt: Mapped[int]
    taken_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    url: Mapped[str] = mapped_column(Text)
    """Address without query and fragment."""
    title: Mapped[str] = mapped_column(Text)
    test_ids: Mapped[list[str]]
    """`data-testid` of the visible elements."""
    console: Mapped[list[str]]
    """Errors of the page's console, the latest last."""
    screenshot: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    """JPEG; loaded only when asked for."""
    size_bytes: Mapped[int] = mapped_column(default=0)


class IdempotencyKey(Base):
    """A caller's `Idempotency-Key` and the session, or the batch, that its first request made."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("uq_idempotency_keys_key", "caller", "key_hash", unique=True),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    caller: Mapped[str] = mapped_column(String(128))
    key_hash: Mapped[str] = mapped_column(String(64))
    body_hash: Mapped[str] = mapped_column(String(64))
    session_id: Mapped[str] = mapped_column(String(36))
    expires_at: Mapped[datetime] = mapped_column(index=True)
