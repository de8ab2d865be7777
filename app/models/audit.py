"""API keys, events, and what remains of deleted events."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, FetchedValue, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigId, Timestamps, rows_where, string_enum, utc_now
from app.models.event_types import EventClass
from app.models.statuses import ActorKind


class ApiKey(Timestamps, Base):
    """A caller's key: only its hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    key_id: Mapped[str] = mapped_column(String(36), unique=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    """The visible part, by which the row is found."""
    key_hash: Mapped[str] = mapped_column(String(64))
    previous_prefix: Mapped[str | None] = mapped_column(String(16), unique=True)
    previous_hash: Mapped[str | None] = mapped_column(String(64))
    previous_expires_at: Mapped[datetime | None]
    """End of the overlap in which the key that the last rotation replaced works, too."""
    scopes: Mapped[list[str]]
    api_apps: Mapped[list[str]] = mapped_column(default=list)
    """The OAuth apps it is for; empty: all."""
    account_patterns: Mapped[list[str]] = mapped_column(default=list)
    """The accounts it is for, with ``*`` for any characters; empty: all."""
    rate_limit_per_minute: Mapped[int | None]
    """Requests a minute; None: the limit of the settings."""
    created_by: Mapped[str] = mapped_column(String(128))
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """Exact to a minute."""


class Event(Base):
    """One event: its type, subject, actor and request id. Append-only; only `events.recorder` writes it."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_stream", "xact_id", "id"),
        # Lists are sorted by time, the latest first, so that a filter and a time range are one part of one index.
        Index("ix_events_type", "event_type", "occurred_at"),
        Index("ix_events_account", "account_id", "occurred_at", **rows_where("account_id IS NOT NULL")),
        # Who read an account's token: a type of one class is named, so that other classes pay nothing for the index.
        Index(
            "ix_events_audit",
            "account_id",
            "event_type",
            "occurred_at",
            **rows_where("event_class = 'audit' AND account_id IS NOT NULL"),
        ),
        # PostgreSQL has partitions in its place.
        Index("ix_events_class", "event_class", "occurred_at", info={"dialect": "sqlite"}),
        Index("ix_events_session", "session_id", **rows_where("session_id IS NOT NULL")),
        Index("ix_events_request", "request_id", **rows_where("request_id IS NOT NULL")),
        Index("ix_events_actor", "actor", "occurred_at"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    xact_id: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    """Id of the transaction that wrote it, on PostgreSQL: ids are given before the commit, so that a reader who goes by
    them alone would miss what commits late. 0 on SQLite, where one writes at a time."""
    event_type: Mapped[str] = mapped_column(String(64))
    event_class: Mapped[EventClass] = mapped_column(
        string_enum(EventClass), server_default=EventClass.LIFECYCLE.value
    )
    """Class of its type, by which it is kept."""
    occurred_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    account_id: Mapped[str | None] = mapped_column(String(64))
    api_app: Mapped[str | None] = mapped_column(String(64))
    session_id: Mapped[str | None] = mapped_column(String(36))
    profile_id: Mapped[str | None] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(128))
    """Name of the actor."""
    actor_kind: Mapped[ActorKind] = mapped_column(string_enum(ActorKind), default=ActorKind.SERVICE)
    actor_id: Mapped[str | None] = mapped_column(String(36))
    """Id of the API key, or of the person."""
    request_id: Mapped[str | None] = mapped_column(String(128))
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


class EventDeletions(Base):
    """End of the deleted events of one class, so that readers are told what they missed."""

    __tablename__ = "event_deletions"

    event_class: Mapped[EventClass] = mapped_column(string_enum(EventClass), primary_key=True)
    deleted_to_id: Mapped[int] = mapped_column(BigInteger)
    """The highest id of a deleted event."""


class EventHour(Base):
    """Number of routine events of one type and app in one hour: what remains of them."""

    __tablename__ = "event_hours"

    hour: Mapped[datetime] = mapped_column(primary_key=True)
    """Begin of the hour."""
    event_type: Mapped[str] = mapped_column(String(64), primary_key=True)
    api_app: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Empty for events without an app."""
    count: Mapped[int] = mapped_column(BigInteger)
