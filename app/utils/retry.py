"""The one place that retries: idempotent calls only, exponential with jitter, a total deadline."""

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import stamina

from app.utils.exceptions import AppException

P = ParamSpec("P")
T = TypeVar("T")


def retry_idempotent(
    *, attempts: int = 3, timeout: float = 30.0
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Decorate an idempotent async call: errors of our own that say ``retryable`` are tried again.

    ``attempts`` counts the first one; ``timeout``: seconds over all of them. ``retry_after`` of the error is honoured.
    """
    return stamina.retry(
        on=_delay_before_retry, attempts=attempts, timeout=timeout, wait_initial=0.2, wait_max=5.0
    )


def _delay_before_retry(error: Exception) -> bool | float:
    if not isinstance(error, AppException) or not error.retryable:
        return False
    return True if error.retry_after is None else error.retry_after
