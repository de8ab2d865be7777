"""Who may call, and what happened."""

from datetime import datetime
from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigId, Timestamps, utc_now


class ApiKey(Timestamps, Base):
    """A caller's key: only its hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    """The visible part, by which the row is found."""
    key_hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]]
    expires_at: Mapped[datetime | None]


class Event(Base):
    """What happened, to what, by whom, under which request id. Append-only; `event_service` is its only writer."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    event_type: Mapped[str] = mapped_column(String(64), index=True)
    occurred_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    account_id: Mapped[str | None] = mapped_column(String(64), index=True)
    api_app: Mapped[str | None] = mapped_column(String(64))
    session_id: Mapped[str | None] = mapped_column(String(36), index=True)
    profile_id: Mapped[str | None] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(128))
    request_id: Mapped[str | None] = mapped_column(String(128))
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)
