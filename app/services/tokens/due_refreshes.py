"""Refreshes that are due, and the number that may begin within the providers' rate limits."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import database_time
from app.models import AppState, Credential, CredentialStatus, Event, EventType, utc_now
from app.services.oauth.rate_limits import ProviderRateLimits
from app.services.shared.leases import has_no_lease

_ENDS: Final = (
    EventType.CREDENTIAL_REFRESHED,
    EventType.CREDENTIAL_REFRESH_FAILED,
    EventType.CREDENTIAL_BROKEN,
)
"""Events of a call of the token endpoint that has ended."""


async def room_for_calls(db: AsyncSession, budgets: ProviderRateLimits) -> dict[str, int]:
    """Refreshes that may begin now, of the apps whose calls are limited, or may be for all we know."""
    used: Counter[str] = Counter()
    if since := budgets.oldest_call_at():
        used = await _count_calls(db, since)
    # Looked up after what is used: a call that ends meanwhile then counts twice, not never.
    remaining, room = budgets.remaining_calls(), budgets.probe_calls()
    # Half of what is left: another process may count at the same time.
    return room | {api_app: (calls - used[api_app] + 1) // 2 for api_app, calls in remaining.items()}


def select_due(
    limit: int, room: Mapping[str, int], condition: ColumnElement[bool], *, min_interval: float
) -> Select[Credential]:
    """Return the query of the next due rows that meet `condition`, of apps with `room`, neither paused nor limited.

    `min_interval`: seconds since an account's last refresh; one in the future is a clock's mistake.
    """
    now, interval = utc_now(), timedelta(seconds=min_interval)
    stopped = select(AppState.api_app).where(AppState.paused_at.is_not(None) | (AppState.limited_until > now))
    full = [api_app for api_app, calls in room.items() if calls <= 0]
    return (
        select(Credential)
        .where(
            Credential.status == CredentialStatus.ACTIVE,
            Credential.refresh_token.is_not(None),
            Credential.refresh_due_at <= now,
            Credential.api_app.not_in(stopped),
            Credential.api_app.not_in(full),
            Credential.refreshed_at.is_(None)
            | (Credential.refreshed_at <= now - interval)
            | (Credential.refreshed_at > now + interval)
            | (Credential.spending_version == Credential.version),  # its chain is broken
            has_no_lease(Credential),
            condition,
        )
        .order_by(Credential.refresh_due_at)
        .limit(limit)
    )


async def _count_calls(db: AsyncSession, since: datetime) -> Counter[str]:
    """Return the refreshes of all processes by app: those in flight, and those that have ended since then."""
    in_flight = (
        select(Credential.api_app, func.count())
        .where(Credential.lease_expires_at > database_time(), Credential.spending_version.is_not(None))
        .group_by(Credential.api_app)
    )
    calls = Counter(dict((await db.execute(in_flight)).all()))
    events = (
        select(Event.api_app, Event.event_type, func.count())
        .where(Event.occurred_at >= since)
        .group_by(Event.api_app, Event.event_type)
    )
    for api_app, event_type, count in await db.execute(events):
        if event_type in _ENDS and api_app is not None:
            calls[api_app] += count
    return calls
