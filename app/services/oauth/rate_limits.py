"""Rate limits of providers: calls that each app may still make, learned from its answers before it has to refuse one.

Known to this process alone, and only for a moment: what is not known any more is found out with a few calls.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from app.clients.oauth.rate_limits import RateLimit
from app.utils.exceptions import AppLimitedException
from app.utils.waits import bounded_wait

_TRUSTED_FOR: Final = 5.0
"""Seconds: others may call for the app, too, from outside this service."""
_SAME_WINDOW: Final = 2.0
"""Seconds between two ends of one window, as two answers tell them."""
_PROBE_CALLS: Final = 5
"""Calls at once of an app whose budget is not known."""


@dataclass(frozen=True)
class _Observation:
    rate_limit: RateLimit
    asked_at: float
    """Unix seconds; every later call may be missing in what the answer says."""

    def is_over(self) -> bool:
        return self.rate_limit.reset <= time.time()

    def is_fresh(self) -> bool:
        return not self.is_over() and time.time() - self.asked_at <= _TRUSTED_FOR


class ProviderRateLimits:
    """`apps`: the names of those that call."""

    def __init__(self, *, apps: Iterable[str]) -> None:
        self._observations: dict[str, _Observation | None] = {}
        self._unknown = set(apps)
        self._in_flight: Counter[str] = Counter()

    def note_answer(self, api_app: str, rate_limit: RateLimit | None, *, asked_at: float) -> None:
        """A call succeeded that began at `asked_at`, unix seconds; None: its answer names no limit."""
        self._unknown.discard(api_app)
        if rate_limit is None:
            self._observations[api_app] = None
            return
        previous = self._observations.get(api_app)
        if previous is None:
            is_newer = True
        elif abs(rate_limit.reset - previous.rate_limit.reset) < _SAME_WINDOW:
            # Within a window, concurrent calls count down.
            is_newer = rate_limit.remaining < previous.rate_limit.remaining
        else:
            is_newer = asked_at >= previous.asked_at
        if is_newer:
            self._observations[api_app] = _Observation(rate_limit, asked_at)

    def forget(self, resumed: Mapping[str, datetime]) -> None:
        """Believe nothing that was learned of an app before an operator has resumed it."""
        for api_app, resumed_at in resumed.items():
            observation = self._observations.get(api_app)
            if observation is not None and observation.asked_at <= resumed_at.timestamp():
                del self._observations[api_app]
                self._unknown.add(api_app)

    @contextmanager
    def calling(self, api_app: str) -> Iterator[None]:
        """A call of this process, for as long as it is in flight."""
        self._in_flight[api_app] += 1
        try:
            yield
        finally:
            self._in_flight[api_app] -= 1

    def remaining_calls(self) -> dict[str, int]:
        """Calls by app that all processes together may have in flight, as the last answer said."""
        return {
            name: observation.rate_limit.remaining
            for name, observation in self._limited()
            if observation.is_fresh()
        }

    def oldest_call_at(self) -> datetime | None:
        """Begin of the first call on whose answers `remaining_calls` is based."""
        fresh = [observation.asked_at for _, observation in self._limited() if observation.is_fresh()]
        return datetime.fromtimestamp(min(fresh), UTC) if fresh else None

    def probe_calls(self) -> dict[str, int]:
        """Calls by app that this process may add: for those whose budget is not known, or not any more."""
        allowances = dict.fromkeys(self._unknown, _PROBE_CALLS)
        allowances |= {
            name: _PROBE_CALLS if observation.is_over() else min(observation.rate_limit.remaining, 1)
            for name, observation in self._limited()
            if not observation.is_fresh()
        }
        return {name: calls - self._in_flight[name] for name, calls in allowances.items()}

    def seconds_until_reset(self, api_app: str) -> float | None:
        """Seconds until the app may call again; None when it may."""
        observation = self._observations.get(api_app)
        if observation is None or observation.rate_limit.remaining > 0 or observation.is_over():
            return None
        return bounded_wait(observation.rate_limit.reset - time.time())

    def ensure_not_spent(self, api_app: str) -> None:
        """Raises `AppLimitedException`."""
        if (seconds := self.seconds_until_reset(api_app)) is not None:
            raise AppLimitedException(api_app, seconds)

    def _limited(self) -> list[tuple[str, _Observation]]:
        return [
            (api_app, observation)
            for api_app, observation in self._observations.items()
            if observation is not None
        ]
