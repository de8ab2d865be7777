"""Status of API keys, computed and as a filter."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, or_, true

from app.models import ApiKey, utc_now


class KeyStatus(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True)
class KeyFilter:
    """Filter of keys; None matches all."""

    status: KeyStatus | None = None
    text: str | None = None
    """Part of the name."""

    def condition(self) -> ColumnElement[bool]:
        """Return the condition for a query of keys."""
        is_valid = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > utc_now())
        # The same as `key_status`.
        statuses = {
            KeyStatus.REVOKED: ApiKey.revoked_at.is_not(None),
            KeyStatus.EXPIRED: and_(ApiKey.revoked_at.is_(None), ~is_valid),
            KeyStatus.ACTIVE: and_(ApiKey.revoked_at.is_(None), is_valid),
        }
        return and_(
            statuses[self.status] if self.status is not None else true(),
            ApiKey.name.icontains(self.text, autoescape=True) if self.text else true(),
        )


def key_status(row: ApiKey) -> KeyStatus:
    if row.revoked_at is not None:
        return KeyStatus.REVOKED
    is_valid = row.expires_at is None or is_to_come(row.expires_at)
    return KeyStatus.ACTIVE if is_valid else KeyStatus.EXPIRED


def is_to_come(moment: datetime | None) -> bool:
    return moment is not None and moment > utc_now()
