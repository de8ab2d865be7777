"""Secrets of webhooks in and out of their encrypted columns."""

import base64
import secrets
from typing import Final

from pydantic import SecretStr

from app.models import WebhookEndpoint, utc_now
from app.utils.crypto import KeyRing

_TABLE: Final = WebhookEndpoint.__tablename__
_PREFIX: Final = "whsec_"
_BYTES: Final = 32


class WebhookVault:
    """A value is bound to its table, endpoint and column; `previous_secret` holds what was the `secret` before."""

    def __init__(self, *, key_ring: KeyRing) -> None:
        self._key_ring = key_ring

    def seal(self, endpoint_id: str, secret: SecretStr) -> str:
        return self._key_ring.encrypt(secret.get_secret_value(), associated_data=_key_context(endpoint_id))

    def reseal(self, row: WebhookEndpoint) -> dict[str, str | None]:
        """Both columns; what another than the writing key wrote is encrypted anew. Raises `DecryptionException`."""
        context = _key_context(row.endpoint_id)
        columns = {"secret": row.secret, "previous_secret": row.previous_secret}
        return {name: self._key_ring.renew(value, associated_data=context) for name, value in columns.items()}

    def open(self, row: WebhookEndpoint) -> list[SecretStr]:
        """Return the secrets that are valid now, the newest first. Raises `DecryptionException`."""
        ciphertexts = [row.secret]
        if (
            row.previous_secret
            and row.previous_secret_expires_at
            and row.previous_secret_expires_at > utc_now()
        ):
            ciphertexts.append(row.previous_secret)
        context = _key_context(row.endpoint_id)
        return [SecretStr(self._key_ring.decrypt(value, associated_data=context)) for value in ciphertexts]


def new_secret() -> SecretStr:
    """Return a new secret in the form of Standard Webhooks: ``whsec_`` and base64, here of 256 random bits."""
    return SecretStr(_PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode())


def _key_context(endpoint_id: str) -> str:
    return f"{_TABLE}/{endpoint_id}/secret"
