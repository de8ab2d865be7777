"""Token sets in and out of their encrypted columns; the only code that sees tokens in clear and in the database."""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from pydantic import SecretStr
from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Credential, utc_now
from app.services.interfaces import TokenSet
from app.utils.crypto import KeyRing
from app.utils.exceptions import TokenNotFoundException

TokenColumn = Literal["access_token", "refresh_token", "oauth_token_secret"]
TOKEN_COLUMNS: Final[tuple[TokenColumn, ...]] = get_args(TokenColumn)
_TABLE: Final = Credential.__tablename__


class CredentialVault:
    """A value is bound to its table, row (by its natural key, known before the insert) and column."""

    def __init__(self, *, key_ring: KeyRing) -> None:
        self._key_ring = key_ring
        self.writing_key_id = key_ring.writing_id
        self.key_ids = key_ring.ids
        """Ids of the keys that read."""

    def is_outdated(self) -> ColumnElement[bool]:
        """Return the SQL condition that a row has a value that another than the writing key wrote."""
        mark = f"{self.writing_key_id}:"
        # Not LIKE: SQLite's knows no upper case, and key ids may differ by that alone.
        starts = (func.substr(getattr(Credential, column), 1, len(mark)) for column in TOKEN_COLUMNS)
        return or_(*(start != mark for start in starts))

    def reseal(self, row: Credential) -> dict[str, str | None]:
        """The three columns anew, by the writing key. Raises `DecryptionException` when one of them does not open."""
        clear = {column: self.token(row, column) for column in TOKEN_COLUMNS}
        return self._seal(row.account_id, row.api_app, clear)

    def sealed(self, account_id: str, api_app: str, tokens: TokenSet) -> dict[str, str | None]:
        """The three columns."""
        clear: Mapping[TokenColumn, SecretStr | None] = {
            "access_token": tokens.access_token,
            "refresh_token": tokens.refresh_token,
            "oauth_token_secret": tokens.oauth_token_secret,
        }
        return self._seal(account_id, api_app, clear)

    def token(self, row: Credential, column: TokenColumn) -> SecretStr | None:
        """Raises `DecryptionException`."""
        value: str | None = getattr(row, column)
        if value is None:
            return None
        context = _key_context(row.account_id, row.api_app, column)
        return SecretStr(self._key_ring.decrypt(value, associated_data=context))

    def refresh_token(self, row: Credential) -> SecretStr:
        """Return the refresh token of a row that has one. Raises `DecryptionException`."""
        token = self.token(row, "refresh_token")
        assert token is not None
        return token

    def access_token(self, row: Credential) -> SecretStr:
        """Raises `DecryptionException`."""
        token = self.token(row, "access_token")
        assert token is not None
        return token

    async def load_tokens(self, db: AsyncSession, account_id: str, api_app: str) -> TokenSet:
        """Return the stored tokens unchanged. Raises `TokenNotFoundException`, `DecryptionException`."""
        row = await db.scalar(
            select(Credential).where(Credential.account_id == account_id, Credential.api_app == api_app)
        )
        if row is None:
            raise TokenNotFoundException(account_id, api_app)
        return self.tokens(row)

    def tokens(self, row: Credential) -> TokenSet:
        """Raises `DecryptionException`."""
        remaining = row.token_expires_at - utc_now() if row.token_expires_at else None
        return TokenSet(
            access_token=self.access_token(row),
            refresh_token=self.token(row, "refresh_token"),
            scopes=tuple(row.scopes),
            expires_in=int(remaining.total_seconds()) if remaining is not None else None,
            oauth_token_secret=self.token(row, "oauth_token_secret"),
        )

    def _seal(
        self, account_id: str, api_app: str, clear: Mapping[TokenColumn, SecretStr | None]
    ) -> dict[str, str | None]:
        return {
            column: None
            if value is None
            else self._key_ring.encrypt(
                value.get_secret_value(), associated_data=_key_context(account_id, api_app, column)
            )
            for column, value in clear.items()
        }


def _key_context(account_id: str, api_app: str, column: TokenColumn) -> str:
    return f"{_TABLE}/{account_id}/{api_app}/{column}"
