"""Signed cursors: where a list goes on, in a form that only this service can make."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.utils.exceptions import InvalidCursorException

_MAC_BYTES: Final = 16
_PURPOSE: Final = b"list cursors, version 1"


class Cursors:
    """Made with the first of the keys and read with any, so that a change of the encryption keys breaks none.

    A cursor holds for one API key (`reader`, its name), one list and the same filters: it is no secret, but what it
    says cannot be changed.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        # Derived: a key that encrypts must sign nothing (RFC 5869).
        self._keys = [
            HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(key) for key in keys
        ]

    def write(
        self, position: Sequence[Any], *, reader: str, list_name: str, filters: Mapping[str, Any]
    ) -> str:
        """`position`: what the list needs to go on, as JSON values."""
        payload = json.dumps(list(position)).encode()
        mac = _mac(self._keys[0], payload, reader, list_name, filters)
        return base64.urlsafe_b64encode(mac + payload).decode()

    def read(self, cursor: str, *, reader: str, list_name: str, filters: Mapping[str, Any]) -> list[Any]:
        """Return the position. Raises `InvalidCursorException` for one of nobody's, or of another key or list."""
        try:
            raw = base64.urlsafe_b64decode(cursor.encode())
        except ValueError:
            raise InvalidCursorException from None
        if (
            base64.urlsafe_b64encode(raw).decode() != cursor
        ):  # the last letter's spare bits, too, are as we wrote them
            raise InvalidCursorException
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        macs = (_mac(key, payload, reader, list_name, filters) for key in self._keys)
        if not any(hmac.compare_digest(mac, each) for each in macs):
            raise InvalidCursorException
        position: list[Any] = json.loads(payload)
        return position


def _mac(key: bytes, payload: bytes, reader: str, list_name: str, filters: Mapping[str, Any]) -> bytes:
    bound = json.dumps([reader, list_name, filters], sort_keys=True, default=str).encode()
    # Hashed, so that where the one ends and the other begins is never in doubt.
    return hmac.digest(key, hashlib.sha256(bound).digest() + payload, "sha256")[:_MAC_BYTES]
