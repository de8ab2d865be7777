"""Webhooks coming in and going out."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app.api.schemas.common import Moment, known_type
from app.api.schemas.key import AccountPattern, ApiAppName
from app.api.schemas.paging import PageQuery
from app.clients.webhooks import WebhookAnswer
from app.models import DeliveryStatus, WebhookAttempt, WebhookDelivery, WebhookStatus
from app.services.shared.access import MAX_ACCOUNT_PATTERNS
from app.services.webhooks.queries import WebhookView

Url = Annotated[str, Field(min_length=1, max_length=2048, description="https address with a public host")]
Name = Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f]*$", description="For people")]
EventTypes = Annotated[
    list[Annotated[str, Field(pattern=r"^[a-z0-9_.*]{1,64}$"), AfterValidator(known_type)]],
    Field(
        max_length=50,
        description="Types of the schema `EventType`, or patterns with * for any characters that match at least one; "
        "empty: all",
    ),
]
ApiApps = Annotated[
    list[ApiAppName],
    Field(max_length=100, description="Only events of these OAuth apps; empty: all"),
]
AccountPatterns = Annotated[
    list[AccountPattern],
    Field(
        max_length=MAX_ACCOUNT_PATTERNS,
        description="Only events of these accounts, with * for any characters; empty: all",
    ),
]


class CreateWebhookRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"url": "https://hooks.example.com/gologin", "event_types": ["authorization.*"]}]
        },
    )

    url: Url
    name: Name = ""
    event_types: EventTypes = []
    api_apps: ApiApps | None = Field(default=None, description="By default the restriction of the API key")
    account_patterns: AccountPatterns | None = Field(
        default=None, description="By default the restriction of the API key"
    )


class UpdateWebhookRequest(BaseModel):
    """Changes to a webhook; omitted fields stay unchanged."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"event_types": ["authorization.*", "credential.broken"]}]},
    )

    url: Url | None = None
    name: Name | None = None
    event_types: EventTypes | None = None
    api_apps: ApiApps | None = None
    account_patterns: AccountPatterns | None = None


class RotateWebhookRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    overlap_seconds: int = Field(
        default=86_400,
        ge=0,
        le=604_800,
        description="Seconds for which deliveries are signed with the old secret as well",
    )
    force: bool = Field(
        default=False,
        description="Rotate even during the last rotation's overlap; the secret that it replaced then ends at once",
    )


class ReplayWebhookRequest(BaseModel):
    """One of both."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"since": "2026-11-21T08:00:00Z"}]}
    )

    since: Moment | None = None
    event_id: int | None = Field(default=None, ge=1, le=2**63 - 1)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.since is None) == (self.event_id is None):
            raise ValueError("needs one of since and event_id")
        return self

    @property
    def begin(self) -> datetime | int:
        begin = self.since if self.event_id is None else self.event_id
        assert begin is not None
        return begin


class DeliveryListQuery(PageQuery):
    status: DeliveryStatus | None = Field(default=None, description="Status")


class WebhookResponse(BaseModel):
    id: str
    name: str
    url: str
    event_types: list[str]
    api_apps: list[str]
    account_patterns: list[str]
    status: WebhookStatus
    pause_reason: str | None
    failing_since: datetime | None = Field(
        description="Start of the failures; null: the last delivery succeeded"
    )
    previous_secret_expires_at: datetime | None = Field(
        description="End of the time in which two secrets are valid"
    )
    pending: int = Field(description="Deliveries that are taken up and not done; counted to 10,000")
    parked: int = Field(
        description="Deliveries that were given up; counted to 10,000. "
        "A replay sends those again whose events are still kept and wanted"
    )
    created_by: str
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_view(cls, view: WebhookView) -> "WebhookResponse":
        row = view.row
        return cls(
            id=row.endpoint_id,
            name=row.name,
            url=row.url,
            event_types=row.event_types,
            api_apps=row.api_apps,
            account_patterns=row.account_patterns,
            status=row.status,
            pause_reason=row.pause_reason,
            failing_since=row.failing_since,
            previous_secret_expires_at=row.previous_secret_expires_at,
            pending=view.pending,
            parked=view.parked,
            created_by=row.created_by,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


class CreatedWebhookResponse(WebhookResponse):
    secret: str = Field(description="Shown once; signatures are checked with it")


class RotatedWebhookResponse(BaseModel):
    secret: str = Field(description="Shown once")


class ReplayedWebhookResponse(BaseModel):
    from_event_id: int | None = Field(description="First event that is sent again; null: there is none")
    status: WebhookStatus = Field(
        description="Status of the webhook. `paused`: nothing is sent until it is resumed"
    )


class DeliveryAttemptResponse(BaseModel):
    started_at: datetime
    milliseconds: int
    status_code: int | None
    error: str | None = Field(description="Reason why there is no status")
    answer: str | None = Field(description="The first 2,048 characters of the body, secrets masked")

    @classmethod
    def from_attempt(cls, attempt: WebhookAttempt | WebhookAnswer) -> "DeliveryAttemptResponse":
        return cls(
            started_at=attempt.started_at,
            milliseconds=attempt.milliseconds,
            status_code=attempt.status_code,
            error=attempt.error,
            answer=attempt.answer,
        )


class TestedWebhookResponse(DeliveryAttemptResponse):
    delivered: bool


class DeliveryResponse(BaseModel):
    id: int
    event_id: int
    event_type: str
    account_id: str | None
    status: DeliveryStatus
    attempts: int = Field(description="Attempts since the delivery was created, resumed or replayed")
    next_attempt_at: datetime | None = Field(
        description="Null: the delivery has ended, or an earlier one of its account has not"
    )
    created_at: datetime
    completed_at: datetime | None

    @classmethod
    def from_row(cls, row: WebhookDelivery) -> "DeliveryResponse":
        return cls(
            id=row.id,
            event_id=row.event_id,
            event_type=row.event_type,
            account_id=row.account_id,
            status=row.status,
            attempts=row.attempts,
            next_attempt_at=row.next_attempt_at,
            created_at=row.created_at,
            completed_at=row.completed_at,
        )


class DeliveryDetailResponse(DeliveryResponse):
    attempt_list: list[DeliveryAttemptResponse] = Field(description="All attempts, oldest first")
