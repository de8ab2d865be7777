"""State that all processes share: budgets, runs of periodic workers, alarms."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Lease, utc_now


class ApiGate(Base):
    """The fleet's request budget and breaker for one API; one row, shared by all processes."""

    __tablename__ = "api_gates"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    next_free: Mapped[float]
    """Unix seconds at which the budget's next place is free (GCRA's theoretical arrival time)."""
    opened_at: Mapped[datetime | None]
    """The breaker is open since then: no call is made."""
    open_reason: Mapped[str | None] = mapped_column(Text)


class WorkerRun(Lease, Base):
    """A periodic worker's turn, over all processes: one has it at a time, under a lease."""

    __tablename__ = "worker_runs"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    next_run_at: Mapped[datetime]
    last_success_at: Mapped[datetime | None]


class Alarm(Base):
    """A threshold of the monitor: crossed or not, and since when."""

    __tablename__ = "alarms"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    is_active: Mapped[bool] = mapped_column(default=False)
    changed_at: Mapped[datetime] = mapped_column(default=utc_now)
    detail: Mapped[str] = mapped_column(Text)


class FleetReport(Base):
    """Counts that a monitor's turn wrote last, for all processes to read: of the fleet, and of each machine."""

    __tablename__ = "fleet_reports"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    """``fleet``, or ``machine:`` and the machine's name."""
    counted_at: Mapped[datetime]
    data: Mapped[dict[str, Any]]


class FleetHistory(Base):
    """Numbers of the whole fleet in one minute, or in one hour when its minutes were summed up.

    Sessions are counted by the time of their end. Values that are no sums are those of the end of the minute, and of an
    hour their mean; None: no monitor looked then.
    """

    __tablename__ = "fleet_history"
    __table_args__ = (Index("ix_fleet_history_step", "step", "begins_at"),)

    begins_at: Mapped[datetime] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Length in seconds: 60 or 3,600."""
    minutes: Mapped[int]
    """Number of minutes that were counted."""
    completed: Mapped[int]
    failed: Mapped[int]
    timeout: Mapped[int]
    cancelled: Mapped[int]
    needs_attention: Mapped[int]
    failures: Mapped[dict[str, Any]]
    """Number of sessions that ended with each error code."""
    waiting: Mapped[float | None]
    running: Mapped[float | None]
    oldest_waiting_seconds: Mapped[float | None]
    running_profiles: Mapped[float | None]
    working: Mapped[float | None]
    """Number of accounts in this state, as in the next four."""
    expiring: Mapped[float | None]
    broken: Mapped[float | None]
    needs_person: Mapped[float | None]
    never_authorized: Mapped[float | None]
