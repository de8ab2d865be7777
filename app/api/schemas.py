"""What comes in and what goes out."""

import re
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.models import SessionStage, SessionStatus
from app.services.authorization_service import SessionView

_HANDLE: Final = re.compile(r"[a-z0-9_]{1,64}")


def normalize_account_id(value: str) -> str:
    """A handle as it is stored: lower case, without ``@``. Raises `ValueError`."""
    handle = value.strip().removeprefix("@").lower()
    if not _HANDLE.fullmatch(handle):
        raise ValueError(
            "must be an account's handle: 1 to 64 letters, digits and underscores, with or without @"
        )
    return handle


class AuthorizeRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"account_id": "my_account", "api_app": "AIOTT1"}]}
    )

    account_id: Annotated[str, Field(max_length=128), AfterValidator(normalize_account_id)] = Field(
        description="The account's handle; a leading @ and upper case do not matter"
    )
    api_app: str = Field(min_length=1, max_length=64, description="Name of a configured OAuth app")
    action: Literal["authorize"] | None = Field(default=None, description="Accepted and ignored")


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
    attempts: int
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
    def from_view(cls, view: SessionView) -> "SessionResponse":
        row = view.row
        return cls(
            session_id=row.session_id,
            status=row.status,
            profile_id=row.profile_id,
            account_id=row.twitter_username,
            api_app=row.api_app,
            stage=row.stage,
            stage_seconds=row.stage_times,
            queue_position=view.queue_position,
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
    workers: list[WorkerHealth]
    running_profiles: int
    max_concurrent_profiles: int
    event_loop: LoopLagHealth
