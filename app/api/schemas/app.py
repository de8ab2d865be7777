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
