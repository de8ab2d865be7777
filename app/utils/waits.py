"""Waits: delays between attempts, and those that others ask for."""

import math
import random
from enum import StrEnum
from typing import Final, NamedTuple

MAX_WAIT: Final = 86_400.0
"""Seconds. No wait that an outsider asks for is longer, wherever it is applied."""
_MAX_DOUBLINGS: Final = 1000
"""A float overflows after 1,024."""


def bounded_wait(seconds: float) -> float:
    """`seconds`, between 0 and `MAX_WAIT`; no number counts as 0."""
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), MAX_WAIT)


def retry_delay(attempt: int, *, base: float, ceiling: float, jitter: float = 0.0) -> float:
    """Return the seconds to wait after the failed `attempt`, counted from 1; the jitter keeps callers apart.

    `base` seconds after the first one, twice that after the next, `ceiling` at most; then `jitter` as in `jittered`.
    """
    return jittered(min(ceiling, base * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS)), jitter)


def jittered(seconds: float, share: float) -> float:
    """Return `seconds`, longer or shorter by a random part of up to `share` of them (0.5: by half at most)."""
    return seconds * random.uniform(1 - share, 1 + share)  # noqa: S311


class LimitOwner(StrEnum):
    """Owner of the calls that a provider's rate limit counts."""

    APP = "app"
    ACCOUNT = "account"
    """One account's within the app."""


class CallLimit(NamedTuple):
    """A provider answers no more calls for now."""

    seconds: float
    owner: LimitOwner
    reason: str
    """The name of the limit in the provider's own headers."""
