"""Rate limits as providers tell them: the headers of an answer, read within ceilings. Nothing here raises.

Sources: RFC 9110, 10.2.3 (``Retry-After``); X's docs (``x-rate-limit-*``, ``x-user-limit-24hour-*``,
``x-app-limit-24hour-*``). Gateways send the same headers with milliseconds, or with seconds from now.
"""

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from app.utils.waits import MAX_WAIT, CallLimit, LimitOwner

MAX_RETRY_AFTER: Final = 3600.0
"""Seconds; also of the usual windows, of 15 minutes or so."""
_MIN_WAIT: Final = 1.0
_CLOCK_DIFFERENCE: Final = 86_400.0
"""Seconds: a time is believed to be over when it was at most so long ago."""
_UNITS: Final = (1.0, 1e3, 1e6, 1e9)
"""Per second: of unix times in seconds, milliseconds, microseconds and nanoseconds."""
_MAX_NUMBER_LENGTH: Final = 400
"""Characters; a longer number is as good as infinite."""
_MAX_CALLS: Final = 10**9


class RateLimit(NamedTuple):
    """Calls that a provider still allows an app."""

    remaining: int
    reset: float
    """Unix seconds."""


class _Window(NamedTuple):
    name: str
    ceiling: float
    """Seconds."""
    owner: LimitOwner | None = None
    """Owner of the limit; None: the account at endpoints that are called for an account, else the app's."""


_WINDOWS: Final = (
    _Window("x-rate-limit", MAX_RETRY_AFTER),
    _Window("x-user-limit-24hour", MAX_WAIT, LimitOwner.ACCOUNT),
    _Window("x-app-limit-24hour", MAX_WAIT, LimitOwner.APP),
)


class _WindowState(NamedTuple):
    window: _Window
    remaining: int | None
    """Calls left; None when the answer does not say."""
    seconds: float
    """Seconds until calls are allowed again."""


def seconds_until(value: str, *, now: float, ceiling: float) -> float | None:
    """Seconds from `now`, unix seconds, to the time in a header: 0 to `ceiling`; None when there is no time in it.

    The time may be seconds from now, an HTTP date, or a unix time in seconds or a smaller unit. A number that is none
    of them within the ceiling is the ceiling.
    """
    number = _number(value)
    if number is None:
        try:
            date = parsedate_to_datetime(value[:_MAX_NUMBER_LENGTH])
            moment = date.replace(tzinfo=date.tzinfo or UTC).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        return min(max(moment - now, 0.0), ceiling)
    if number <= ceiling:
        return max(number, 0.0)
    for moment in (number / unit for unit in _UNITS):
        if now - _CLOCK_DIFFERENCE <= moment <= now + ceiling:
            return max(moment - now, 0.0)
    return ceiling


def rate_limit_in(headers: Mapping[str, str], *, now: float) -> RateLimit | None:
    """The app's calls that are left, by the longest window without any, else by the window with the fewest."""
    windows = [state for state in _read_windows(headers, now) if state.window.owner is not LimitOwner.ACCOUNT]
    limits = [(state.remaining, now + state.seconds) for state in windows if state.remaining is not None]
    if not limits:
        return None
    return RateLimit(*min(limits, key=lambda limit: (limit[0], -limit[1])))


def spent_limit(headers: Mapping[str, str], *, now: float, owner: LimitOwner) -> CallLimit | None:
    """The limit that lasts the longest of those without calls left; None when there is none.

    `owner`: of the limits whose name does not say it.
    """
    limits = [
        CallLimit(state.seconds, state.window.owner or owner, state.window.name)
        for state in _read_windows(headers, now)
        if state.remaining == 0 and state.seconds > 0
    ]
    return max(limits, key=lambda limit: limit.seconds, default=None)


def refusal_limit(headers: Mapping[str, str], *, now: float, owner: LimitOwner) -> CallLimit | None:
    """The limit that an answer names which refuses a call: a second at least; None when it names no time.

    ``Retry-After`` and windows without calls left count, and the longest of them; a window that does not say what is
    left counts as they do. Windows with calls left count only where nothing else does.
    """
    states = _read_windows(headers, now)
    limits = [
        CallLimit(state.seconds, state.window.owner or owner, state.window.name)
        for state in states
        if not state.remaining
    ]
    if (
        retry_after := seconds_until(headers.get("retry-after", ""), now=now, ceiling=MAX_RETRY_AFTER)
    ) is not None:
        limits.append(CallLimit(retry_after, owner, "retry-after"))
    limits = limits or [
        CallLimit(state.seconds, state.window.owner or owner, state.window.name) for state in states
    ]
    longest = max(limits, key=lambda limit: limit.seconds, default=None)
    return longest and longest._replace(seconds=max(longest.seconds, _MIN_WAIT))


def _read_windows(headers: Mapping[str, str], now: float) -> list[_WindowState]:
    """Windows whose end the headers name."""
    states = []
    for window in _WINDOWS:
        reset = headers.get(f"{window.name}-reset", "")
        seconds = seconds_until(reset, now=now, ceiling=window.ceiling)
        remaining = _number(headers.get(f"{window.name}-remaining", ""))
        if seconds is not None:
            calls = None if remaining is None else int(min(max(remaining, 0), _MAX_CALLS))
            states.append(_WindowState(window, calls, seconds))
    return states


def _number(value: str) -> float | None:
    """A decimal number, however long; None when it is something else."""
    try:
        number = float(value[:_MAX_NUMBER_LENGTH])
    except ValueError:
        return None
    return None if math.isnan(number) else number
