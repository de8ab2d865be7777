"""What comes in and what goes out."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from app.models import (
    AppState,
    AuthorizationAttempt,
    ConsentMode,
    Profile,
    ProfileSync,
    SessionStage,
    SessionStatus,
    SyncStatus,
    utc_now,
)
from app.services.authorization_service import Order, SessionView
from app.services.cloud_gate import BreakerState
from app.services.profile_directory import ProfileFilter, SortField
from app.utils.handles import normalize_handle

AccountId = Annotated[str, Field(max_length=128), AfterValidator(normalize_handle)]


StepSeconds = Annotated[float | None, Field(ge=0.5, le=3600, strict=True)]


class StageTimeouts(BaseModel):
    """Seconds."""

    model_config = ConfigDict(extra="forbid")

    profile_start: StepSeconds = None
    attach: StepSeconds = None
    page_load: StepSeconds = None
    consent_button: StepSeconds = None
    callback: StepSeconds = None


class AuthorizeRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"account_id": "my_account", "api_app": "AIOTT1"}]}
    )

    account_id: AccountId = Field(
        description="The account's handle; a leading @ and upper case do not matter"
    )
    api_app: str = Field(min_length=1, max_length=64, description="Name of a configured OAuth app")
    action: Literal["authorize"] | None = Field(default=None, description="Accepted and ignored")
    priority: int = Field(default=5, ge=0, le=9, description="The higher, the sooner; age wins in the end")
    not_before: AwareDatetime | None = Field(default=None, description="Do not start earlier")
    expires_at: AwareDatetime | None = Field(
        default=None, description="Give up if it has not started by then"
    )
    timeout_seconds: float | None = Field(
        default=None, ge=1, le=3600, description="For one attempt; at most what the settings allow"
    )
    force: bool = Field(default=False, description="Also when a session of this account and app is open")
    consent: ConsentMode | None = Field(
        default=None, description="Who presses Authorize; default: as the app or the settings say"
    )
    stage_timeouts: StageTimeouts = Field(
        default_factory=StageTimeouts, description="Of single steps; each at most what the settings allow"
    )

    def order(self) -> Order:
        values = self.model_dump(exclude={"action", "stage_timeouts"})
        return Order(**values, stage_timeouts=self.stage_timeouts.model_dump(exclude_none=True))


class AttemptResponse(BaseModel):
    """One start of a session; `error_code` null: it runs, or it brought the tokens."""

    number: int
    stage: SessionStage | None
    error: str | None
    error_code: str | None
    started_at: datetime
    seconds: float | None = Field(description="null while it runs")

    @classmethod
    def from_row(cls, row: AuthorizationAttempt) -> "AttemptResponse":
        ended = row.ended_at
        return cls(
            number=row.number,
            stage=row.stage,
            error=row.error_message,
            error_code=row.error_code,
            started_at=row.started_at,
            seconds=None if ended is None else round((ended - row.started_at).total_seconds(), 3),
        )


class SessionResponse(BaseModel):
    """An authorization session."""

    session_id: str
    status: SessionStatus
    profile_id: str
    account_id: str
    api_app: str
    stage: SessionStage | None = Field(description="How far a session in progress is, or how far it came")
    stage_seconds: dict[str, float] = Field(description="Seconds from the start until each stage was reached")
    queue_position: int | None = Field(
        description="1 is next; null unless the session waits for a profile slot"
    )
    existing: bool = Field(default=False, description="An earlier request made it")
    priority: int
    not_before: datetime | None = Field(description="It starts no earlier; after a failure, the next attempt")
    consent: ConsentMode = Field(description="Who presses Authorize: the service, or a person")
    awaits_person: bool = Field(description="A page that asks for a person is waited for, it is not the end")
    attempts: int
    attempt_list: list[AttemptResponse] = Field(description="Each attempt with its own end")
    scopes: list[str] = Field(description="Asked for; after completion those granted")
    missing_scopes: list[str] = Field(description="Asked for and not granted")
    error: str | None
    error_code: str | None
    request_id: str = Field(description="Of the POST that made the session")
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime

    @classmethod
    def from_view(cls, view: SessionView, *, existing: bool = False) -> "SessionResponse":
        row = view.row
        return cls(
            existing=existing,
            priority=row.priority,
            not_before=row.not_before,
            attempt_list=[AttemptResponse.from_row(attempt) for attempt in view.attempts],
            session_id=row.session_id,
            status=row.status,
            profile_id=row.profile_id,
            account_id=row.twitter_username,
            api_app=row.api_app,
            stage=row.stage,
            stage_seconds=row.stage_times,
            queue_position=view.queue_position,
            consent=row.consent,
            awaits_person=row.awaits_person,
            attempts=row.attempts,
            scopes=row.scopes,
            missing_scopes=row.missing_scopes,
            error=row.error_message,
            error_code=row.error_code,
            request_id=row.request_id,
            created_at=row.created_at,
            started_at=row.started_at,
            completed_at=row.completed_at,
            expires_at=row.expires_at,
        )


class ProfileListQuery(BaseModel):
    """Filters, order and page of the profile list; what is left out does not matter."""

    model_config = ConfigDict(extra="forbid")

    account_id: AccountId | None = None
    api_app: str | None = None
    is_active: bool | None = Field(default=None, description="Whether GoLogin still lists it")
    in_use: bool | None = None
    is_quarantined: bool | None = None
    text: str | None = Field(
        default=None, max_length=200, description="Part of the name, the account or the id, in any case"
    )
    sort: SortField = "profile_name"
    order: Literal["asc", "desc"] = "asc"
    page: int = Field(default=1, ge=1, le=1_000_000)
    page_size: int = Field(default=50, ge=1, le=500)

    def filter(self) -> ProfileFilter:
        return ProfileFilter(
            account_id=self.account_id,
            api_app=self.api_app,
            is_active=self.is_active,
            in_use=self.in_use,
            is_quarantined=self.is_quarantined,
            text=self.text,
        )


class ProfileResponse(BaseModel):
    """A GoLogin profile."""

    profile_id: str
    profile_name: str
    twitter_username: str | None = Field(description="Whose it is; lower case, without @")
    api_app: str | None = Field(description="The one OAuth app it is for; null: any")
    is_linked: bool = Field(description="Set by hand; else it follows from the rule of the settings")
    is_active: bool = Field(description="GoLogin still lists it")
    in_use: bool
    lease_owner: str | None = Field(description="machine:process that runs it")
    lease_expires_at: datetime | None
    quarantined_at: datetime | None
    quarantine_reason: str | None
    metadata: dict[str, Any] = Field(description="What else GoLogin says of it; never a proxy's password")
    last_synced: datetime | None = Field(description="When a sync last changed it")
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(cls, row: Profile) -> "ProfileResponse":
        values = {name: getattr(row, name) for name in cls.model_fields if name != "metadata"}
        return cls(metadata=row.profile_metadata, **values)


class LinkRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    twitter_username: AccountId
    api_app: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$", description="null: any app")


class SyncRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    allow_mass_removal: bool = Field(default=False, description="Go on even if most of the profiles are gone")


class SyncResponse(BaseModel):
    """One pass over GoLogin's profile list; counts of profiles, but for pages and conflicts."""

    sync_id: str
    status: SyncStatus
    requested_by: str
    pages: int
    seen: int
    created: int
    updated: int
    returned: int = Field(description="Were gone and are listed again")
    gone: int = Field(description="Marked inactive")
    conflicts: int = Field(description="Accounts to which the rule gives several profiles")
    seconds: float | None
    error: str | None
    error_code: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @classmethod
    def from_row(cls, row: ProfileSync) -> "SyncResponse":
        own = cls.model_fields.keys() - {"seconds", "error"}
        seconds = None
        if row.started_at is not None:
            seconds = round(((row.completed_at or utc_now()) - row.started_at).total_seconds(), 3)
        return cls(seconds=seconds, error=row.error_message, **{name: getattr(row, name) for name in own})


class BreakerResponse(BaseModel):
    """GoLogin's cloud API is not called while it is open."""

    is_open: bool
    opened_at: datetime | None
    reason: str | None

    @classmethod
    def from_state(cls, state: BreakerState) -> "BreakerResponse":
        return cls(is_open=state.is_open, opened_at=state.opened_at, reason=state.reason)


class PausedAppResponse(BaseModel):
    api_app: str
    paused_at: datetime
    reason: str

    @classmethod
    def from_row(cls, row: AppState) -> "PausedAppResponse":
        assert row.paused_at is not None
        return cls(api_app=row.api_app, paused_at=row.paused_at, reason=row.reason or "")


class ResumedAppResponse(BaseModel):
    api_app: str
    was_paused: bool


class AlarmResponse(BaseModel):
    name: str
    since: datetime
    detail: str


class HealthResponse(BaseModel):
    status: Literal["ok"] = "ok"
    version: str


class WorkerHealth(BaseModel):
    name: str
    alive: bool
    last_success: datetime | None
    consecutive_failures: int
    last_error: str | None = Field(description="Error code or class of the last failure")
    next_run: datetime | None


class LoopLagHealth(BaseModel):
    """How late the event loop runs its timers, over the last 6,000 ticks."""

    samples: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class ReadinessResponse(BaseModel):
    ready: bool
    database: bool
    queue: bool | None = Field(description="sessions come in; null in a process without workers")
    workers: list[WorkerHealth]
    running_profiles: int
    max_concurrent_profiles: int
    event_loop: LoopLagHealth
    gologin_breaker: BreakerResponse | None = Field(description="null when the database is gone")
    alarms: list[AlarmResponse]
