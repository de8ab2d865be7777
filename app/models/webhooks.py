"""Webhook endpoints, deliveries and their attempts."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigId, Lease, Timestamps, rows_where, string_enum, utc_now
from app.models.statuses import DeliveryStatus, WebhookStatus


class WebhookEndpoint(Timestamps, Base):
    """An address that is told of events. Who makes deliveries of events, or applies results, locks the row."""

    __tablename__ = "webhook_endpoints"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(String(36), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    url: Mapped[str] = mapped_column(Text)
    event_types: Mapped[list[str]]
    """Patterns with ``*`` for any characters; empty: all."""
    api_apps: Mapped[list[str]]
    """Empty: all."""
    account_patterns: Mapped[list[str]]
    """Patterns with ``*`` for any characters; empty: all."""
    secret: Mapped[str] = mapped_column(Text)
    """Encrypted."""
    previous_secret: Mapped[str | None] = mapped_column(Text)
    previous_secret_expires_at: Mapped[datetime | None]
    """End of the overlap in which deliveries are signed with both secrets."""
    status: Mapped[WebhookStatus] = mapped_column(string_enum(WebhookStatus), default=WebhookStatus.ACTIVE)
    pause_reason: Mapped[str | None] = mapped_column(Text)
    failing_since: Mapped[datetime | None]
    """Time of the first failure in a row; None when the last delivery succeeded."""
    after_xact_id: Mapped[int] = mapped_column(BigInteger)
    after_event_id: Mapped[int] = mapped_column(BigInteger)
    """The last event that was looked at."""
    created_by: Mapped[str] = mapped_column(String(128))


class WebhookDelivery(Lease, Base):
    """One event for one endpoint."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("uq_webhook_deliveries_event", "endpoint_row_id", "event_id", unique=True),
        Index("ix_webhook_deliveries_status", "endpoint_row_id", "status", "event_id"),
        Index(
            "ix_webhook_deliveries_due",
            "endpoint_row_id",
            "next_attempt_at",
            **rows_where("next_attempt_at IS NOT NULL"),
        ),
        Index(
            "ix_webhook_deliveries_line",
            "endpoint_row_id",
            "account_id",
            "event_id",
            **rows_where("status = 'pending'"),
        ),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    endpoint_row_id: Mapped[int] = mapped_column(
        BigId, ForeignKey("webhook_endpoints.id", ondelete="CASCADE")
    )
    event_id: Mapped[int] = mapped_column(BigInteger)
    event_type: Mapped[str] = mapped_column(String(64))
    account_id: Mapped[str | None] = mapped_column(String(64))
    """Deliveries of one account go out one after the other; those of none wait for nothing."""
    api_app: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[DeliveryStatus] = mapped_column(
        string_enum(DeliveryStatus), default=DeliveryStatus.PENDING
    )
    attempts: Mapped[int] = mapped_column(default=0)
    """Since it was made, resumed or replayed."""
    next_attempt_at: Mapped[datetime | None]
    """Time of the next attempt; None while an earlier one of the account is pending, or when it is not pending."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    completed_at: Mapped[datetime | None] = mapped_column(index=True)
    """Time at which it was delivered or parked."""


class WebhookAttempt(Base):
    """One try of a delivery, and what the endpoint answered."""

    __tablename__ = "webhook_attempts"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    delivery_id: Mapped[int] = mapped_column(
        BigId, ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), index=True
    )
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    milliseconds: Mapped[int]
    status_code: Mapped[int | None]
    """HTTP status; None when there was no answer: `error` says why."""
    error: Mapped[str | None] = mapped_column(Text)
    answer: Mapped[str | None] = mapped_column(Text)
    """Beginning of the answer, secrets masked."""
