"""Sessions that were asked for together."""

from datetime import datetime

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigId, Timestamps, rows_where, string_enum, unique_where, utc_now
from app.models.statuses import (
    BatchStatus,
)


class Batch(Timestamps, Base):
    """Sessions that were asked for together and are paced together."""

    __tablename__ = "batches"
    __table_args__ = (
        unique_where("uq_batches_source", "source_hash IS NOT NULL", "requested_by", "source_hash"),
        Index("ix_batches_open", "id", **rows_where("completed_at IS NULL")),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    batch_id: Mapped[str] = mapped_column(String(36), unique=True)
    status: Mapped[BatchStatus] = mapped_column(string_enum(BatchStatus), default=BatchStatus.RUNNING)
    requested_by: Mapped[str] = mapped_column(String(128))
    request_id: Mapped[str | None] = mapped_column(String(128))
    source_hash: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 of what it was made of; the same source of the same caller is the same batch."""
    accepted: Mapped[int] = mapped_column(default=0)
    """Rows with a session, those included whose session was open already."""
    rejected: Mapped[int] = mapped_column(default=0)
    """Rows that could not become a session."""
    max_running: Mapped[int]
    """Sessions of the batch that may be under way at once: a wave."""
    stop_percent: Mapped[int]
    """Percent of the last `stop_window` sessions; the batch stops when more of them failed."""
    stop_window: Mapped[int]
    reason: Mapped[str | None] = mapped_column(Text)
    """Reason why the batch was stopped."""
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    """Time of its creation or last retry: sessions that ended before do not stop it."""
    completed_at: Mapped[datetime | None]
    """Time at which the last of its sessions had ended, whatever the status; until then it is reconciled."""


class BatchRow(Base):
    """A row of what a batch was made of, and what became of it."""

    __tablename__ = "batch_rows"

    batch_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Number of the row, from 1."""
    account_id: Mapped[str] = mapped_column(String(128))
    """Account; the given text where it is no handle."""
    api_app: Mapped[str] = mapped_column(String(128))
    session_id: Mapped[str | None] = mapped_column(String(36))
    """Id of its session; None when the row could not become one."""
    is_existing: Mapped[bool] = mapped_column(default=False)
    """The session was open already, or an earlier row made it."""
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
