"""What comes in and what goes out."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from app.api.lists import PageQuery
from app.models import (
    AppState,
    Profile,
    ProfileSync,
    SyncStatus,
    utc_now,
)
from app.services.profiles.directory import ProfileFilter, SortField
from app.services.profiles.request_budget import BreakerState
from app.utils.handles import normalize_handle

_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 2999

AccountId = Annotated[
    str,
    Field(
        max_length=128,
        description="The account's handle; a leading @ and upper case do not matter",
        examples=["my_account"],
        json_schema_extra={"pattern": r"^\s*@?[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,63}\s*$"},
    ),
    AfterValidator(normalize_handle),
]
"""Checked, and made lower case, by `normalize_handle`; the pattern tells clients."""


def _within_the_calendar(value: datetime) -> datetime:
    if not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        raise ValueError(f"must be a time between the years {_FIRST_YEAR} and {_LAST_YEAR}")
    return value.astimezone(UTC)


Moment = Annotated[
    AwareDatetime, AfterValidator(_within_the_calendar), Field(examples=["2026-11-21T08:00:00Z"])
]
"""A time with its zone, made UTC, from which and to which seconds can be counted."""


class ProfileListQuery(PageQuery):
    """Filters, order and page of the profile list; what is left out does not matter."""

    account_id: AccountId | None = None
    api_app: str | None = Field(default=None, description="Name of an OAuth app")
    is_active: bool | None = Field(default=None, description="Whether GoLogin still lists it")
    in_use: bool | None = Field(default=None, description="Whether its browser runs for us")
    is_quarantined: bool | None = Field(default=None, description="Whether its browser could not be stopped")
    text: str | None = Field(
        default=None, max_length=200, description="Part of the name, the account or the id, in any case"
    )
    sort: SortField = Field(default="profile_name", description="Rows without a value come last")
    order: Literal["asc", "desc"] = "asc"

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
    """An OAuth app that is paused, or whose calls the provider limits."""

    api_app: str
    paused_at: datetime | None = Field(description="null: it is not paused, only limited")
    reason: str = Field(description="Of the pause")
    limited_until: datetime | None = Field(description="null: the provider does not limit its calls")
    limited_by: str | None = Field(description="The limit's name in the provider's headers")

    @classmethod
    def from_row(cls, row: AppState) -> "PausedAppResponse":
        is_limited = row.limited_until is not None and row.limited_until > utc_now()
        return cls(
            api_app=row.api_app,
            paused_at=row.paused_at,
            reason=row.reason or "",
            limited_until=row.limited_until if is_limited else None,
            limited_by=row.limited_by if is_limited else None,
        )


class ResumedAppResponse(BaseModel):
    api_app: str
    was_paused: bool
    was_limited: bool = Field(description="The app's calls, or those of accounts in it")


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
    reasons: list[str] = Field(description="why it is not ready; empty when it is")
    database: bool
    queue: bool | None = Field(description="sessions come in; null in a process without workers")
    workers: list[WorkerHealth]
    running_profiles: int
    max_concurrent_profiles: int
    event_loop: LoopLagHealth
    gologin_breaker: BreakerResponse | None = Field(description="null when the database is gone")
    alarms: list[AlarmResponse]
