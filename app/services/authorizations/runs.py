"""The working side of a session's life: claimed under a lease, brought to one true end, put back when a runner dies."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.clients.oauth.oauth2 import ProviderUser
from app.database import Database, after_commit, database_time
from app.models import (
    AppState,
    AuthorizationSession,
    Credential,
    CredentialStatus,
    EventType,
    SessionStage,
    SessionStatus,
    utc_now,
)
from app.services.authorizations import evidence as evidence_service
from app.services.authorizations import transitions
from app.services.authorizations.stages import StageProgress, note_progress, record_news, write_progress
from app.services.authorizations.transitions import SessionHook
from app.services.authorizations.waiters import SessionWaiters
from app.services.events import recorder
from app.services.gologin_service import GoLoginService
from app.services.interfaces import AuthorizationJob, PageEvidence, TokenSet
from app.services.oauth.app_state import AppStates, is_limited
from app.services.queue.jobs import JobQueue, QueuedSession
from app.services.shared.isolation import isolate_rows
from app.services.shared.leases import NO_LEASE, lease_columns, new_lease_token, renew_lease
from app.services.tokens.service import CredentialService
from app.utils.exceptions import (
    AppException,
    AuthorizationTimeoutException,
    DatabaseBusyException,
    ErrorCode,
    FailureKind,
    LeaseLostException,
    ProfileInUseException,
    ProfileQuarantinedException,
    TwitterAPIException,
)
from app.utils.logger import get_logger
from app.utils.retry import retry_while_unavailable
from app.utils.waits import CallLimit, bounded_wait

_DELIVERY_WINDOW: Final = 1000
"""Waiting sessions put into the queue at once: far more than the slots take until the next delivery."""

_ATTENDED_WINDOW: Final = 50
_DELIVERED_AHEAD: Final = 30.0
_PAGE_SIZE: Final = 200
_STAGE_LOCK_WAIT: Final = 1.0
"""Seconds for which the stages of a group wait for a lock: the ends of its other sessions may wait for them."""

log = get_logger(__name__)


@dataclass(frozen=True)
class RunLimits:
    """Seconds."""

    max_running: float
    lease: float
    retry_wait: float
    """Seconds before the second attempt; they double with each one."""


class SessionRuns:
    """`owner`: this process's name in the leases."""

    def __init__(
        self,
        *,
        database: Database,
        gologin: GoLoginService,
        credentials: CredentialService,
        apps: AppStates,
        on_session_ended: SessionHook,
        queue: JobQueue,
        waiters: SessionWaiters,
        limits: RunLimits,
        owner: str,
    ) -> None:
        self._database = database
        self._gologin = gologin
        self._credentials = credentials
        self._apps = apps
        self._on_session_ended = on_session_ended
        self._queue = queue
        self._waiters = waiters
        self._limits = limits
        self._owner = owner

    async def deliver_waiting(self) -> int:
        """Put the next waiting sessions into the queue; those that are in it already are not doubled."""
        async with self._database.reading() as db:
            rows = [
                *await db.scalars(_next_due(_DELIVERY_WINDOW, awaits_person=False)),
                *await db.scalars(_next_due(_ATTENDED_WINDOW, awaits_person=True)),
            ]
        await self._queue.submit_all([QueuedSession.from_row(row) for row in rows])
        return len(rows)

    async def claim(self, session_id: str) -> AuthorizationJob | None:
        """Take a waiting session under a lease; None when it is not waiting any more, or not yet.

        Raises `ProfileInUseException` when its profile runs for another session or is just being claimed,
        `ConcurrentProfileLimitException` when the fleet runs as many as it may: it goes on waiting.
        """
        try:
            return await self._claim(session_id)
        except DatabaseBusyException:
            # It does not wait for the lock: waiting claims could take all connections, and no lease would be renewed.
            profile_id = select(AuthorizationSession.profile_id)
            async with self._database.reading() as db:
                busy = await db.scalar(profile_id.where(AuthorizationSession.session_id == session_id))
            if busy is None:
                return None
            raise ProfileInUseException(busy) from None

    async def _claim(self, session_id: str) -> AuthorizationJob | None:
        is_session = AuthorizationSession.session_id == session_id
        lease = lease_columns(new_lease_token(), owner=self._owner, seconds=self._limits.lease)
        claim = (
            update(AuthorizationSession)
            .where(is_session, *_claimable())
            .values(
                status=SessionStatus.IN_PROGRESS,
                stage=None,
                stage_times={},
                started_at=utc_now(),
                attempts=AuthorizationSession.attempts + 1,
                **lease,
            )
            .returning(AuthorizationSession)
            .execution_options(synchronize_session=False)
        )
        async with self._database.transaction() as db:
            # First the lock: of two sessions of one profile that are claimed at once, the second sees the first.
            profile_id = select(AuthorizationSession.profile_id).where(is_session).scalar_subquery()
            with suppress(ProfileQuarantinedException):  # it is claimed, and ends with that
                await self._gologin.check_free(db, profile_id)
            row = await db.scalar(claim)
            if row is None:
                if (busy := await db.scalar(_other_run().where(is_session))) is not None:
                    raise ProfileInUseException(busy)
                return None
            await transitions.begin_attempt(db, row)
        return _job(row)

    async def renew(self, job: AuthorizationJob) -> bool:
        """Keep the claim; False when it is lost."""
        seconds = self._limits.lease
        return await renew_lease(self._database, AuthorizationSession, *_lease_guard(job), seconds=seconds)

    async def find_lost(self, jobs: Sequence[AuthorizationJob]) -> set[str]:
        """Lease tokens of those that are not ours any more: cancelled, timed out or taken over."""
        tokens = {job.lease_token for job in jobs}
        async with self._database.reading() as db:
            current = select(AuthorizationSession.lease_token).where(
                AuthorizationSession.session_id.in_([job.session_id for job in jobs]),
                AuthorizationSession.lease_token.in_(tokens),
            )
            return tokens - set(await db.scalars(current))

    async def note_stages(self, group: Sequence[StageProgress]) -> None:
        """Note the progress of some attempts; nothing is written of one that has lost its lease."""
        async with self._database.transaction(lock_wait=_STAGE_LOCK_WAIT if len(group) > 1 else None) as db:
            await write_progress(db, group)

    async def complete(
        self,
        job: AuthorizationJob,
        user: ProviderUser,
        tokens: TokenSet,
        *,
        progress: StageProgress | None = None,
    ) -> None:
        """Store the tokens and end the session, in one transaction; tried again for a lease while the database is away.

        Raises `LeaseLostException`: nothing is stored; `DatabaseUnavailableException`: that is not known.
        """
        await retry_while_unavailable(
            lambda: self._complete(job, user, tokens, progress), seconds=self._limits.lease
        )

    async def note_limits(self, job: AuthorizationJob, user: ProviderUser) -> None:
        """Note the limits of the app and the account, after `complete`. Never raises: the tokens are stored."""
        await self._note_limit(job, user.limit)
        await self._credentials.note_success(job.api_app)

    async def _complete(
        self, job: AuthorizationJob, user: ProviderUser, tokens: TokenSet, progress: StageProgress | None
    ) -> None:
        async with self._database.transaction() as db:
            completed = (await db.execute(_completion(job, tokens, progress))).one_or_none()
            if completed is None:
                if await _was_completed(db, job):
                    return  # the database went away with the answer to our commit
                raise LeaseLostException
            row, replaced, failures = completed
            if progress is not None:
                record_news(db, progress)
            await self._credentials.store(
                db,
                account_id=job.account_id,
                api_app=job.api_app,
                provider_user_id=user.id,
                tokens=tokens,
                session_id=job.session_id,
                is_recovery=replaced is CredentialStatus.REAUTHORIZATION_REQUIRED,
            )
            await transitions.end_attempt(db, row)
            if failures:
                await self._apps.reset_failures(db, job.api_app)
            event = EventType.AUTHORIZATION_COMPLETED
            recorder.record_for(db, event, row, missing_scopes=row.missing_scopes)
            self._tell_end(db, row)

    async def fail(
        self,
        job: AuthorizationJob,
        error: AppException,
        *,
        evidence: PageEvidence | None = None,
        progress: StageProgress | None = None,
    ) -> float | None:
        """End the attempt with what went wrong: the session is tried again, after the seconds returned, or ends.

        `evidence` is stored in the same transaction. Tried again for a lease while the database is away.

        Raises `LeaseLostException`, `DatabaseUnavailableException`.
        """
        again_in = await retry_while_unavailable(
            lambda: self._fail(job, error, evidence, progress), seconds=self._limits.lease
        )
        await self._note_limit(job, error.limit if isinstance(error, TwitterAPIException) else None)
        return again_in

    async def _fail(
        self,
        job: AuthorizationJob,
        error: AppException,
        evidence: PageEvidence | None,
        progress: StageProgress | None,
    ) -> float | None:
        async with self._database.transaction() as db:
            row = await _locked(db, job)
            note_progress(db, row, progress)
            row.error_code, row.error_message = error.error_code, error.message
            await transitions.end_attempt(db, row, code=error.error_code, message=error.message)
            if evidence is not None:
                evidence_service.record(db, row, evidence)
            if error.kind is FailureKind.APP:
                await self._apps.count_failure(db, job.api_app, error)
            if error.kind is FailureKind.TRANSIENT and row.attempts < row.attempts_allowed:
                wait = transitions.wait_before_retry(row.attempts, first=self._limits.retry_wait)
                wait = max(wait, error.retry_after or 0.0)
                self._put_back(db, row, wait=wait, reason=error.error_code)
                return wait
            data = {"error_code": error.error_code, "stage": row.stage}
            self._end(db, row, transitions.status_after(error), **data)
        return None

    async def _note_limit(self, job: AuthorizationJob, limit: CallLimit | None) -> None:
        """Begin no further consent before the provider answers again. It may fail alone: the session has its end."""
        if limit is None:
            return
        try:
            async with self._database.transaction() as db:
                await self._apps.note_limit(db, job.account_id, job.api_app, limit)
        except Exception as error:
            log.error("app.not_noted", api_app=job.api_app, exc_info=error)

    async def release(
        self, job: AuthorizationJob, *, reason: str, progress: StageProgress | None = None
    ) -> None:
        """Give the claim back: the session waits again, as when this process had never taken it."""
        async with self._database.transaction() as db:
            row = await _locked(db, job)
            note_progress(db, row, progress)
            await transitions.forget_attempt(db, row)
            self._put_back(db, row, reason=reason)

    async def recover_lost(self) -> int:
        """Put back sessions whose runner has gone (their lease ran out); end those tried too often."""
        is_lost = (
            AuthorizationSession.status == SessionStatus.IN_PROGRESS,
            AuthorizationSession.lease_expires_at < database_time(),
        )
        return await self._change_all(is_lost, self._recover, step="recover_sessions")

    async def end_expired(self) -> int:
        """Waiting sessions past their `expires_at` become ``timeout``."""
        expired = (
            AuthorizationSession.status == SessionStatus.PENDING,
            AuthorizationSession.expires_at <= database_time(),
        )
        return await self._time_out(expired, "Session expired before a profile slot was free")

    async def end_overdue(self) -> int:
        """Sessions running for too long, and waiting ones past their `expires_at`, become ``timeout``."""
        hours = self._limits.max_running / 3600
        running = (
            AuthorizationSession.status == SessionStatus.IN_PROGRESS,
            AuthorizationSession.started_at < database_time(plus=-self._limits.max_running),
        )
        ended = await self._time_out(running, f"Session timed out after {hours:g} hours")
        return ended + await self.end_expired()

    async def _recover(self, db: AsyncSession, row: AuthorizationSession) -> None:
        interrupted = "The process that ran it has ended, or stood still for too long"
        await transitions.end_attempt(db, row, code=ErrorCode.INTERRUPTED, message=interrupted)
        if row.attempts < row.attempts_allowed:
            self._put_back(db, row, reason="lease_expired")
            return
        row.error_code = ErrorCode.ATTEMPTS_EXHAUSTED
        row.error_message = f"The authorization was interrupted {row.attempts} times and is not tried again"
        self._end(db, row, SessionStatus.FAILED, error_code=row.error_code)

    async def _time_out(self, condition: Sequence[ColumnElement[bool]], message: str) -> int:
        code = AuthorizationTimeoutException.error_code

        async def end(db: AsyncSession, row: AuthorizationSession) -> None:
            row.error_code, row.error_message = code, message
            await transitions.end_attempt(db, row, code=code, message=message)
            self._end(db, row, SessionStatus.TIMEOUT, error_code=code)

        return await self._change_all(condition, end, step="end_sessions")

    async def _change_all(
        self,
        condition: Sequence[ColumnElement[bool]],
        change: Callable[[AsyncSession, AuthorizationSession], Awaitable[None]],
        *,
        step: str,
    ) -> int:
        """Change the sessions for which `condition` holds; those that fail are left as they are. Returns how many.

        In batches: a day's backlog in one transaction would keep everybody else from writing.
        """

        async def change_some(ids: Sequence[int]) -> int:
            query = select(AuthorizationSession).where(AuthorizationSession.id.in_(ids), *condition)
            async with self._database.transaction() as db:
                rows = (await db.scalars(query.with_for_update(skip_locked=True))).all()
                for row in rows:
                    await change(db, row)
            return len(rows)

        changed, failed = 0, list[int]()
        while True:
            remaining = select(AuthorizationSession.id).where(
                *condition, AuthorizationSession.id.not_in(failed)
            )
            async with self._database.reading() as db:
                ids = (await db.scalars(remaining.limit(_PAGE_SIZE))).all()
            outcome = await isolate_rows(ids, change_some, step=step)
            changed += outcome.count
            failed += outcome.failed
            # Without any progress, other processes hold all of these rows, and see to them.
            if len(ids) < _PAGE_SIZE or not (outcome.count or outcome.failed) or len(failed) >= _PAGE_SIZE:
                return changed

    def _put_back(
        self, db: AsyncSession, row: AuthorizationSession, *, reason: str, wait: float = 0.0
    ) -> None:
        if wait:
            row.not_before = database_time(plus=bounded_wait(wait))
        transitions.move(
            db,
            row,
            SessionStatus.PENDING,
            event=EventType.AUTHORIZATION_RELEASED,
            reason=reason,
            next_attempt_in=round(wait, 1),
        )

    def _end(self, db: AsyncSession, row: AuthorizationSession, status: SessionStatus, **data: Any) -> None:
        transitions.move(db, row, status, **data)
        self._tell_end(db, row)

    def _tell_end(self, db: AsyncSession, row: AuthorizationSession) -> None:
        after_commit(db, lambda: self._waiters.tell(row.session_id))
        self._on_session_ended(db, row)


def _next_due(limit: int, *, awaits_person: bool) -> Select[AuthorizationSession]:
    """Waiting sessions that may start by the next look but one; those for a person apart, as few of them start."""
    ready_by = database_time(plus=_DELIVERED_AHEAD)
    return (
        select(AuthorizationSession)
        .where(
            AuthorizationSession.status == SessionStatus.PENDING,
            AuthorizationSession.awaits_person == awaits_person,
            AuthorizationSession.expires_at > database_time(),
            AuthorizationSession.not_before.is_(None) | (AuthorizationSession.not_before <= ready_by),
            ~AuthorizationSession.is_held,
            _may_start(),
        )
        .order_by(AuthorizationSession.queue_rank, AuthorizationSession.id)
        .limit(limit)
    )


def _may_start() -> ColumnElement[bool]:
    """Nothing of a paused app is begun, and no consent that would be thrown away, as who-am-I cannot be asked."""
    pause = select(AppState.api_app).where(
        AppState.api_app == AuthorizationSession.api_app, AppState.paused_at.is_not(None)
    )
    has_limit = is_limited(AuthorizationSession.account_id, AuthorizationSession.api_app)
    return ~pause.exists() & ~has_limit


def _lease_guard(job: AuthorizationJob) -> tuple[Any, ...]:
    """The guard of every result: the row, while the lease is still ours."""
    return (
        AuthorizationSession.session_id == job.session_id,
        AuthorizationSession.lease_token == job.lease_token,
    )


async def _locked(db: AsyncSession, job: AuthorizationJob) -> AuthorizationSession:
    row: AuthorizationSession | None = await db.scalar(
        select(AuthorizationSession).where(*_lease_guard(job)).with_for_update()
    )
    if row is None:
        raise LeaseLostException
    return row


async def _was_completed(db: AsyncSession, job: AuthorizationJob) -> bool:
    """Return whether this very attempt completed the session: no later one has its number."""
    row_id = await db.scalar(
        select(AuthorizationSession.id).where(
            AuthorizationSession.session_id == job.session_id,
            AuthorizationSession.status == SessionStatus.COMPLETED,
            AuthorizationSession.attempts == job.attempt,
        )
    )
    return row_id is not None


def _completion(job: AuthorizationJob, tokens: TokenSet, progress: StageProgress | None) -> Any:
    """Build the statement that ends the session under its lease.

    It returns the row, the status of the account's credential as it was, and the app's failures in a row.
    """
    now = utc_now()
    times = {} if progress is None else dict(progress.times)
    times[SessionStage.TOKENS_STORED] = round((now - job.started_at).total_seconds(), 3)
    is_credential = (Credential.account_id == job.account_id) & (Credential.api_app == job.api_app)
    failures = select(AppState.failures_in_a_row).where(AppState.api_app == job.api_app)
    return (
        update(AuthorizationSession)
        .where(*_lease_guard(job))
        .values(
            status=SessionStatus.COMPLETED,
            stage=SessionStage.TOKENS_STORED,
            stage_times=times,
            missing_scopes=sorted(set(job.scopes) - set(tokens.scopes)),
            scopes=list(tokens.scopes),
            error_code=None,
            error_message=None,
            completed_at=now,
            is_held=False,
            **NO_LEASE,
        )
        .returning(
            AuthorizationSession,
            select(Credential.status).where(is_credential).scalar_subquery(),
            failures.scalar_subquery(),
        )
        .execution_options(synchronize_session=False)
    )


@cache
def _claimable() -> tuple[ColumnElement[bool], ...]:
    """Conditions of a session that may be claimed now. Built once: that takes as long as to run them."""
    return (
        AuthorizationSession.status == SessionStatus.PENDING,
        AuthorizationSession.expires_at > database_time(),
        AuthorizationSession.not_before.is_(None) | (AuthorizationSession.not_before <= database_time()),
        ~AuthorizationSession.is_held,
        _may_start(),
        ~_other_run().exists(),
    )


@cache
def _other_run() -> Select[str]:
    """Query of the profile of a session, when another session of it runs."""
    other = aliased(AuthorizationSession)
    return (
        select(other.profile_id)
        .where(
            other.session_id != AuthorizationSession.session_id,
            other.profile_id == AuthorizationSession.profile_id,
            other.status == SessionStatus.IN_PROGRESS,
            other.lease_expires_at > database_time(),
        )
        .limit(1)
    )


def _job(row: AuthorizationSession) -> AuthorizationJob:
    assert row.lease_token is not None
    assert row.started_at is not None
    return AuthorizationJob(
        session_id=row.session_id,
        profile_id=row.profile_id,
        account_id=row.account_id,
        api_app=row.api_app,
        request_id=row.request_id,
        lease_token=row.lease_token,
        timeout_seconds=row.timeout_seconds,
        stage_timeouts=row.stage_timeouts,
        attempt=row.attempts,
        consent=row.consent,
        awaits_person=row.awaits_person,
        scopes=tuple(row.scopes),
        started_at=row.started_at,
    )
