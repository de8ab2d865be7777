"""The current tokens, and the OAuth apps they belong to."""

from datetime import datetime
from typing import Final

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigId, Lease, Timestamps, rows_where, string_enum
from app.models.statuses import (
    CredentialStatus,
)

NOT_ACTIVE: Final = "status <> 'active'"
"""Credentials whose tokens are not handed out. A query uses the index when it has these words."""


class Credential(Timestamps, Lease, Base):
    """The current tokens of an account in an app; secrets encrypted, and nowhere else.

    The lease is held by whoever refreshes or revokes them.
    """

    __tablename__ = "credentials"
    __table_args__ = (
        Index("uq_credentials_account", "account_id", "api_app", unique=True),
        Index("ix_credentials_due", "status", "refresh_due_at"),
        Index("ix_credentials_expiry", "status", "token_expires_at", "id"),
        Index("ix_credentials_not_active", "id", **rows_where(NOT_ACTIVE)),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    account_id: Mapped[str] = mapped_column(String(64))
    api_app: Mapped[str] = mapped_column(String(64))
    provider_user_id: Mapped[str] = mapped_column(String(255))
    access_token: Mapped[str] = mapped_column(Text)
    refresh_token: Mapped[str | None] = mapped_column(Text)
    oauth_token_secret: Mapped[str | None] = mapped_column(Text)
    scopes: Mapped[list[str]]
    token_expires_at: Mapped[datetime | None] = mapped_column(index=True)
    status: Mapped[CredentialStatus] = mapped_column(
        string_enum(CredentialStatus), default=CredentialStatus.ACTIVE
    )
    version: Mapped[int] = mapped_column(default=1)
    """Grows with every new token set."""
    spending_version: Mapped[int | None]
    """Version whose refresh token is about to be spent, or was, without a known answer: it is never spent again."""
    refresh_due_at: Mapped[datetime | None]
    """Time of the next refresh, retry of a revocation or retry of a refused repair; None: never."""
    refreshed_at: Mapped[datetime | None]
    refresh_failures: Mapped[int] = mapped_column(default=0)
    """Failures in a row."""
    refresh_refusals: Mapped[int] = mapped_column(default=0)
    """Refusals in a row that name no reason that is known."""
    refused_since: Mapped[datetime | None]
    """Time of the first refusal in a row."""
    refresh_error_code: Mapped[str | None] = mapped_column(String(64))
    """Error code of the last failure; the reason of a broken chain."""
    unusable_since: Mapped[datetime | None]
    """Time at which the chain broke, or the revocation was asked for; None: not known, or the tokens are active."""
    session_id: Mapped[str | None] = mapped_column(String(36))
    """The authorization that made it."""


class AppState(Base):
    """An OAuth app's failures in a row that were its own fault, and whether it is paused for them."""

    __tablename__ = "app_states"

    api_app: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures_in_a_row: Mapped[int] = mapped_column(default=0)
    limited_until: Mapped[datetime | None]
    """The provider limits the app's rate until then."""
    limited_by: Mapped[str | None] = mapped_column(String(64))
    """The name of the limit in the provider's headers."""
    resumed_at: Mapped[datetime | None]
    """An operator lifted its limits then: what a process has learned of them before does not count any more."""
    paused_at: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)


class AccountLimit(Base):
    """An account whose who-am-I the provider does not answer for now: a consent would be thrown away."""

    __tablename__ = "account_limits"

    account_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    api_app: Mapped[str] = mapped_column(String(64), primary_key=True)
    limited_until: Mapped[datetime] = mapped_column(index=True)
    limited_by: Mapped[str] = mapped_column(String(64))
    """The name of the limit in the provider's headers."""
