"""Sign-ins of operators to the page, links that sign in once, and single sign-ons that have begun."""

from datetime import datetime

from sqlalchemy import JSON, CheckConstraint, String
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigId, utc_now


class DashboardSession(Base):
    """A sign-in to the operators' page: a browser that may act as an API key, or as a person of single sign-on. Only a
    hash of its id is kept.
    """

    __tablename__ = "dashboard_sessions"
    __table_args__ = (
        CheckConstraint(
            "(subject IS NULL AND issuer IS NULL AND person_name IS NULL) OR "
            "(subject IS NOT NULL AND issuer IS NOT NULL AND person_name IS NOT NULL AND key_id IS NULL)",
            name="key_or_person",
        ),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    id_hash: Mapped[str] = mapped_column(String(64), unique=True)
    key_id: Mapped[str | None] = mapped_column(String(36))
    """Id of the API key; None: the bootstrap key of the settings, or a person."""
    issuer: Mapped[str | None] = mapped_column(String(255))
    subject: Mapped[str | None] = mapped_column(String(255))
    """Id of the person at the issuer; None: the sign-in of a key."""
    person_name: Mapped[str | None] = mapped_column(String(128))
    claim_values: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """The person's values of `Settings.oidc_claim` that had rights at the sign-in."""
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


class AuthenticationRequest(Base):
    """A single sign-on that has begun in a browser and has no answer of the provider. The browser holds the secret of
    which state, nonce and PKCE verifier are made; only a hash of the state is kept.
    """

    __tablename__ = "authentication_requests"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    state_hash: Mapped[str] = mapped_column(String(64), unique=True)
    next_page: Mapped[str] = mapped_column(String(500))
    """Path of ours that the person has asked for."""
    expires_at: Mapped[datetime] = mapped_column(index=True)
