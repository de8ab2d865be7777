"""The database's side of a refresh: who may spend a refresh token, once, and what became of it.

Before the call the row is marked with the version whose refresh token is about to be spent; the marker goes with the
result. A marker whose lease has expired without one is ambiguous: the provider may have rotated the chain. It is never
spent again: the account is authorised anew.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydantic import SecretStr
from sqlalchemy import ColumnElement, Select, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.clients.oauth.token_answers import MAX_TOKEN_LIFE
from app.database import Database
from app.models import Credential, CredentialStatus, EventType, utc_now
from app.services.events import recorder
from app.services.interfaces import TokenSet
from app.services.oauth.app_state import AppStates
from app.services.oauth.rate_limits import ProviderRateLimits
from app.services.shared.group_commit import GroupCommit
from app.services.shared.isolation import UsableRows
from app.services.shared.leases import clear_lease, has_no_lease, lease_columns, new_lease_token
from app.services.tokens.due_refreshes import room_for_calls, select_due
from app.services.tokens.refresh_results import NO_FAILURES, NOT_HELD, RefreshClaim, RefreshResult, save_all
from app.services.tokens.vault import CredentialVault
from app.utils.exceptions import AppException, ErrorCode, RefreshedJustNowException, TwitterAPIException
from app.utils.logger import get_logger
from app.utils.waits import CallLimit, bounded_wait, retry_delay

_TOO_MANY_REQUESTS: Final = 429
_MAX_RETRY_WAIT: Final = 3600.0
_CALLS_LEFT: Final = "no calls left"
_JITTER: Final = 0.5
_SHARE_OF_LIFE: Final = 0.5
"""A token is refreshed in the second half of its life at the earliest, however wide the margin is."""

AMBIGUOUS: Final = ErrorCode.REFRESH_AMBIGUOUS
"""The code of a broken chain whose last refresh has no known end."""
EXPIRED: Final = ErrorCode.TOKEN_EXPIRED
"""Code of an access token that has expired and came without a refresh token."""
REFUSED: Final = ErrorCode.TOKEN_REFUSED
"""Code of an access token that the provider refuses before its expiry."""
REFRESH_REFUSED: Final = ErrorCode.REFRESH_REFUSED
"""Code of a refresh token that is refused again and again for an unknown reason."""

MAX_REFUSALS: Final = 5
"""Refusals in a row, over `_REFUSED_FOR`, that count as final: one may be a gateway's, or transient."""
_REFUSED_FOR: Final = timedelta(days=1)

log = get_logger(__name__)


@dataclass(frozen=True)
class RefreshTimes:
    """Seconds."""

    lease: float
    """Longer than the call's own deadline and the save together."""
    margin: float
    """A token is refreshed so long before it expires."""
    jitter: float
    """And up to so much earlier, so that many do not come due together."""
    retry: float
    """Seconds after the first failure in a row; they double with each one."""
    min_interval: float
    """Seconds between two refreshes of one account, whatever lifetime its answers name; forced ones excepted."""


class RefreshLeases:
    """`owner`: this process's name in the leases.

    `default_life`: seconds that a token of an app lives whose answer names no lifetime.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: CredentialVault,
        apps: AppStates,
        budgets: ProviderRateLimits,
        times: RefreshTimes,
        default_life: Callable[[str], float],
        owner: str,
    ) -> None:
        self._database = database
        self._vault = vault
        self._apps = apps
        self._budgets = budgets
        self._times = times
        self._default_life = default_life
        self._owner = owner
        self._usable = UsableRows(Credential.id, step="take_due")
        self._saves = GroupCommit(database=database, write=save_all)
        self._notes = GroupCommit(database=database, write=self._note_all)

    async def note_limit(self, account_id: str, api_app: str, limit: CallLimit | None) -> None:
        """Keep in mind what the provider refuses now; it may fail alone."""
        if limit is None:
            return
        try:
            async with self._database.transaction() as db:
                await self._apps.note_limit(db, account_id, api_app, limit)
        except Exception as error:
            log.error("app.not_noted", api_app=api_app, exc_info=error)

    async def take(
        self, account_id: str, api_app: str, *, version: int, force: bool = False
    ) -> RefreshClaim | None:
        """The right to refresh this version; None when somebody has it, had it, or nobody may any more.

        Raises `DecryptionException`, and unless `force` says so `RefreshedJustNowException`.
        """
        query = select(Credential).where(
            Credential.account_id == account_id,
            Credential.api_app == api_app,
            Credential.version == version,
            Credential.status == CredentialStatus.ACTIVE,
            Credential.refresh_token.is_not(None),
            has_no_lease(Credential),
        )
        async with self._database.transaction() as db:
            row = await db.scalar(query.with_for_update())
            if row is None:
                return None
            # Not of a broken chain, which is told at once.
            if not force and row.refreshed_at is not None and row.spending_version != row.version:
                since = (utc_now() - row.refreshed_at).total_seconds()
                if abs(since) < self._times.min_interval:  # further in the future is a clock's mistake
                    raise RefreshedJustNowException(account_id, self._times.min_interval - since)
            claim = self._build_claim(db, row, self._vault.refresh_token(row), new_lease_token())
            if claim is not None:
                await self._mark(db, [claim])
        return claim

    async def take_due(self, limit: int) -> list[RefreshClaim]:
        """The next ones that are due, whose app is neither paused nor limited, for this process alone.

        Of an app whose budget of calls is told, no more than fit into it beside those in flight, in all processes.
        """

        claims = await self._usable.claim(
            lambda condition: self._take_due(limit, condition),
            lambda condition: self._find_due(limit, condition),
        )
        return claims or []

    async def _find_due(self, limit: int, condition: ColumnElement[bool]) -> Sequence[int]:
        """Return the ids of due rows, whatever their apps' calls: one statement, which takes no lock."""
        due = select_due(limit, {}, condition, min_interval=self._times.min_interval)
        async with self._database.reading() as db:
            return (await db.scalars(due.with_only_columns(Credential.id))).all()

    async def _take_due(self, limit: int, condition: ColumnElement[bool]) -> list[RefreshClaim]:
        if not await self._find_due(1, condition):  # most looks: SQLite has one lock for all that write
            return []
        async with self._database.transaction() as db:
            self._budgets.forget(await self._apps.fetch_resume_times(db))
            room = await room_for_calls(db, self._budgets)
            query = select_due(limit, room, condition, min_interval=self._times.min_interval)
            rows = (await db.scalars(query.with_for_update(skip_locked=True))).all()
            lease_token = new_lease_token()
            claims = []
            for row in rows:
                left = room.get(row.api_app)  # None: the app's calls are not limited
                if left is not None:
                    room[row.api_app] = left - 1
                    if left <= 0:
                        continue
                if (claim := self._build_claim_if_readable(db, row, lease_token)) is not None:
                    claims.append(claim)
            if claims:
                await self._mark(db, claims)
        return claims

    async def save(self, claim: RefreshClaim, tokens: TokenSet, *, answered_at: datetime) -> bool:
        """Make `tokens`, which live from `answered_at`, the current ones.

        False when newer ones are, or when the account was forgotten. Fenced by the version alone: tokens that arrive
        after the lease still heal a chain taken for broken.
        """
        values = {
            **self._vault.sealed(claim.account_id, claim.api_app, tokens),
            **NOT_HELD,
            "scopes": list(tokens.scopes),
            "status": CredentialStatus.ACTIVE,
            "version": claim.version + 1,
            "token_expires_at": expiry(answered_at, tokens.expires_in),
            "refreshed_at": answered_at,
            **NO_FAILURES,
        }
        due_at = self.due_at(answered_at, tokens, claim.api_app)
        values["refresh_due_at"] = due_at and max(
            due_at, answered_at + timedelta(seconds=self._times.min_interval)
        )
        event = recorder.new_event(
            EventType.CREDENTIAL_REFRESHED,
            account_id=claim.account_id,
            api_app=claim.api_app,
            version=claim.version + 1,
        )
        is_saved = await self._saves.add(RefreshResult(claim, values, event))
        await self.note_success(claim.api_app)
        return is_saved

    async def note_success(self, api_app: str, *, are_failures_reset: bool = False) -> None:
        """Keep the books of an app that got tokens. They may fail alone: the tokens are stored."""
        if are_failures_reset and self._budgets.seconds_until_reset(api_app) is None:
            return
        try:
            await self._notes.add(api_app)
        except Exception as error:
            log.error("app.not_noted", api_app=api_app, exc_info=error)

    async def _note_all(self, db: AsyncSession, apps: Sequence[str]) -> Sequence[None]:
        self._budgets.forget(await self._apps.fetch_resume_times(db))
        for api_app in sorted(set(apps)):
            await self._apps.reset_failures(db, api_app)
            if (seconds := self._budgets.seconds_until_reset(api_app)) is not None:
                await self._apps.set_limit(db, api_app, seconds=seconds, reason=_CALLS_LEFT)
        return [None] * len(apps)

    async def is_forgotten(self, claim: RefreshClaim) -> bool:
        """Return whether the account's tokens are to be deleted."""
        async with self._database.reading() as db:
            status = await db.scalar(
                select(Credential.status).where(
                    Credential.account_id == claim.account_id, Credential.api_app == claim.api_app
                )
            )
        return status is None or status is CredentialStatus.REVOKING

    async def give_back(self, claim: RefreshClaim, error: AppException) -> None:
        """The refresh token was not spent: it is tried again later, or when the provider says."""
        async with self._database.transaction() as db:
            row = await db.scalar(_claim_guard(claim).with_for_update())
            if row is None:
                return
            if type(error) is TwitterAPIException and not error.retryable and not error.may_have_acted:
                # Refused for an unknown reason, neither the app's nor the account's nor the token's: after some time
                # and some more refusals the refresh token is taken for dead.
                row.refresh_refusals += 1
                row.refused_since = row.refused_since or utc_now()
                if row.refresh_refusals >= MAX_REFUSALS and utc_now() - row.refused_since >= _REFUSED_FOR:
                    self._break(db, row, REFRESH_REFUSED)
                    return
            row.refresh_failures += 1
            wait = bounded_wait(self._wait_after(error, row.refresh_failures))
            row.refresh_due_at = utc_now() + timedelta(seconds=wait)
            row.refresh_error_code = error.error_code
            row.spending_version = None
            clear_lease(row)
            recorder.record(
                db,
                EventType.CREDENTIAL_REFRESH_FAILED,
                account_id=claim.account_id,
                api_app=claim.api_app,
                error_code=error.error_code,
                failures=row.refresh_failures,
                next_attempt_in=round(wait, 1),
            )

    async def break_chain(self, claim: RefreshClaim, code: str) -> bool:
        """The refresh token is spent or revoked, or may be; False when newer tokens have come meanwhile."""
        async with self._database.transaction() as db:
            row = await db.scalar(_claim_guard(claim).with_for_update())
            if row is None:
                return False
            self._break(db, row, code)
        return True

    async def end_unrefreshable(self, row: Credential, code: str) -> None:
        """The access token is of no use any more, and there is no refresh token; nothing when newer ones have come."""
        query = select(Credential).where(
            Credential.id == row.id,
            Credential.created_at == row.created_at,
            Credential.version == row.version,
            Credential.status == CredentialStatus.ACTIVE,
        )
        async with self._database.transaction() as db:
            current = await db.scalar(query.with_for_update())
            if current is not None:
                self._break(db, current, code)

    def due_at(self, now: datetime, tokens: TokenSet, api_app: str) -> datetime | None:
        """Return the time to refresh tokens that live from `now`; None when they cannot be refreshed."""
        if tokens.refresh_token is None:
            return None
        early = self._times.margin + random.uniform(0, self._times.jitter)  # noqa: S311
        life = self._default_life(api_app) if tokens.expires_in is None else tokens.expires_in
        life = min(life, MAX_TOKEN_LIFE)
        return now + timedelta(seconds=life - min(early, life * _SHARE_OF_LIFE))

    def _wait_after(self, error: AppException, failures: int) -> float:
        asked_for = error.retry_after or 0.0
        if asked_for and isinstance(error, TwitterAPIException) and error.status == _TOO_MANY_REQUESTS:
            return asked_for  # the app's calls were too many, not the account's
        wait = retry_delay(failures, base=self._times.retry, ceiling=_MAX_RETRY_WAIT, jitter=_JITTER)
        return max(wait, asked_for)

    async def _mark(self, db: AsyncSession, claims: Sequence[RefreshClaim]) -> None:
        """Mark rows as being refreshed, in one statement: `claims` have one lease token."""
        await db.execute(
            update(Credential)
            .where(Credential.id.in_([claim.credential_id for claim in claims]))
            .values(
                **lease_columns(claims[0].lease_token, owner=self._owner, seconds=self._times.lease),
                spending_version=Credential.version,
            ),
            execution_options={"synchronize_session": False},
        )

    def _build_claim_if_readable(
        self, db: AsyncSession, row: Credential, lease_token: str
    ) -> RefreshClaim | None:
        """Return the claim of a row; None when it cannot be read: it is put off, so that it delays no other."""
        try:
            return self._build_claim(db, row, self._vault.refresh_token(row), lease_token)
        except Exception as error:
            # Of a `DecryptionException` a key is missing in the settings: the chain may be fine.
            known_error = error if isinstance(error, AppException) else None
            log.error(
                "credential.unreadable",
                account_id=row.account_id,
                api_app=row.api_app,
                exc_info=error if known_error is None else None,
            )
            row.refresh_error_code = (known_error or AppException).error_code
            row.refresh_due_at = utc_now() + timedelta(seconds=_MAX_RETRY_WAIT)
            return None

    def _build_claim(
        self, db: AsyncSession, row: Credential, refresh_token: SecretStr, lease_token: str
    ) -> RefreshClaim | None:
        if row.spending_version == row.version:
            self._break(db, row, AMBIGUOUS)
            return None
        return RefreshClaim(
            credential_id=row.id,
            account_id=row.account_id,
            api_app=row.api_app,
            version=row.version,
            lease_token=lease_token,
            refresh_token=refresh_token,
            row_made_at=row.created_at,
        )

    def _break(self, db: AsyncSession, row: Credential, code: str) -> None:
        row.status = CredentialStatus.REAUTHORIZATION_REQUIRED
        row.refresh_error_code, row.refresh_due_at, row.unusable_since = code, None, utc_now()
        clear_lease(row)
        recorder.record(
            db,
            EventType.CREDENTIAL_BROKEN,
            account_id=row.account_id,
            api_app=row.api_app,
            version=row.version,
            reason=code,
        )
        log.warning("credential.broken", account_id=row.account_id, api_app=row.api_app, reason=code)


def expiry(now: datetime, expires_in: int | None) -> datetime | None:
    return None if expires_in is None else now + timedelta(seconds=min(expires_in, MAX_TOKEN_LIFE))


def _claim_guard(claim: RefreshClaim) -> Select[Credential]:
    return select(Credential).where(
        Credential.id == claim.credential_id,
        Credential.created_at == claim.row_made_at,
        Credential.version == claim.version,
        Credential.lease_token == claim.lease_token,
    )
