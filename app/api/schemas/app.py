"""Responses of OAuth apps."""

from datetime import datetime

from pydantic import BaseModel, Field

from app.models import (
    AppState,
    utc_now,
)


class PausedAppResponse(BaseModel):
    """An OAuth app that is paused, or whose calls the provider limits."""

    api_app: str
    paused_at: datetime | None = Field(description="Time of the pause; null: the app is limited only")
    reason: str = Field(description="Reason of the pause")
    limited_until: datetime | None = Field(description="End of the provider's limit; null: there is none")
    limited_by: str | None = Field(description="Name of the limit in the provider's headers")

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
    was_limited: bool = Field(
        description="Whether the provider limited calls of the app, or of accounts in it"
    )
