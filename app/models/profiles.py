"""GoLogin profiles and the passes over their list."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigId, Lease, Timestamps, string_enum, unique_where
from app.models.statuses import (
    SyncStatus,
)


class Profile(Timestamps, Lease, Base):
    """A GoLogin profile, as the last sync saw it."""

    __tablename__ = "profiles"
    __table_args__ = (
        Index("ix_profiles_account", "twitter_username", "api_app"),
        Index("ix_profiles_name", "profile_name", "id"),
        Index("ix_profiles_in_use", "in_use", sqlite_where=text("in_use"), postgresql_where=text("in_use")),
        # One profile per account and app among those linked by hand.
        unique_where("uq_profiles_link", "is_linked", "twitter_username", "api_app"),
        # NULLs are all different to a unique index, so the links for any app need one of their own.
        unique_where("uq_profiles_link_any_app", "is_linked AND api_app IS NULL", "twitter_username"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    profile_id: Mapped[str] = mapped_column(String(64), unique=True)
    profile_name: Mapped[str] = mapped_column(Text)
    """Name in GoLogin, trimmed, its first 500 characters; not unique."""
    account_id: Mapped[str | None] = mapped_column("twitter_username", String(64))
    """Lower case, without ``@``."""
    api_app: Mapped[str | None] = mapped_column(String(64))
    """The one OAuth app this profile is for; None: any."""
    is_linked: Mapped[bool] = mapped_column(default=False)
    """Account and app were set by hand; else they follow from the rule of the settings."""
    last_synced: Mapped[datetime | None]
    """Time at which a sync last changed the row; one that finds nothing new writes nothing."""
    profile_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    """Further data of GoLogin, never the proxy's password."""
    is_active: Mapped[bool] = mapped_column(default=True)
    in_use: Mapped[bool] = mapped_column(default=False)
    ws_url: Mapped[str | None] = mapped_column(Text)
    """DevTools address of the browser that runs under the lease: how a left-over one is found and stopped."""
    quarantined_at: Mapped[datetime | None]
    """Time at which its browser could not be stopped: it is not started again until an operator releases it."""
    quarantine_reason: Mapped[str | None] = mapped_column(Text)


class ProfileSync(Timestamps, Base):
    """One pass over GoLogin's profile list: asked for or periodic."""

    __tablename__ = "profile_syncs"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    sync_id: Mapped[str] = mapped_column(String(36), unique=True)
    status: Mapped[SyncStatus] = mapped_column(
        string_enum(SyncStatus), default=SyncStatus.PENDING, index=True
    )
    requested_by: Mapped[str] = mapped_column(String(128))
    request_id: Mapped[str | None] = mapped_column(String(128))
    allow_mass_removal: Mapped[bool] = mapped_column(default=False)
    pages: Mapped[int] = mapped_column(default=0)
    seen: Mapped[int] = mapped_column(default=0)
    created: Mapped[int] = mapped_column(default=0)
    updated: Mapped[int] = mapped_column(default=0)
    returned: Mapped[int] = mapped_column(default=0)
    """Were gone and are listed again."""
    gone: Mapped[int] = mapped_column(default=0)
    conflicts: Mapped[int] = mapped_column(default=0)
    """Accounts to which the rule gives more than one profile."""
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
