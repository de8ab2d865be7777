"""Account handles, as they are stored."""

import re
from typing import Final

_HANDLE: Final = re.compile(r"[a-z0-9_]{1,64}")


APP_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def normalize_handle(value: str) -> str:
    """Lower case, without ``@``. Raises `ValueError` with a sentence for the caller."""
    handle = value.strip().removeprefix("@").lower()
    if not _HANDLE.fullmatch(handle):
        raise ValueError(
            "must be an account's handle: 1 to 64 letters, digits and underscores, with or without @"
        )
    return handle
