"""Passes with which one process of the service opens a live view at another one."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from typing import Final

PASS_LIFETIME: Final = 60.0
"""Seconds; the clocks of two machines may differ by less."""
_PURPOSE: Final = b"live view pass, version 1"


class LivePasses:
    """Issues and checks passes: each for one session at one process, once, within `PASS_LIFETIME`.

    `secrets_`: what all processes of the service know; the first one signs, each is accepted.
    """

    def __init__(self, secrets_: Sequence[bytes]) -> None:
        self._keys = [hmac.digest(secret, _PURPOSE, "sha256") for secret in secrets_]
        self._spent: dict[str, float] = {}
        """Expiry of each pass that was used, by its signature."""

    def issue(self, *, session_id: str, process: str) -> str:
        body = f"{time.time() + PASS_LIFETIME:.0f}.{secrets.token_urlsafe(16)}"
        return f"{body}.{_sign(self._keys[0], body, session_id, process)}"

    def redeem(self, value: str, *, session_id: str, process: str) -> bool:
        """Return whether the pass is good, and spend it."""
        body, _, signature = value.rpartition(".")
        expires, _, _ = body.partition(".")
        is_signed = [
            hmac.compare_digest(signature.encode(), _sign(key, body, session_id, process).encode())
            for key in self._keys
        ]
        if not any(is_signed):
            return False
        now = time.time()
        self._spent = {each: until for each, until in self._spent.items() if until > now}
        if not now < float(expires) <= now + 2 * PASS_LIFETIME or signature in self._spent:
            return False
        self._spent[signature] = float(expires)
        return True


def derive_secret(encryption_key: bytes) -> bytes:
    """Return a secret for passes from an encryption key, which all processes of the service have."""
    return hmac.digest(encryption_key, b"live view secret, version 1", hashlib.sha256)


def _sign(key: bytes, body: str, session_id: str, process: str) -> str:
    return hmac.digest(key, f"{body}\n{session_id}\n{process}".encode(), "sha256").hex()
