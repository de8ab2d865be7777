"""Live views of running browsers: the processes that serve them, and who controls each."""

from datetime import datetime

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Lease, utc_now


class Process(Base):
    """A process that runs browsers, and its internal address, at which other processes reach their live views."""

    __tablename__ = "processes"

    owner: Mapped[str] = mapped_column(String(128), primary_key=True)
    """Name of the process, as in the leases that it holds."""
    machine: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(300))
    """Internal address, host:port."""
    certificate: Mapped[str] = mapped_column(Text)
    """Certificate that the process made for this address at its start, PEM: callers accept no other."""
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    heartbeat_at: Mapped[datetime] = mapped_column(default=utc_now)


class LiveControl(Lease, Base):
    """The one person who may act in a session's browser now, for as long as the lease is kept."""

    __tablename__ = "live_controls"

    session_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    controller: Mapped[str] = mapped_column(String(128))
    """Name of the API key of the person's sign-in."""
