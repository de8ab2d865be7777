"""Parts of an API key, and the hash that is stored."""

import hashlib
import re
import secrets
from typing import Final

NO_HASH: Final = "0" * 64
"""Hash that no key has."""

_MARK: Final = "gla"
_PREFIX: Final = re.compile(rf"{_MARK}_[0-9a-f]{{8}}(?=_)")


def new_key() -> tuple[str, str]:
    """Prefix and whole key: ``gla_<8 visible characters>_<43 random ones>``, 256 random bits."""
    prefix = f"{_MARK}_{secrets.token_hex(4)}"
    return prefix, f"{prefix}_{secrets.token_urlsafe(32)}"


def key_prefix(key: str) -> str:
    """Empty where it has none: what was sent does not reach the database as it is."""
    match = _PREFIX.match(key)
    return match[0] if match else ""


def hash_key(key: str) -> str:
    """A plain SHA-256: a key of 256 random bits cannot be guessed, so a slow hash would only slow each request."""
    return hashlib.sha256(key.encode()).hexdigest()
