"""Answers of the service; unknown fields are ignored, so that it may say more than these classes know."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of a session; `error_code` None: it runs, or it brought the tokens."""

    number: int
    stage: str | None
    error: str | None
    error_code: str | None
    started_at: datetime
    seconds: float | None
    """Duration; None while it runs."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """An authorization session."""

    session_id: str
    status: str
    """pending, in_progress, completed, failed, timeout, cancelled or needs_attention."""
    profile_id: str
    account_id: str
    api_app: str
    stage: str | None
    stage_seconds: Mapping[str, float]
    """Seconds from the start until each stage was reached."""
    priority: int
    not_before: datetime | None
    consent: str
    awaits_person: bool
    batch_id: str | None
    attempts: int
    scopes: tuple[str, ...]
    missing_scopes: tuple[str, ...]
    error: str | None
    error_code: str | None
    request_id: str
    requested_by: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime
    queue_position: int | None
    existing: bool
    """An earlier request made it."""
    attempt_list: tuple[Attempt, ...]
    queue_position_is_exact: bool
    """False: the position is this one or a later one."""

    @property
    def is_ended(self) -> bool:
        return self.completed_at is not None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Many accounts that are authorised together."""

    batch_id: str
    status: str
    """running, completed, stopped or cancelled."""
    reason: str | None
    accepted: int
    """Rows with a session."""
    rejected: int
    max_running: int
    stop_percent: int
    stop_window: int
    requested_by: str
    created_at: datetime
    started_at: datetime
    completed_at: datetime | None
    """Time at which the last of its own sessions had ended."""
    counts: Mapping[str, int]
    """Rows by the status of their session."""
    eta_seconds: float | None

    @property
    def open(self) -> int:
        """Rows whose session has not ended, also those of other requests."""
        return self.counts.get("pending", 0) + self.counts.get("in_progress", 0)

    @property
    def is_ended(self) -> bool:
        return self.completed_at is not None and not self.open


@dataclass(frozen=True, kw_only=True)
class BatchRow:
    """A row of a batch and what became of it."""

    row: int
    """Number of the row, from 1."""
    account_id: str
    api_app: str
    session_id: str | None
    """Id of its session; None when the row could not become one: `error` says why."""
    existing: bool
    status: str | None
    error: str | None
    error_code: str | None


@dataclass(frozen=True, kw_only=True)
class PlacedBatch(Batch):
    existing: bool
    """An earlier request made it."""
    rows: tuple[BatchRow, ...]


@dataclass(frozen=True, kw_only=True)
class Token:
    """An access token that works now."""

    account_id: str
    api_app: str
    provider_user_id: str
    token_type: str
    """bearer or oauth1."""
    access_token: str = field(repr=False)
    oauth_token_secret: str | None = field(repr=False)
    scopes: tuple[str, ...]
    expires_at: datetime | None
    """Expiry; None when it does not expire."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Problem of an account, and what the service or a person does next."""

    code: str
    sentence: str
    since: datetime
    session_id: str | None
    """Session that runs for the account, or the last one that ended without tokens."""
    next_try_at: datetime | None
    """Time at which the service tries by itself; None: it does not, or a session runs."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """An account in an app, without its tokens; fields of the tokens are None when there are none."""

    account_id: str
    api_app: str | None
    """OAuth app; None: there are no tokens, and the profile is for any app."""
    state: str
    """working, expiring, broken, needs_person or never_authorized."""
    problem: Problem | None
    """Problem; None when the account works."""
    provider_user_id: str | None
    status: str | None
    scopes: tuple[str, ...]
    expires_at: datetime | None
    refreshed_at: datetime | None
    next_refresh_at: datetime | None
    failures: int
    last_error_code: str | None
    session_id: str | None
    created_at: datetime | None
    updated_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class ActionAccount:
    account_id: str
    api_app: str


@dataclass(frozen=True, kw_only=True)
class AccountAction:
    """An action on many accounts, or its dry run."""

    action: str
    dry_run: bool
    count: int
    """Accounts that the filter matches."""
    count_is_exact: bool
    """False: there are more, and the action is refused."""
    accounts: tuple[ActionAccount, ...]
    """The first 20 of them."""
    changed: int | None
    """Accounts that had something to be done; None of a dry run."""
    batch_id: str | None


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The account that the provider names for a token."""

    provider_user_id: str
    username: str
    is_same_account: bool


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event: its type, subject, actor and request id."""

    id: int
    event_type: str
    occurred_at: datetime
    account_id: str | None
    api_app: str | None
    session_id: str | None
    profile_id: str | None
    actor: str
    request_id: str | None
    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StreamedEvent(Event):
    last_event_id: str
    """Keep it: `stream_events(last_event_id=…)` goes on after this event."""


@dataclass(frozen=True, kw_only=True)
class WebhookEvent(Event):
    """`id` is 0 of a `webhook.test`."""

    webhook_id: str
    """The same in every try of an event: by it a second one is known."""
