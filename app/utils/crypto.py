"""Authenticated encryption of stored secrets: AES-256-GCM (NIST SP 800-38D) with a key id and associated data."""

import base64
import binascii
import os
import re
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.utils.exceptions import DecryptionException

_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_STORED: Final = re.compile(rf"({KEY_ID.pattern}):")


def generate_key() -> str:
    """A new random 256-bit key, URL-safe base64 as the settings take it."""
    return base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)).decode()


def decode_key(text: str) -> bytes:
    """The 32 bytes behind a key of the settings. Raises `ValueError` when they are not 32."""
    try:
        key = base64.urlsafe_b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise ValueError("an encryption key must be URL-safe base64") from error
    if len(key) != _KEY_BYTES:
        raise ValueError(f"an encryption key must be {_KEY_BYTES} bytes, this one has {len(key)}")
    return key


def find_key_id(value: str) -> str | None:
    """The id of the key that wrote a stored value; None when it does not look like one, and may be anything."""
    match = _STORED.match(value)
    return match[1] if match else None


class KeyRing:
    """Several keys by id: the first writes, all read, so that keys can be replaced while the service runs.

    A stored value is ``<key id>:<base64 of nonce + ciphertext + tag>``. The associated data (table, row, column) is
    not stored: a value copied to another place does not open.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self.ids = tuple(keys)
        """Ids of the keys that read; the one that writes is first."""
        self.writing_id = self.ids[0]

    def encrypt(self, plaintext: str, *, associated_data: str) -> str:
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = self._ciphers[self.writing_id].encrypt(
            nonce, plaintext.encode(), associated_data.encode()
        )
        return f"{self.writing_id}:{base64.b64encode(nonce + ciphertext).decode()}"

    def decrypt(self, value: str, *, associated_data: str) -> str:
        """Raises `DecryptionException` for an unknown key id, a damaged value, or one from another place."""
        key_id, _, encoded = value.partition(":")
        try:
            raw = base64.b64decode(encoded, validate=True)
            plaintext = self._ciphers[key_id].decrypt(
                raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], associated_data.encode()
            )
        except (KeyError, ValueError, InvalidTag) as error:
            raise DecryptionException from error
        return plaintext.decode()

    def renew(self, value: str | None, *, associated_data: str) -> str | None:
        """Check a value and encrypt it by the writing key unless that wrote it. Raises `DecryptionException`."""
        if value is None:
            return None
        clear = self.decrypt(value, associated_data=associated_data)
        if find_key_id(value) == self.writing_id:
            return value
        return self.encrypt(clear, associated_data=associated_data)
