"""Options of calls."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict


class AuthorizeOptions(TypedDict, total=False):
    priority: int
    not_before: datetime
    expires_at: datetime
    timeout_seconds: float
    force: bool
    consent: str
    stage_timeouts: Mapping[str, float]


class BatchOptions(TypedDict, total=False):
    """The first five are for rows that do not say."""

    api_app: str
    priority: int
    not_before: datetime
    expires_at: datetime
    timeout_seconds: float
    max_running: int
    stop_percent: int
    stop_window: int


class AccountFilters(TypedDict, total=False):
    state: str
    """working, expiring, broken, needs_person or never_authorized; not with the last five."""
    api_app: str
    text: str
    expires_since: datetime
    """Accounts whose active access token expires then or later; not with the last three, as the next one."""
    expires_until: datetime
    status: str
    sort: str
    order: str


class ActionFilter(TypedDict, total=False):
    """Filter of an action; it has at least one of them."""

    state: str
    api_app: str
    account_ids: Sequence[str]


class StreamFilters(TypedDict, total=False):
    event_type: str
    """One type, or the beginning of some: `authorization.*`."""
    account_id: str
    api_app: str
    session_id: str
    actor: str
    request_id: str
    text: str


class EventFilters(StreamFilters, total=False):
    since: datetime
    until: datetime
