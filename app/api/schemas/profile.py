"""Requests and responses of profiles and their syncs."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.common import AccountId
from app.api.schemas.paging import PageQuery
from app.models import (
    Profile,
    ProfileSync,
    SyncStatus,
    utc_now,
)
from app.services.profiles.directory import ProfileFilter, SortField


class ProfileListQuery(PageQuery):
    """Filters, order and page of the profile list; what is left out does not matter."""

    account_id: AccountId | None = None
    api_app: str | None = Field(default=None, description="Name of an OAuth app")
    is_active: bool | None = Field(default=None, description="Whether GoLogin still lists the profile")
    in_use: bool | None = Field(default=None, description="Whether the service runs its browser")
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
    twitter_username: str | None = Field(
        description="Account that the profile belongs to, in lower case and without @"
    )
    api_app: str | None = Field(description="OAuth app that the profile is for; null: any")
    is_linked: bool = Field(
        description="Whether the account is linked; otherwise it follows from the rule of the settings"
    )
    is_active: bool = Field(description="Whether GoLogin still lists the profile")
    in_use: bool
    lease_owner: str | None = Field(description="`machine:process` that runs the profile")
    lease_expires_at: datetime | None
    quarantined_at: datetime | None
    quarantine_reason: str | None
    metadata: dict[str, Any] = Field(description="Other data of GoLogin; never a proxy's password")
    last_synced: datetime | None = Field(description="Time of the last change by a sync")
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(cls, row: Profile) -> "ProfileResponse":
        renamed = {"twitter_username": row.account_id, "metadata": row.profile_metadata}
        others = {name: getattr(row, name) for name in cls.model_fields if name not in renamed}
        return cls(**renamed, **others)


class LinkRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    twitter_username: AccountId
    api_app: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$", description="null: any app")


class SyncRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    allow_mass_removal: bool = Field(
        default=False, description="Mark profiles as gone even if most of them are"
    )


class SyncResponse(BaseModel):
    """One pass over GoLogin's profile list; counts of profiles, but for pages and conflicts."""

    sync_id: str
    status: SyncStatus
    requested_by: str
    pages: int
    seen: int
    created: int
    updated: int
    returned: int = Field(description="Inactive profiles that are listed again")
    gone: int = Field(description="Profiles that were marked inactive")
    conflicts: int = Field(description="Accounts to which the rule gives several profiles")
    seconds: float | None
    error: str | None
    error_code: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @classmethod
    def from_row(cls, row: ProfileSync) -> "SyncResponse":
        names = cls.model_fields.keys() - {"seconds", "error"}
        seconds = None
        if row.started_at is not None:
            seconds = round(((row.completed_at or utc_now()) - row.started_at).total_seconds(), 3)
        return cls(seconds=seconds, error=row.error_message, **{name: getattr(row, name) for name in names})
