"""Requests and responses of `/authorize`."""

from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.common import AccountId, Moment
from app.api.schemas.paging import PageQuery
from app.models import AuthorizationAttempt, AuthorizationSession, ConsentMode, SessionStage, SessionStatus
from app.services.authorizations.queries import SessionFilter
from app.services.authorizations.requests import AuthorizationCommand
from app.services.authorizations.service import SessionView
from app.services.authorizations.waiting import MAX_EXACT_POSITION

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

    account_id: AccountId
    api_app: str = Field(min_length=1, max_length=64, description="Name of a configured OAuth app")
    action: Literal["authorize"] | None = Field(default=None, description="Accepted and ignored")
    priority: int = Field(
        default=5,
        ge=0,
        le=9,
        description="A higher priority starts earlier; a session that waits long enough starts in any case",
    )
    not_before: Moment | None = Field(default=None, description="Earliest start")
    expires_at: Moment | None = Field(
        default=None, description="Latest start; after it the session ends as `timeout`"
    )
    timeout_seconds: float | None = Field(
        default=None,
        ge=1,
        le=3600,
        description="Limit of one attempt, in seconds; at most what the settings allow",
    )
    force: bool = Field(
        default=False, description="Create a session even if one of this account and app is open"
    )
    consent: ConsentMode | None = Field(
        default=None, description="Who presses Authorize; by default as the app or the settings say"
    )
    stage_timeouts: StageTimeouts = Field(
        default_factory=StageTimeouts,
        description="Limits of single steps, in seconds; each at most what the settings allow",
    )

    def to_command(self) -> AuthorizationCommand:
        values = self.model_dump(exclude={"action", "stage_timeouts"})
        return AuthorizationCommand(
            **values, stage_timeouts=self.stage_timeouts.model_dump(exclude_none=True)
        )


class AttemptResponse(BaseModel):
    """One start of a session; `error_code` null: it runs, or it brought the tokens."""

    number: int
    stage: SessionStage | None
    error: str | None
    error_code: str | None
    started_at: datetime
    seconds: float | None = Field(description="Duration; null while the attempt runs")

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


class SessionSummary(BaseModel):
    """An authorization session, as lists show it."""

    session_id: str
    status: SessionStatus
    profile_id: str
    account_id: str
    api_app: str
    stage: SessionStage | None = Field(description="Last stage that the session reached")
    stage_seconds: dict[str, float] = Field(description="Seconds from the start until each stage was reached")
    priority: int
    not_before: datetime | None = Field(description="Earliest start; after a failure, of the next attempt")
    consent: ConsentMode = Field(description="Who presses Authorize: the service, or a person")
    awaits_person: bool = Field(
        description="Whether the session waits for a person at a page that asks for one, instead of ending"
    )
    batch_id: str | None = Field(description="Batch that the session belongs to")
    attempts: int
    scopes: list[str] = Field(description="Requested scopes; after completion the granted ones")
    missing_scopes: list[str] = Field(description="Requested scopes that were not granted")
    error: str | None
    error_code: str | None
    request_id: str = Field(description="Request id of the POST that created the session")
    requested_by: str = Field(description="Name of the API key or person that requested it")
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime

    @classmethod
    def from_row(cls, row: AuthorizationSession) -> "SessionSummary":
        return cls(**_values(row))


class SessionResponse(SessionSummary):
    """An authorization session."""

    queue_position: int | None = Field(
        description="Place in the queue, from 1; null unless the session waits for a slot"
    )
    queue_position_is_exact: bool = Field(
        description=f"False for a `queue_position` over {MAX_EXACT_POSITION}: it is that one or a later one"
    )
    existing: bool = Field(default=False, description="Whether an earlier request created it")
    attempt_list: list[AttemptResponse] = Field(description="All attempts with their results, oldest first")

    @classmethod
    def from_view(cls, view: SessionView, *, existing: bool = False) -> "SessionResponse":
        return cls(
            **_values(view.row),
            queue_position=view.queue_position,
            queue_position_is_exact=(view.queue_position or 0) <= MAX_EXACT_POSITION,
            existing=existing,
            attempt_list=[AttemptResponse.from_row(attempt) for attempt in view.attempts],
        )


class SessionListQuery(PageQuery):
    """Filters, order and page; what is left out does not matter."""

    account_id: AccountId | None = None
    api_app: str | None = Field(default=None, description="Name of an OAuth app")
    status: SessionStatus | None = Field(default=None, description="Status")
    error_code: str | None = Field(default=None, description="Error code of the session")
    batch_id: str | None = Field(default=None, description="Batch that the session belongs to")
    request_id: str | None = Field(
        default=None, description="Request id of the POST that created the session"
    )
    requested_by: str | None = Field(
        default=None, description="Name of the API key or person that requested it"
    )
    since: Moment | None = Field(default=None, description="Requested at this time or later")
    until: Moment | None = Field(default=None, description="Requested before this time")
    ended_since: Moment | None = Field(default=None, description="Ended at this time or later")
    order: Literal["asc", "desc"] = Field(default="desc", description="`desc`: newest first")

    def filter(self) -> SessionFilter:
        return SessionFilter(**{field.name: getattr(self, field.name) for field in fields(SessionFilter)})


_RENAMED: Final = {"stage_seconds": "stage_times", "error": "error_message"}


def _values(row: AuthorizationSession) -> dict[str, Any]:
    return {name: getattr(row, _RENAMED.get(name, name)) for name in SessionSummary.model_fields}
