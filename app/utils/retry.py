"""The one place that repeats calls: idempotent ones only, exponential with jitter, a total deadline.

Attempts of authorization sessions are no calls: `services/authorizations/runs.py` repeats them.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

import stamina

from app.utils.exceptions import AppException, DatabaseUnavailableException

P = ParamSpec("P")
T = TypeVar("T")

_MAX_WAIT: Final = 10.0
"""Seconds: whoever asks for more is not waited for, because a browser slot may wait behind the call."""


def retry_idempotent(
    *, attempts: int = 3, timeout: float = 30.0
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Decorate an idempotent async call: errors of our own that say ``retryable`` are tried again.

    ``attempts`` counts the first one; ``timeout``: seconds over all of them. ``retry_after`` of the error is honoured;
    when it is over 10 seconds the error is raised.
    """
    return stamina.retry(
        on=_delay_before_retry, attempts=attempts, timeout=timeout, wait_initial=0.2, wait_max=5.0
    )


async def retry_while_unavailable(change: Callable[[], Awaitable[T]], *, seconds: float) -> T:
    """Apply a change once more, and again, while the database is away, for about `seconds`.

    Only for a change that can tell whether it was applied: an outage may hide a commit that has happened.
    """
    context = stamina.retry_context(
        on=DatabaseUnavailableException, attempts=None, timeout=seconds, wait_initial=0.1, wait_max=1.0
    )
    async for attempt in context:
        with attempt:
            result = await change()
    return result


def _delay_before_retry(error: Exception) -> bool | float:
    if not isinstance(error, AppException) or not error.retryable:
        return False
    if error.retry_after is None:
        return True
    return error.retry_after if error.retry_after <= _MAX_WAIT else False
