"""Collection of garbage in a process that lives long."""

import gc


def collect_seldom() -> None:
    """Leave out of all collections what has been imported, and make them fourteen times rarer.

    With CPython's thresholds (700, 10, 10) they take 6 % of the service's CPU: a request makes thousands of objects,
    and nearly all of them are freed by their reference counts.
    """
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
