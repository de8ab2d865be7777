"""State that all processes share: budgets, runs of periodic workers, alarms."""

from datetime import datetime
from typing import Any

from sqlalchemy import String, Text
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
