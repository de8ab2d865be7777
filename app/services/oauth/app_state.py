"""OAuth apps that fail by their own fault, and those whose calls the provider limits.

After some failures in a row an app is paused, before it costs more. While who-am-I cannot be asked for an app or an
account no consent of it is begun: it would be thrown away.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, null, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.database import affected_rows, database_time, insert_or_update
from app.models import (
    AccountLimit,
    AppState,
    AuthorizationSession,
    Credential,
    CredentialStatus,
    EventType,
    SessionStatus,
    utc_now,
)
from app.services.events import recorder
from app.services.shared.access import EVERYTHING, AccessScope
from app.utils.exceptions import (
    AppException,
    AppLimitedException,
    AppPausedException,
    TwitterAPIException,
)
from app.utils.logger import get_logger
from app.utils.waits import CallLimit, LimitOwner, bounded_wait

_Text = ColumnElement[str] | InstrumentedAttribute[str]

log = get_logger(__name__)


@dataclass(frozen=True)
class ResumeResult:
    """State of an app before an operator resumed it."""

    was_paused: bool
    was_limited: bool
    """The app, or accounts in it."""


class AppStates:
    """`names`: the apps in the settings; `pause_after`: failures in a row. Takes the caller's database session."""

    def __init__(self, names: Collection[str], *, pause_after: int) -> None:
        self._names = names
        self._pause_after = pause_after

    async def ensure_not_paused(self, db: AsyncSession, api_app: str) -> None:
        """Raises `AppPausedException`."""
        reason = await db.scalar(
            select(AppState.reason).where(AppState.api_app == api_app, AppState.paused_at.is_not(None))
        )
        if reason is not None:
            raise AppPausedException(api_app, reason)

    async def paused_reasons(self, db: AsyncSession, api_apps: Collection[str]) -> dict[str, str]:
        """Return why apps are paused, by app; nothing of the others."""
        is_paused = (AppState.api_app.in_(api_apps), AppState.paused_at.is_not(None))
        rows = await db.execute(select(AppState.api_app, AppState.reason).where(*is_paused))
        return {api_app: reason for api_app, reason in rows if reason is not None}

    async def ensure_callable(self, db: AsyncSession, api_app: str) -> None:
        """Raises `AppPausedException`, or `AppLimitedException` while the provider limits the app's rate."""
        await self.ensure_not_paused(db, api_app)
        limited_until = await db.scalar(select(AppState.limited_until).where(AppState.api_app == api_app))
        if limited_until is not None and (remaining := (limited_until - utc_now()).total_seconds()) > 0:
            raise AppLimitedException(api_app, bounded_wait(remaining))

    async def fetch_resume_times(self, db: AsyncSession) -> dict[str, datetime]:
        """Time at which an operator has lifted an app's limits, by app."""
        query = select(AppState.api_app, AppState.resumed_at).where(AppState.resumed_at.is_not(None))
        return {api_app: at for api_app, at in await db.execute(query) if at is not None}

    async def list_paused(self, db: AsyncSession, *, access: AccessScope = EVERYTHING) -> list[AppState]:
        is_covered = access.condition(null(), AppState.api_app)
        query = select(AppState).where(AppState.paused_at.is_not(None), is_covered)
        return list(await db.scalars(query.order_by(AppState.api_app)))

    async def list_stopped(self, db: AsyncSession, *, access: AccessScope = EVERYTHING) -> list[AppState]:
        """Apps that are paused, and those whose rate the provider limits."""
        is_covered = access.condition(null(), AppState.api_app)
        is_stopped = AppState.paused_at.is_not(None) | (AppState.limited_until > utc_now())
        return list(
            await db.scalars(select(AppState).where(is_stopped, is_covered).order_by(AppState.api_app))
        )

    async def reset_failures(self, db: AsyncSession, api_app: str) -> None:
        """The row is over; a pause that an operator has not ended stays."""
        await db.execute(
            update(AppState)
            .where(AppState.api_app == api_app, AppState.failures_in_a_row > 0)
            .values(failures_in_a_row=0)
        )

    async def count_failure(self, db: AsyncSession, api_app: str, error: AppException) -> None:
        """Count a failure of the app itself, and pause it when there are too many in a row."""
        insert = insert_or_update(db, AppState).values(api_app=api_app, failures_in_a_row=1)
        statement = insert.on_conflict_do_update(
            index_elements=[AppState.api_app], set_={"failures_in_a_row": AppState.failures_in_a_row + 1}
        ).returning(AppState.failures_in_a_row)
        failures = await db.scalar(statement)
        if failures is None or failures < self._pause_after:
            return
        result = await db.execute(
            update(AppState)
            .where(AppState.api_app == api_app, AppState.paused_at.is_(None))
            .values(paused_at=utc_now(), reason=f"{error.error_code} {failures} times in a row")
        )
        if affected_rows(result):
            recorder.record(
                db, EventType.APP_PAUSED, api_app=api_app, error_code=error.error_code, failures=failures
            )
            log.error("app.paused", api_app=api_app, error_code=error.error_code, failures=failures)

    async def set_limit(
        self, db: AsyncSession, api_app: str, *, seconds: float, reason: str | None = None
    ) -> None:
        """The provider limits the app's rate: nothing of it is called before the seconds are over.

        `reason`: the name of the limit in the provider's headers.
        """
        seconds = bounded_wait(seconds)
        values = {"limited_until": utc_now() + timedelta(seconds=seconds), "limited_by": reason}
        insert = insert_or_update(db, AppState).values(api_app=api_app, failures_in_a_row=0, **values)
        is_longer = AppState.limited_until.is_(None) | (
            AppState.limited_until < insert.excluded.limited_until
        )
        await db.execute(
            insert.on_conflict_do_update(index_elements=[AppState.api_app], set_=values, where=is_longer)
        )
        log.warning("app.limited", api_app=api_app, seconds=round(seconds, 1), limit=reason)

    async def note_limit(self, db: AsyncSession, account_id: str, api_app: str, limit: CallLimit) -> None:
        """The provider answers no more calls of the account in the app, or of the whole app, for now."""
        if limit.owner is LimitOwner.APP:
            await self.set_limit(db, api_app, seconds=limit.seconds, reason=limit.reason)
            return
        now, seconds = utc_now(), bounded_wait(limit.seconds)
        values = {"limited_until": now + timedelta(seconds=seconds), "limited_by": limit.reason}
        insert = insert_or_update(db, AccountLimit).values(account_id=account_id, api_app=api_app, **values)
        columns = [AccountLimit.account_id, AccountLimit.api_app]
        await db.execute(delete(AccountLimit).where(AccountLimit.limited_until < now))
        is_longer = AccountLimit.limited_until < insert.excluded.limited_until
        await db.execute(insert.on_conflict_do_update(index_elements=columns, set_=values, where=is_longer))
        log.warning(
            "account.limited",
            account_id=account_id,
            api_app=api_app,
            seconds=round(seconds, 1),
            limit=limit.reason,
        )

    async def resume(
        self, db: AsyncSession, api_app: str, *, actor: str, access: AccessScope = EVERYTHING
    ) -> ResumeResult:
        """Let the app's sessions and refreshes start again, those also that wait for the end of a limit.

        Raises `OutOfReachException`.
        """
        access.require(None, api_app)
        now = utc_now()
        row = await db.get(AppState, api_app, with_for_update=True)
        was_paused = row is not None and row.paused_at is not None
        was_limited = row is not None and row.limited_until is not None and row.limited_until > now
        if row is not None:
            row.paused_at = row.reason = row.limited_until = row.limited_by = None
        if row is not None or api_app in self._names:
            # A process may have a limit in its memory of an app that has no row. A name that the caller made up gets
            # none: it would be stored for ever.
            fresh = {"failures_in_a_row": 0, "resumed_at": now}
            insert = insert_or_update(db, AppState).values(api_app=api_app, **fresh)
            await db.flush()
            await db.execute(insert.on_conflict_do_update(index_elements=[AppState.api_app], set_=fresh))
        was_limited |= await _end_waits(db, api_app)
        if was_paused or was_limited:
            recorder.record(db, EventType.APP_RESUMED, actor=actor, api_app=api_app)
        return ResumeResult(was_paused=was_paused, was_limited=was_limited)


def is_limited(account_id: _Text, api_app: _Text) -> ColumnElement[bool]:
    """Return the SQL condition that the provider answers no calls of the app, or none of the account in it, for now."""
    app_limit = select(AppState.api_app).where(
        AppState.api_app == api_app, AppState.limited_until > database_time()
    )
    account_limit = select(AccountLimit.api_app).where(
        AccountLimit.account_id == account_id,
        AccountLimit.api_app == api_app,
        AccountLimit.limited_until > database_time(),
    )
    return app_limit.exists() | account_limit.exists()


async def _end_waits(db: AsyncSession, api_app: str) -> bool:
    """Make due what was put off because the provider said so; whether accounts were limited."""
    now, error_code = utc_now(), TwitterAPIException.error_code
    lifted = delete(AccountLimit).where(AccountLimit.api_app == api_app, AccountLimit.limited_until > now)
    were_limited = affected_rows(await db.execute(lifted)) > 0
    await db.execute(
        update(Credential)
        .where(
            Credential.api_app == api_app,
            Credential.status == CredentialStatus.ACTIVE,
            Credential.refresh_due_at > now,
            Credential.refresh_error_code == error_code,
        )
        .values(refresh_due_at=now)
    )
    await db.execute(
        update(AuthorizationSession)
        .where(
            AuthorizationSession.api_app == api_app,
            AuthorizationSession.status == SessionStatus.PENDING,
            AuthorizationSession.not_before > now,
            AuthorizationSession.error_code == error_code,
        )
        .values(not_before=None)
    )
    return were_limited
