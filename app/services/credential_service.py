"""The life of a token set: stored encrypted, one current set per account and app."""

from datetime import timedelta
from typing import Final, Literal

from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Credential, CredentialStatus, utc_now
from app.services import event_service
from app.services.interfaces import TokenSet
from app.utils.crypto import KeyRing
from app.utils.exceptions import TokenExpiredException

_Column = Literal["access_token", "refresh_token", "oauth_token_secret"]
_TABLE: Final = Credential.__tablename__


class CredentialService:
    """The only code that sees tokens in clear and in the database."""

    def __init__(self, *, key_ring: KeyRing) -> None:
        self._key_ring = key_ring

    async def store(
        self,
        session: AsyncSession,
        *,
        account_id: str,
        api_app: str,
        provider_user_id: str,
        tokens: TokenSet,
        session_id: str,
    ) -> Credential:
        """Make `tokens` the current set, in the caller's transaction, with the event that tells of it."""
        row = await self._row(session, account_id, api_app, lock=True)
        if row is None:
            row = Credential(account_id=account_id, api_app=api_app, version=0)
            session.add(row)
        row.provider_user_id = provider_user_id
        row.access_token = self._seal(row, "access_token", tokens.access_token)
        row.refresh_token = self._seal_optional(row, "refresh_token", tokens.refresh_token)
        row.oauth_token_secret = self._seal_optional(row, "oauth_token_secret", tokens.oauth_token_secret)
        row.scopes = list(tokens.scopes)
        row.token_expires_at = utc_now() + timedelta(seconds=tokens.expires_in) if tokens.expires_in else None
        row.status = CredentialStatus.ACTIVE
        row.version += 1
        row.session_id = session_id
        event_service.record(
            session,
            "credential.stored",
            account_id=account_id,
            api_app=api_app,
            session_id=session_id,
            version=row.version,
            scopes=row.scopes,
        )
        return row

    async def tokens(self, session: AsyncSession, account_id: str, api_app: str) -> TokenSet:
        """The stored tokens in clear. Raises `TokenExpiredException` when there are none that live."""
        row = await self._row(session, account_id, api_app)
        if row is None or (row.token_expires_at is not None and row.token_expires_at <= utc_now()):
            raise TokenExpiredException(account_id)
        left = row.token_expires_at - utc_now() if row.token_expires_at else None
        return TokenSet(
            access_token=self._open(row, "access_token", row.access_token),
            refresh_token=self._open_optional(row, "refresh_token", row.refresh_token),
            scopes=tuple(row.scopes),
            expires_in=int(left.total_seconds()) if left else None,
            oauth_token_secret=self._open_optional(row, "oauth_token_secret", row.oauth_token_secret),
        )

    async def _row(
        self, session: AsyncSession, account_id: str, api_app: str, *, lock: bool = False
    ) -> Credential | None:
        query = select(Credential).where(Credential.account_id == account_id, Credential.api_app == api_app)
        return await session.scalar(query.with_for_update() if lock else query)

    def _seal(self, row: Credential, column: _Column, value: SecretStr) -> str:
        return self._key_ring.encrypt(value.get_secret_value(), associated_data=_place(row, column))

    def _seal_optional(self, row: Credential, column: _Column, value: SecretStr | None) -> str | None:
        return None if value is None else self._seal(row, column, value)

    def _open(self, row: Credential, column: _Column, value: str) -> SecretStr:
        return SecretStr(self._key_ring.decrypt(value, associated_data=_place(row, column)))

    def _open_optional(self, row: Credential, column: _Column, value: str | None) -> SecretStr | None:
        return None if value is None else self._open(row, column, value)


def _place(row: Credential, column: _Column) -> str:
    """Where a value belongs: table, row (by its natural key, known before the insert) and column."""
    return f"{_TABLE}/{row.account_id}/{row.api_app}/{column}"
