"""Options of calls."""

from collections.abc import Mapping
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
