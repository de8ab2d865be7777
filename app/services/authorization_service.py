"""The life of an authorization session: asked for, claimed under a lease, brought to one true end."""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.clients.oauth_provider import ProviderUser
from app.database import Database, after_commit
from app.models import AuthorizationSession, Profile, SessionStage, SessionStatus, utc_now
from app.services import event_service
from app.services.credential_service import CredentialService
from app.services.gologin_service import GoLoginService
from app.services.interfaces import AuthorizationJob, OAuthServiceProtocol, TokenSet
from app.services.job_queue import JobQueue
from app.services.key_service import Caller
from app.services.leases import lease_expiry, new_lease_token
from app.utils.exceptions import (
    AppException,
    AuthorizationTimeoutException,
    LeaseLostException,
    NeedsAttentionException,
    ProfileInUseException,
    ProfileQuarantinedException,
    SessionNotFoundException,
)
from app.utils.request_id import accept_request_id, current_request_id
from app.utils.tasks import happens_within

_DELIVERY_WINDOW: Final = 1000
"""Waiting sessions put into the queue at once: far more than the slots take until the next delivery."""
_BATCH: Final = 200
_OTHER_PROCESS_POLL: Final = 1.0
"""Seconds between two looks at a session that another process may end; one that ends here is told at once."""


@dataclass(frozen=True)
class SessionView:
    """A session as a caller sees it."""

    row: AuthorizationSession
    queue_position: int | None
    """1 is next; None unless the session waits."""


@dataclass(frozen=True)
class SessionLimits:
    """Seconds."""

    lifetime: float
    """How long a session may wait for its start."""
    max_running: float
    lease: float
    max_attempts: int
    """Starts of one session over crashes and restarts."""


class AuthorizationService:
    """`owner`: this process's name in the leases."""

    def __init__(
        self,
        *,
        database: Database,
        gologin: GoLoginService,
        oauth: OAuthServiceProtocol,
        credentials: CredentialService,
        queue: JobQueue,
        limits: SessionLimits,
        owner: str,
    ) -> None:
        self._database = database
        self._gologin = gologin
        self._oauth = oauth
        self._credentials = credentials
        self._queue = queue
        self._limits = limits
        self._owner = owner
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._closing = False

    async def request(
        self, session: AsyncSession, *, account_id: str, api_app: str, caller: Caller
    ) -> AuthorizationSession:
        """Make a session in the caller's transaction; its work begins once that has committed.

        Raises `UnknownApiAppException`, `ProfileNotFoundException`.
        """
        app = self._oauth.app(api_app)
        profile = await self._gologin.get_profile_for_account(session, account_id, api_app)
        row = AuthorizationSession(
            session_id=str(uuid.uuid4()),
            profile_id=profile.profile_id,
            twitter_username=account_id,
            api_app=api_app,
            scopes=list(app.scopes),
            request_id=accept_request_id(current_request_id()),
            requested_by=caller.name,
            expires_at=utc_now() + timedelta(seconds=self._limits.lifetime),
        )
        session.add(row)
        await session.flush()
        event_service.record_for(session, "authorization.requested", row, actor=caller.name)
        after_commit(session, lambda: self._queue.submit(row.session_id, row.priority))
        return row

    async def view(self, session: AsyncSession, session_id: str) -> SessionView:
        """Raises `SessionNotFoundException`."""
        row = await session.scalar(_by_id(session_id))
        if row is None:
            raise SessionNotFoundException(session_id)
        return SessionView(row, await _queue_position(session, row))

    async def wait_for_end(self, session_id: str, *, seconds: float) -> SessionView:
        """The session when it has ended, or as it is after `seconds` or when the service stops.

        Raises `SessionNotFoundException`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        ended = asyncio.Event()
        self._waiters.setdefault(session_id, set()).add(ended)
        try:
            while True:
                async with self._database.reading() as session:
                    view = await self.view(session, session_id)
                left = deadline - loop.time()
                if view.row.status.is_final or left <= 0 or self._closing:
                    return view
                await happens_within(ended, min(left, _OTHER_PROCESS_POLL))
        finally:
            self._forget_waiter(session_id, ended)

    def release_waiters(self) -> None:
        """The service stops: whoever waits is answered now."""
        self._closing = True
        for session_id in list(self._waiters):
            self._tell(session_id)

    async def deliver_waiting(self) -> int:
        """Put the next waiting sessions into the queue; those that are in it already are not doubled."""
        query = (
            select(AuthorizationSession.session_id, AuthorizationSession.priority)
            .where(
                AuthorizationSession.status == SessionStatus.PENDING,
                AuthorizationSession.expires_at > utc_now(),
            )
            .order_by(AuthorizationSession.priority.desc(), AuthorizationSession.id)
            .limit(_DELIVERY_WINDOW)
        )
        async with self._database.reading() as session:
            waiting = [(session_id, priority) for session_id, priority in await session.execute(query)]
        await self._queue.submit_all(waiting)
        return len(waiting)

    async def claim(self, session_id: str) -> AuthorizationJob | None:
        """Take a waiting session under a lease; None when it is no longer waiting.

        Raises `ProfileInUseException` when its profile runs for another session, `ConcurrentProfileLimitException` when
        the fleet runs as many as it may: it goes on waiting.
        """
        token, now = new_lease_token(), utc_now()
        statement = (
            update(AuthorizationSession)
            .where(AuthorizationSession.session_id == session_id)
            .where(
                AuthorizationSession.status == SessionStatus.PENDING, AuthorizationSession.expires_at > now
            )
            .values(
                status=SessionStatus.IN_PROGRESS,
                stage=None,
                stage_times={},
                started_at=now,
                attempts=AuthorizationSession.attempts + 1,
                lease_token=token,
                lease_owner=self._owner,
                lease_expires_at=lease_expiry(self._limits.lease),
            )
            .returning(AuthorizationSession)
        )
        async with self._database.transaction() as session:
            await self._refuse_busy_profile(session, session_id)
            row = (await session.scalars(statement)).one_or_none()
            if row is None:
                return None
            event_service.record_for(session, "authorization.started", row, attempt=row.attempts)
        return _job(row, token)

    async def renew(self, job: AuthorizationJob) -> bool:
        """Keep the claim; False when it is lost."""
        async with self._database.transaction() as session:
            result = await session.execute(
                update(AuthorizationSession)
                .where(*_held(job))
                .values(lease_expires_at=lease_expiry(self._limits.lease))
            )
        return bool(result.rowcount)  # type: ignore[attr-defined]

    async def reached(self, job: AuthorizationJob, stage: SessionStage, at: datetime) -> None:
        """Note a stage. Raises `LeaseLostException`."""
        async with self._database.transaction() as session:
            row = await _locked(session, job)
            _note_stage(row, stage, at)
            event_service.record_for(session, "authorization.stage", row, stage=stage)

    async def complete(self, job: AuthorizationJob, user: ProviderUser, tokens: TokenSet) -> None:
        """Store the tokens and end the session, in one transaction. Raises `LeaseLostException`: nothing is stored."""
        async with self._database.transaction() as session:
            row = await _locked(session, job)
            await self._credentials.store(
                session,
                account_id=job.account_id,
                api_app=job.api_app,
                provider_user_id=user.id,
                tokens=tokens,
                session_id=job.session_id,
            )
            _note_stage(row, SessionStage.TOKENS_STORED, utc_now())
            row.missing_scopes = sorted(set(row.scopes) - set(tokens.scopes))
            row.scopes = list(tokens.scopes)
            self._end(session, row, SessionStatus.COMPLETED, missing_scopes=row.missing_scopes)

    async def fail(self, job: AuthorizationJob, error: AppException) -> SessionStatus:
        """End the session with what went wrong. Raises `LeaseLostException`."""
        async with self._database.transaction() as session:
            row = await _locked(session, job)
            row.error_code, row.error_message = error.error_code, error.message
            status = _status_after(error)
            self._end(session, row, status, error_code=error.error_code, stage=row.stage)
        return status

    async def release(self, job: AuthorizationJob, *, reason: str) -> None:
        """Give the claim back: the session waits again, as when this process had never taken it."""
        async with self._database.transaction() as session:
            row = await _locked(session, job)
            row.attempts -= 1
            _back_to_waiting(session, row, reason=reason)

    async def recover_lost(self) -> int:
        """Put back sessions whose runner has gone (their lease ran out); end those tried too often."""
        query = select(AuthorizationSession).where(
            AuthorizationSession.status == SessionStatus.IN_PROGRESS,
            AuthorizationSession.lease_expires_at < utc_now(),
        )
        async with self._database.transaction() as session:
            rows = (await session.scalars(query.with_for_update(skip_locked=True))).all()
            for row in rows:
                if row.attempts < self._limits.max_attempts:
                    _back_to_waiting(session, row, reason="lease_expired")
                    continue
                row.error_code = "ATTEMPTS_EXHAUSTED"
                row.error_message = (
                    f"The authorization was interrupted {row.attempts} times and is not tried again"
                )
                self._end(session, row, SessionStatus.FAILED, error_code=row.error_code)
        return len(rows)

    async def end_overdue(self) -> int:
        """Sessions running for too long, and waiting ones past their `expires_at`, become ``timeout``."""
        hours = self._limits.max_running / 3600
        running = (
            AuthorizationSession.status == SessionStatus.IN_PROGRESS,
            AuthorizationSession.started_at < utc_now() - timedelta(seconds=self._limits.max_running),
        )
        waiting = (
            AuthorizationSession.status == SessionStatus.PENDING,
            AuthorizationSession.expires_at <= utc_now(),
        )
        ended = await self._time_out(running, f"Session timed out after {hours:g} hours")
        return ended + await self._time_out(waiting, "Session expired before a profile slot was free")

    async def _refuse_busy_profile(self, session: AsyncSession, session_id: str) -> None:
        """Raises while the profile runs, or is about to, for another session, or the fleet runs all that it may.

        Holds the profile's row: of two sessions of one profile that are claimed at once, the second sees the first.
        """
        mine = AuthorizationSession.session_id == session_id
        by_profile = AuthorizationSession.profile_id == Profile.profile_id
        query = (
            select(Profile.profile_id)
            .join(AuthorizationSession, by_profile)
            .where(mine)
            .with_for_update(of=Profile)
        )
        profile_id = await session.scalar(query)
        if profile_id is None:
            return
        with suppress(ProfileQuarantinedException):  # it is claimed, and ends with that
            await self._gologin.check_free(session, profile_id)
        claimed = select(AuthorizationSession.id).where(
            ~mine,
            AuthorizationSession.profile_id == profile_id,
            AuthorizationSession.status == SessionStatus.IN_PROGRESS,
            AuthorizationSession.lease_expires_at > utc_now(),
        )
        if await session.scalar(claimed.limit(1)) is not None:
            raise ProfileInUseException(profile_id)

    async def _time_out(self, condition: Sequence[Any], message: str) -> int:
        """In batches: a day's backlog in one transaction would keep everybody else from writing."""
        query = select(AuthorizationSession).where(*condition).limit(_BATCH)
        ended = 0
        while True:
            async with self._database.transaction() as session:
                rows = (await session.scalars(query.with_for_update(skip_locked=True))).all()
                for row in rows:
                    row.error_code, row.error_message = AuthorizationTimeoutException.error_code, message
                    self._end(session, row, SessionStatus.TIMEOUT, error_code=row.error_code)
            ended += len(rows)
            if len(rows) < _BATCH:
                return ended

    def _end(
        self, session: AsyncSession, row: AuthorizationSession, status: SessionStatus, **data: Any
    ) -> None:
        row.status, row.completed_at = status, utc_now()
        row.lease_token = row.lease_owner = row.lease_expires_at = None
        event_service.record_for(session, f"authorization.{status}", row, **data)
        after_commit(session, lambda: self._tell(row.session_id))

    def _tell(self, session_id: str) -> None:
        for ended in self._waiters.get(session_id, ()):
            ended.set()

    def _forget_waiter(self, session_id: str, ended: asyncio.Event) -> None:
        waiting = self._waiters.get(session_id, set())
        waiting.discard(ended)
        if not waiting:
            self._waiters.pop(session_id, None)


def _by_id(session_id: str) -> Any:
    return select(AuthorizationSession).where(AuthorizationSession.session_id == session_id)


def _held(job: AuthorizationJob) -> tuple[Any, ...]:
    """The guard of every result: the row, while the lease is still ours."""
    return (
        AuthorizationSession.session_id == job.session_id,
        AuthorizationSession.lease_token == job.lease_token,
    )


async def _locked(session: AsyncSession, job: AuthorizationJob) -> AuthorizationSession:
    row: AuthorizationSession | None = await session.scalar(
        select(AuthorizationSession).where(*_held(job)).with_for_update()
    )
    if row is None:
        raise LeaseLostException
    return row


def _note_stage(row: AuthorizationSession, stage: SessionStage, at: datetime) -> None:
    assert row.started_at is not None
    row.stage = stage
    row.stage_times = {**row.stage_times, stage: round((at - row.started_at).total_seconds(), 3)}


def _back_to_waiting(session: AsyncSession, row: AuthorizationSession, *, reason: str) -> None:
    row.status, row.stage, row.started_at = SessionStatus.PENDING, None, None
    row.lease_token = row.lease_owner = row.lease_expires_at = None
    event_service.record_for(session, "authorization.released", row, reason=reason)


def _status_after(error: AppException) -> SessionStatus:
    if isinstance(error, AuthorizationTimeoutException):
        return SessionStatus.TIMEOUT
    if isinstance(error, NeedsAttentionException):
        return SessionStatus.NEEDS_ATTENTION
    return SessionStatus.FAILED


def _job(row: AuthorizationSession, token: str) -> AuthorizationJob:
    return AuthorizationJob(
        session_id=row.session_id,
        profile_id=row.profile_id,
        account_id=row.twitter_username,
        api_app=row.api_app,
        request_id=row.request_id,
        lease_token=token,
    )


async def _queue_position(session: AsyncSession, row: AuthorizationSession) -> int | None:
    if row.status is not SessionStatus.PENDING:
        return None
    ahead = select(func.count()).where(
        AuthorizationSession.status == SessionStatus.PENDING,
        (AuthorizationSession.priority > row.priority)
        | ((AuthorizationSession.priority == row.priority) & (AuthorizationSession.id < row.id)),
    )
    return 1 + (await session.scalar(ahead) or 0)
