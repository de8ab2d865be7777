"""Delays between attempts: exponential, with a ceiling, and with jitter so that many callers do not retry together."""

import random
from typing import Final

_MAX_DOUBLINGS: Final = 1000
"""A float overflows after 1,024."""


def retry_delay(attempt: int, *, base: float, ceiling: float, jitter: float = 0.0) -> float:
    """Return the seconds to wait after the failed `attempt`, counted from 1.

    `base` seconds after the first one, twice that after the next, `ceiling` at most; then `jitter` as in `jittered`.
    """
    return jittered(min(ceiling, base * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS)), jitter)


def jittered(seconds: float, share: float) -> float:
    """Return `seconds`, longer or shorter by a random part of up to `share` of them (0.5: by half at most)."""
    return seconds * random.uniform(1 - share, 1 + share)  # noqa: S311
