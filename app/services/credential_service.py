"""The life of a token set: stored encrypted, one current set per account and app."""

from datetime import datetime, timedelta
from typing import Final, Literal

from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import insert_or_update
from app.models import Credential, CredentialStatus, utc_now
from app.services import event_service
from app.services.interfaces import TokenSet
from app.utils.crypto import KeyRing
from app.utils.exceptions import TokenExpiredException

_Column = Literal["access_token", "refresh_token", "oauth_token_secret"]
_Place = tuple[str, str]
"""Account and app."""
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
        place = (account_id, api_app)
        values = {
            "provider_user_id": provider_user_id,
            "access_token": self._seal(place, "access_token", tokens.access_token),
            "refresh_token": self._seal(place, "refresh_token", tokens.refresh_token),
            "oauth_token_secret": self._seal(place, "oauth_token_secret", tokens.oauth_token_secret),
            "scopes": list(tokens.scopes),
            "token_expires_at": _expiry(tokens.expires_in),
            "status": CredentialStatus.ACTIVE,
            "session_id": session_id,
            "updated_at": utc_now(),
        }
        insert = insert_or_update(session, Credential).values(
            account_id=account_id, api_app=api_app, version=1, created_at=utc_now(), **values
        )
        # One statement: of two that store at once the second gets the next version, also when there was no row.
        statement = insert.on_conflict_do_update(
            index_elements=[Credential.account_id, Credential.api_app],
            set_={**values, "version": Credential.version + 1},
        ).returning(Credential)
        row: Credential = (
            await session.scalars(statement, execution_options={"populate_existing": True})
        ).one()
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
        row = await session.scalar(
            select(Credential).where(Credential.account_id == account_id, Credential.api_app == api_app)
        )
        if row is None or (row.token_expires_at is not None and row.token_expires_at <= utc_now()):
            raise TokenExpiredException(account_id)
        left = row.token_expires_at - utc_now() if row.token_expires_at else None
        place = (account_id, api_app)
        access_token = self._open(place, "access_token", row.access_token)
        assert access_token is not None
        return TokenSet(
            access_token=access_token,
            refresh_token=self._open(place, "refresh_token", row.refresh_token),
            scopes=tuple(row.scopes),
            expires_in=int(left.total_seconds()) if left else None,
            oauth_token_secret=self._open(place, "oauth_token_secret", row.oauth_token_secret),
        )

    def _seal(self, place: _Place, column: _Column, value: SecretStr | None) -> str | None:
        if value is None:
            return None
        return self._key_ring.encrypt(value.get_secret_value(), associated_data=_associated(place, column))

    def _open(self, place: _Place, column: _Column, value: str | None) -> SecretStr | None:
        if value is None:
            return None
        return SecretStr(self._key_ring.decrypt(value, associated_data=_associated(place, column)))


def _associated(place: _Place, column: _Column) -> str:
    """Where a value belongs: table, row (by its natural key, known before the insert) and column."""
    return "/".join((_TABLE, *place, column))


def _expiry(expires_in: int | None) -> datetime | None:
    return utc_now() + timedelta(seconds=expires_in) if expires_in else None
