"""The life of a token set: stored encrypted, handed out fresh, refreshed once, verified, revoked."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.clients.oauth.oauth2 import ProviderUser
from app.database import Database, insert_or_update
from app.models import (
    OPEN_STATUSES,
    AuthorizationSession,
    Credential,
    CredentialStatus,
    EventType,
    utc_now,
)
from app.services.events import recorder
from app.services.interfaces import OAuthServiceProtocol, TokenSet
from app.services.shared.access import EVERYTHING, AccessScope
from app.services.shared.group_commit import GroupCommit, GroupLookUp
from app.services.shared.isolation import for_each, isolate_rows
from app.services.shared.leases import take_lease
from app.services.tokens.refresh_leases import EXPIRED, REFUSED, RefreshLeases, expiry
from app.services.tokens.refresh_results import NO_FAILURES, NOT_HELD
from app.services.tokens.refresher import TokenRefresher
from app.services.tokens.vault import CredentialVault
from app.utils.exceptions import (
    AppException,
    InvalidGrantException,
    ReauthorizationRequiredException,
    TokenExpiredException,
    TokenNotFoundException,
    TokenNotRefreshableException,
    TokenRevokedException,
    TwitterAPIException,
)
from app.utils.logger import get_logger
from app.utils.tasks import SingleFlight

REVOCATIONS_DUE: Final = "revocations"
"""Topic of `Database.listen` for commits that make revocations due now."""
_OTHER_PROCESS_POLL: Final = 0.1
"""Seconds between two looks at a row that another process refreshes."""
_REVOKE_LEASE: Final = 60.0
_REVOKE_RETRY: Final = 60.0
_BUSY_RETRY: Final = 5.0

log = get_logger(__name__)


@dataclass(frozen=True)
class IssuedToken:
    """An access token that a caller may use now."""

    row: Credential
    access_token: SecretStr
    oauth_token_secret: SecretStr | None


class CredentialService:
    """`fresh_for`: seconds that a token handed out must live at least, unless the caller asks for more.

    `wait_for`: seconds for which a caller waits for a refresh, by whichever process.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: CredentialVault,
        leases: RefreshLeases,
        refresher: TokenRefresher,
        oauth: OAuthServiceProtocol,
        fresh_for: float,
        wait_for: float,
    ) -> None:
        self._database = database
        self._vault = vault
        self._leases = leases
        self._refresher = refresher
        self._oauth = oauth
        self._fresh_for = fresh_for
        self._wait_for = wait_for
        self._rows = GroupLookUp(database=database, write=_find_rows, at_once=2)
        self._reads = GroupCommit(database=database, write=_record_reads)
        self._renewals = SingleFlight[tuple[str, str, int, bool], tuple[Credential, AppException | None]]()

    async def store(
        self,
        db: AsyncSession,
        *,
        account_id: str,
        api_app: str,
        provider_user_id: str,
        tokens: TokenSet,
        session_id: str | None,
        is_recovery: bool | None = None,
    ) -> Credential:
        """Make `tokens` the current set, in the caller's transaction, with the event that tells of it.

        `is_recovery`: they replace a set whose chain is broken; None: not known yet.
        """
        now = utc_now()
        if is_recovery is None:
            status = await db.scalar(
                select(Credential.status).where(
                    Credential.account_id == account_id, Credential.api_app == api_app
                )
            )
            is_recovery = status is CredentialStatus.REAUTHORIZATION_REQUIRED
        values = {
            **self.current_columns(account_id, api_app, tokens, now),
            "provider_user_id": provider_user_id,
            "session_id": session_id,
        }
        row = await _upsert(db, account_id, api_app, values)
        recorder.record(
            db,
            EventType.CREDENTIAL_RECOVERED if is_recovery else EventType.CREDENTIAL_STORED,
            account_id=account_id,
            api_app=api_app,
            session_id=session_id,
            version=row.version,
            scopes=row.scopes,
        )
        return row

    async def note_success(self, api_app: str) -> None:
        """Note the limit that the answer has told, once the tokens of an authorization are stored.

        The transaction that stored them has reset the app's failures.
        """
        await self._leases.note_success(api_app, are_failures_reset=True)

    async def get_access_token(
        self,
        account_id: str,
        api_app: str,
        *,
        min_ttl: float,
        actor: str,
        access: AccessScope = EVERYTHING,
        force: bool = False,
    ) -> IssuedToken:
        """A token that lives for `min_ttl` seconds, refreshed first when needed, or when `force` says so.

        Any number of callers in any number of processes cause one refresh; all get its result. When it cannot be
        refreshed now, a token that still works is better than none, unless `force` asked for a new one. Raises
        `OutOfReachException`, `TokenNotFoundException`, `TokenRevokedException`,
        `ReauthorizationRequiredException`, `TokenExpiredException`, and with `force` `TokenNotRefreshableException`
        and whatever the refresh came upon.
        """
        access.require(account_id, api_app)
        row = await self._ensure_fresh(account_id, api_app, max(min_ttl, self._fresh_for), force=force)
        read = recorder.new_event(
            EventType.TOKEN_READ, account_id=account_id, api_app=api_app, actor=actor, version=row.version
        )
        await self._reads.add(read)  # a read that is not in the audit does not happen
        return IssuedToken(row, self._vault.access_token(row), self._vault.token(row, "oauth_token_secret"))

    async def close(self) -> None:
        """Once the audit has every read, also of callers who have left. A refresh that is under way goes on."""
        await self._renewals.cancel()
        await self._rows.wait_for_all()
        await self._reads.wait_for_all()

    async def verify(
        self, account_id: str, api_app: str, *, actor: str, access: AccessScope = EVERYTHING
    ) -> ProviderUser:
        """Ask the provider who the token speaks for. Raises what `get_access_token` does, and `TwitterAPIException`.

        A token that is refused before its time, as one that its owner has revoked, is refreshed once: that tells
        whether the chain lives. Where the new one is refused, too, the account must be authorized anew.
        """
        access.require(account_id, api_app)
        row = await self._ensure_fresh(account_id, api_app, self._fresh_for)
        try:
            user = await self._identify(row)
        except TwitterAPIException as error:
            if not _may_be_refused(error, row):
                raise
            row = await self._ensure_fresh(account_id, api_app, 0.0, force=True, in_place_of=row.version)
            user = await self._identify_refreshed(row)
        await self._reads.add(
            recorder.new_event(EventType.TOKEN_VERIFIED, account_id=account_id, api_app=api_app, actor=actor)
        )
        return user

    async def revoke(
        self, account_id: str, api_app: str, *, actor: str, access: AccessScope = EVERYTHING
    ) -> bool:
        """Forget the tokens once the provider has revoked them; False when it did not answer: it is tried again.

        Raises `OutOfReachException`, `TokenNotFoundException`.
        """
        access.require(account_id, api_app)
        async with self._database.transaction() as db:
            row = await db.scalar(_by_key(account_id, api_app).with_for_update())
            if row is None:
                raise TokenNotFoundException(account_id, api_app)
            row.status, row.unusable_since = CredentialStatus.REVOKING, utc_now()
            take_lease(row, owner=actor[:128], seconds=_REVOKE_LEASE)
            row.refresh_due_at = row.lease_expires_at
            recorder.record(
                db, EventType.CREDENTIAL_REVOKING, account_id=account_id, api_app=api_app, actor=actor
            )
        return await self._revoke_held(row)

    async def revoke_due(self, limit: int) -> int | None:
        """Revoke what is due, as when the provider did not answer; how many are forgotten now. None: nothing is due."""
        is_due = (Credential.status == CredentialStatus.REVOKING, Credential.refresh_due_at <= utc_now())
        due = select(Credential.id).where(*is_due).order_by(Credential.refresh_due_at).limit(limit)
        rows: list[Credential] = []

        async def take(ids: Sequence[int]) -> int:
            query = select(Credential).where(Credential.id.in_(ids), *is_due)
            async with self._database.transaction() as db:
                claimed = (await db.scalars(query.with_for_update(skip_locked=True))).all()
                for row in claimed:
                    take_lease(row, owner=row.lease_owner, seconds=_REVOKE_LEASE)
                    row.refresh_due_at = row.lease_expires_at
            rows.extend(claimed)
            return len(claimed)

        async with self._database.reading() as db:
            ids = (await db.scalars(due)).all()
        if not ids:
            return None
        await isolate_rows(ids, take, step="take_revocations")
        by_id = {row.id: row for row in rows}
        revocations = (
            for_each([id_], lambda id_: self._revoke_held(by_id[id_]), step="revoke") for id_ in by_id
        )
        return sum(outcome.count for outcome in await asyncio.gather(*revocations))

    def current_columns(
        self, account_id: str, api_app: str, tokens: TokenSet, now: datetime
    ) -> dict[str, Any]:
        """The columns of a set that nobody has refreshed yet, encrypted."""
        return {
            **self._vault.sealed(account_id, api_app, tokens),
            **NOT_HELD,
            "scopes": list(tokens.scopes),
            "token_expires_at": expiry(now, tokens.expires_in),
            "refresh_due_at": self._leases.due_at(now, tokens, api_app),
            "status": CredentialStatus.ACTIVE,
            **NO_FAILURES,
            "updated_at": now,
        }

    async def _load_active(self, account_id: str, api_app: str) -> Credential:
        """Return the row as it is now; look-ups of callers who come at once share a query.

        Raises `TokenNotFoundException`, `TokenRevokedException`, `ReauthorizationRequiredException`.
        """
        row = await self._rows.add((account_id, api_app))
        if row is None:
            raise TokenNotFoundException(account_id, api_app)
        if row.status is CredentialStatus.REVOKING:
            raise TokenRevokedException(account_id)
        if row.status is CredentialStatus.REAUTHORIZATION_REQUIRED:
            repair = select(AuthorizationSession.session_id).where(
                AuthorizationSession.account_id == account_id,
                AuthorizationSession.api_app == api_app,
                AuthorizationSession.status.in_(OPEN_STATUSES),
            )
            async with self._database.reading() as db:
                raise ReauthorizationRequiredException(account_id, await db.scalar(repair.limit(1)))
        return row

    async def _ensure_fresh(
        self,
        account_id: str,
        api_app: str,
        min_ttl: float,
        *,
        force: bool = False,
        in_place_of: int | None = None,
    ) -> Credential:
        """`in_place_of`: a version that the provider refused."""
        first = await self._load_active(account_id, api_app)
        if in_place_of not in (None, first.version) or (not force and _lives_for(first, min_ttl)):
            return first
        if first.refresh_token is None:
            if in_place_of is None and _lives_for(first, 0):
                return _fallback_or_raise(None, first, force=force)
            return await self._reauthorize(first, REFUSED if in_place_of else EXPIRED)
        row, error = await self._renewals.share(
            (account_id, api_app, first.version, force), lambda: self._renew(first, force=force)
        )
        return row if row.version != first.version else _fallback_or_raise(error, row, force=force)

    async def _renew(self, first: Credential, *, force: bool) -> tuple[Credential, AppException | None]:
        """The row when its tokens are newer than `first`, in whichever process; else as it is, and what went wrong."""
        give_up_at = time.monotonic() + self._wait_for
        while True:
            error = await self._refresher.refresh(
                first.account_id, first.api_app, version=first.version, force=force
            )
            row = await self._load_active(first.account_id, first.api_app)
            if row.version != first.version or error is not None or time.monotonic() > give_up_at:
                return row, error
            await asyncio.sleep(_OTHER_PROCESS_POLL)

    async def _reauthorize(self, row: Credential, code: str) -> Credential:
        """Newer tokens, if they have come just now; else `ReauthorizationRequiredException`, and a repair.

        Only once somebody asks: an account that nobody uses needs no browser every two hours.
        """
        await self._leases.end_unrefreshable(row, code)
        return await self._load_active(row.account_id, row.api_app)

    async def _identify(self, row: Credential) -> ProviderUser:
        access_token, secret = self._vault.access_token(row), self._vault.token(row, "oauth_token_secret")
        try:
            user = await self._oauth.verify_credentials(row.api_app, access_token, secret)
        except TwitterAPIException as error:
            await self._leases.note_limit(row.account_id, row.api_app, error.limit)
            raise
        await self._leases.note_limit(row.account_id, row.api_app, user.limit)
        return user

    async def _identify_refreshed(self, row: Credential) -> ProviderUser:
        """Raises `ReauthorizationRequiredException` when a refresh has not helped."""
        access_token, secret = self._vault.access_token(row), self._vault.token(row, "oauth_token_secret")
        try:
            return await self._oauth.verify_credentials(row.api_app, access_token, secret, is_new=True)
        except TwitterAPIException as error:
            if not _may_be_refused(error, row):
                raise
            await self._reauthorize(row, REFUSED)
            raise

    async def _revoke_held(self, row: Credential) -> bool:
        lease_guard = (Credential.id == row.id, Credential.lease_token == row.lease_token)
        try:
            has_refresh_token = row.refresh_token is not None
            token = self._vault.refresh_token(row) if has_refresh_token else self._vault.access_token(row)
            await self._oauth.revoke_token(row.api_app, token, self._vault.token(row, "oauth_token_secret"))
        except AppException as error:
            log.warning("credential.not_revoked", account_id=row.account_id, error_code=error.error_code)
            retry_at = utc_now() + timedelta(seconds=max(error.retry_after or 0.0, _REVOKE_RETRY))
            # The owner stays: it names who asked.
            values = {"lease_token": None, "lease_expires_at": None, "refresh_due_at": retry_at}
            async with self._database.transaction() as db:
                await db.execute(
                    update(Credential)
                    .where(*lease_guard)
                    .values(**values, refresh_error_code=error.error_code)
                )
            return False
        async with self._database.transaction() as db:
            current = await db.scalar(select(Credential).where(*lease_guard).with_for_update())
            if current is not None:
                await db.delete(current)
                recorder.record(
                    db, EventType.CREDENTIAL_REVOKED, account_id=row.account_id, api_app=row.api_app
                )
        return current is not None


async def _find_rows(db: AsyncSession, keys: Sequence[tuple[str, str]]) -> list[Credential | None]:
    """Return the row of each account and app."""
    accounts = {account_id for account_id, _ in keys}
    rows = await db.scalars(select(Credential).where(Credential.account_id.in_(accounts)))
    by_key = {(row.account_id, row.api_app): row for row in rows}
    return [by_key.get(key) for key in keys]


async def _record_reads(db: AsyncSession, events: Sequence[dict[str, Any]]) -> Sequence[None]:
    await recorder.record_all(db, events)
    return [None] * len(events)


async def _upsert(db: AsyncSession, account_id: str, api_app: str, values: dict[str, Any]) -> Credential:
    """One statement: of two that store at once the second gets the next version, also when there was no row."""
    insert = insert_or_update(db, Credential).values(
        account_id=account_id, api_app=api_app, version=1, created_at=values["updated_at"], **values
    )
    statement = insert.on_conflict_do_update(
        index_elements=[Credential.account_id, Credential.api_app],
        set_={**values, "version": Credential.version + 1},
    ).returning(Credential)
    rows = await db.scalars(statement, execution_options={"populate_existing": True})
    row: Credential = rows.one()
    return row


def _by_key(account_id: str, api_app: str) -> Select[Credential]:
    return select(Credential).where(Credential.account_id == account_id, Credential.api_app == api_app)


def _lives_for(row: Credential, seconds: float) -> bool:
    return row.token_expires_at is None or (row.token_expires_at - utc_now()).total_seconds() > seconds


def _fallback_or_raise(error: AppException | None, row: Credential, *, force: bool) -> Credential:
    if force and error is not None:
        raise error
    if not force and _lives_for(row, 0):
        return row
    if row.oauth_token_secret is not None:
        raise TokenNotRefreshableException(row.account_id, row.api_app)
    if row.refresh_token is None:
        raise TokenExpiredException(row.account_id)
    if error is None:
        raise TokenExpiredException(row.account_id, "another process is at it", retry_after=_BUSY_RETRY)
    raise TokenExpiredException(row.account_id, error.message, retry_after=error.retry_after)


def _may_be_refused(error: TwitterAPIException, row: Credential) -> bool:
    """Some providers answer 403 for a token that is revoked, and for much else: only a refresh tells."""
    is_unjudged = type(error) is TwitterAPIException and error.status == HTTPStatus.FORBIDDEN
    return isinstance(error, InvalidGrantException) or (is_unjudged and row.refresh_token is not None)
