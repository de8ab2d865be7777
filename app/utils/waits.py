"""Waits that others ask for: their ceiling, and what asks for them."""

import math
from enum import StrEnum
from typing import Final, NamedTuple

MAX_WAIT: Final = 86_400.0
"""Seconds. No wait that an outsider asks for is longer, wherever it is applied."""


def bounded_wait(seconds: float) -> float:
    """`seconds`, between 0 and `MAX_WAIT`; no number counts as 0."""
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), MAX_WAIT)


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
