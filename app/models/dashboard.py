"""Sign-ins of operators to the page, and links that sign in once."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigId, utc_now


class DashboardSession(Base):
    """A sign-in to the operators' page: a browser that may act as an API key. Only a hash of its id is kept."""

    __tablename__ = "dashboard_sessions"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    id_hash: Mapped[str] = mapped_column(String(64), unique=True)
    key_id: Mapped[str | None] = mapped_column(String(36))
    """Id of the API key; None: the bootstrap key of the settings."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_seen_at: Mapped[datetime] = mapped_column(default=utc_now)
    """Exact to a minute."""
    expires_at: Mapped[datetime] = mapped_column(index=True)
    """End by idleness, or by age when that is earlier."""


class DashboardTicket(Base):
    """A link that signs in to the operators' page once. Only a hash of its ticket is kept."""

    __tablename__ = "dashboard_tickets"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    ticket_hash: Mapped[str] = mapped_column(String(64), unique=True)
    key_id: Mapped[str | None] = mapped_column(String(36))
    """Id of the API key that the link signs in; None: the bootstrap key of the settings."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(index=True)
