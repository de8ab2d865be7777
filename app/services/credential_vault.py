"""Token sets in and out of their encrypted columns; the only code that sees tokens in clear and in the database."""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Credential, utc_now
from app.services.interfaces import TokenSet
from app.utils.crypto import KeyRing
from app.utils.exceptions import TokenNotFoundException

TokenColumn = Literal["access_token", "refresh_token", "oauth_token_secret"]
_TABLE: Final = Credential.__tablename__


class CredentialVault:
    """A value is bound to its table, row (by its natural key, known before the insert) and column."""

    def __init__(self, *, key_ring: KeyRing) -> None:
        self._key_ring = key_ring

    def sealed(self, account_id: str, api_app: str, tokens: TokenSet) -> dict[str, str | None]:
        """The three columns."""
        clear: Mapping[TokenColumn, SecretStr | None] = {
            "access_token": tokens.access_token,
            "refresh_token": tokens.refresh_token,
            "oauth_token_secret": tokens.oauth_token_secret,
        }
        return {
            column: None if value is None else self._seal(account_id, api_app, column, value)
            for column, value in clear.items()
        }

    def token(self, row: Credential, column: TokenColumn) -> SecretStr | None:
        """Raises `DecryptionException`."""
        value: str | None = getattr(row, column)
        if value is None:
            return None
        place = _place(row.account_id, row.api_app, column)
        return SecretStr(self._key_ring.decrypt(value, associated_data=place))

    def refresh_token(self, row: Credential) -> SecretStr:
        """Of a row that has one. Raises `DecryptionException`."""
        token = self.token(row, "refresh_token")
        assert token is not None
        return token

    def access_token(self, row: Credential) -> SecretStr:
        """Raises `DecryptionException`."""
        token = self.token(row, "access_token")
        assert token is not None
        return token

    async def tokens_of(self, session: AsyncSession, account_id: str, api_app: str) -> TokenSet:
        """What is stored, as it is. Raises `TokenNotFoundException`, `DecryptionException`."""
        row = await session.scalar(
            select(Credential).where(Credential.account_id == account_id, Credential.api_app == api_app)
        )
        if row is None:
            raise TokenNotFoundException(account_id, api_app)
        return self.tokens(row)

    def tokens(self, row: Credential) -> TokenSet:
        """Raises `DecryptionException`."""
        left = row.token_expires_at - utc_now() if row.token_expires_at else None
        return TokenSet(
            access_token=self.access_token(row),
            refresh_token=self.token(row, "refresh_token"),
            scopes=tuple(row.scopes),
            expires_in=int(left.total_seconds()) if left is not None else None,
            oauth_token_secret=self.token(row, "oauth_token_secret"),
        )

    def _seal(self, account_id: str, api_app: str, column: TokenColumn, value: SecretStr) -> str:
        place = _place(account_id, api_app, column)
        return self._key_ring.encrypt(value.get_secret_value(), associated_data=place)


def _place(account_id: str, api_app: str, column: TokenColumn) -> str:
    return f"{_TABLE}/{account_id}/{api_app}/{column}"
