"""The caller's side of an authorization session: asked for once, looked at, waited for, cancelled, tried again."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, after_commit
from app.models import (
    OPEN_STATUSES,
    AuthorizationAttempt,
    AuthorizationSession,
    Batch,
    BatchStatus,
    ConsentMode,
    EventType,
    SessionStatus,
    utc_now,
)
from app.services.authorizations import transitions
from app.services.authorizations.requests import RequestLimits, SessionRequests, SubmitResult
from app.services.authorizations.transitions import SessionHook
from app.services.authorizations.waiters import SessionWaiters
from app.services.authorizations.waiting import WaitingCount, queue_position
from app.services.interfaces import OAuthServiceProtocol
from app.services.oauth.app_state import AppStates
from app.services.profiles.directory import ProfileDirectory
from app.services.queue.jobs import JobQueue, QueuedSession
from app.services.shared.access import EVERYTHING, AccessScope
from app.utils.exceptions import (
    AttentionNotNeededException,
    BatchEndingException,
    ErrorCode,
    InvalidRequestException,
    SessionEndedException,
    SessionNotEndedException,
    SessionNotFoundException,
)
from app.utils.tasks import wait_for_event

_OTHER_PROCESS_POLL: Final = 1.0
"""Seconds between two looks at a session that another process may end; one that ends here is told at once."""


@dataclass(frozen=True)
class SessionView:
    """A session as a caller sees it."""

    row: AuthorizationSession
    attempts: Sequence[AuthorizationAttempt]
    queue_position: int | None
    """1 is next; None unless the session waits; over `MAX_EXACT_POSITION`: that, or later."""


class AuthorizationService(SessionRequests):
    """The caller's side of sessions. Work begins once the caller's transaction has committed."""

    def __init__(
        self,
        *,
        database: Database,
        directory: ProfileDirectory,
        oauth: OAuthServiceProtocol,
        apps: AppStates,
        on_session_ended: SessionHook,
        queue: JobQueue,
        waiters: SessionWaiters,
        waiting: WaitingCount,
        limits: RequestLimits,
        consent: ConsentMode,
    ) -> None:
        super().__init__(
            database=database,
            directory=directory,
            oauth=oauth,
            apps=apps,
            queue=queue,
            waiting=waiting,
            limits=limits,
            consent=consent,
        )
        self._database = database
        self._on_session_ended = on_session_ended
        self._waiters = waiters

    async def view(
        self, db: AsyncSession, session_id: str, *, access: AccessScope = EVERYTHING
    ) -> SessionView:
        """Raises `SessionNotFoundException`, also for a session that `access` does not cover; so do those below."""
        row = await _get_session(db, session_id, access)
        attempts = await db.scalars(
            select(AuthorizationAttempt)
            .where(AuthorizationAttempt.session_id == session_id)
            .order_by(AuthorizationAttempt.number)
        )
        return SessionView(row, attempts.all(), await queue_position(db, row))

    async def view_result(self, result: SubmitResult) -> SessionView:
        """View what `submit` has made or found; a new row is not read back."""
        if result.new_row is not None:
            return SessionView(result.new_row, (), result.queue_position)
        async with self._database.reading() as db:
            return await self.view(db, result.session_id)

    async def wait_for_end(
        self, session_id: str, *, seconds: float, access: AccessScope = EVERYTHING
    ) -> SessionView:
        """The session when it has ended, or as it is after `seconds` or when the service stops.

        Raises `SessionNotFoundException`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        with self._waiters.waiting(session_id) as ended:
            while True:
                async with self._database.reading() as db:
                    view = await self.view(db, session_id, access=access)
                remaining = deadline - loop.time()
                if view.row.status.is_final or remaining <= 0 or self._waiters.is_closing:
                    return view
                await wait_for_event(ended, min(remaining, _OTHER_PROCESS_POLL))

    async def cancel(
        self, db: AsyncSession, session_id: str, *, actor: str, access: AccessScope = EVERYTHING
    ) -> None:
        """End the session now; whoever runs it finds its lease gone within a second and stops the browser.

        Raises `SessionNotFoundException`, `SessionEndedException`.
        """
        row = await _get_session(db, session_id, access, for_update=True)
        if row.status.is_final:
            raise SessionEndedException(session_id, row.status)
        await transitions.end_attempt(db, row, code=ErrorCode.CANCELLED, message="Cancelled by a caller")
        transitions.move(db, row, SessionStatus.CANCELLED, actor=actor)
        after_commit(db, lambda: self._waiters.tell(session_id))
        self._on_session_ended(db, row)

    async def retry(
        self, db: AsyncSession, session_id: str, *, actor: str, access: AccessScope = EVERYTHING
    ) -> None:
        """Let a session that ended without tokens wait for its start again, with as many attempts as a new one.

        Raises `SessionNotFoundException`, `SessionNotEndedException`, `InvalidRequestException`.
        """
        row = await _get_session(db, session_id, access, for_update=True)
        if SessionStatus.PENDING not in transitions.TRANSITIONS[row.status] or not row.status.is_final:
            raise SessionNotEndedException(session_id, row.status)
        await self._start_again(db, row, actor=actor)

    async def resume(
        self, db: AsyncSession, session_id: str, *, actor: str, access: AccessScope = EVERYTHING
    ) -> None:
        """A person is there now: a session that needs attention waits for its start again, and then for the person.

        Raises `SessionNotFoundException`, `AttentionNotNeededException`, `InvalidRequestException`,
        `AppPausedException`.
        """
        row = await _get_session(db, session_id, access, for_update=True)
        if row.status is not SessionStatus.NEEDS_ATTENTION:
            raise AttentionNotNeededException(session_id, row.status)
        await self._start_again(db, row, actor=actor, awaits_person=True)

    def release_waiters(self) -> None:
        """The service stops: whoever waits is answered now."""
        self._waiters.release_all()

    async def _start_again(
        self, db: AsyncSession, row: AuthorizationSession, *, actor: str, awaits_person: bool = False
    ) -> None:
        if (open_one := await _open_session(db, row)) is not None and not row.is_forced:
            raise InvalidRequestException(f"Another session of the account is open: {open_one}")
        await self._apps.ensure_not_paused(db, row.api_app)
        ending = select(Batch.status).where(
            Batch.batch_id == row.batch_id, Batch.completed_at.is_(None), Batch.status != BatchStatus.RUNNING
        )
        if row.batch_id is not None and (status := await db.scalar(ending)) is not None:
            raise BatchEndingException(row.batch_id, status)
        self.put_back(db, row, actor=actor, awaits_person=awaits_person)
        try:
            await db.flush()
        except IntegrityError:  # it was made since we looked
            raise InvalidRequestException(
                "Another session of the account was opened just now; look at that one"
            ) from None
        await self._queue.submit(db, [QueuedSession.from_row(row)])

    def put_back(
        self, db: AsyncSession, row: AuthorizationSession, *, actor: str, awaits_person: bool = False
    ) -> None:
        """Let an ended session, whose row is locked, wait as if it were new, or for a person who is there now."""
        event = EventType.AUTHORIZATION_RESUMED if awaits_person else EventType.AUTHORIZATION_RETRY_REQUESTED
        row.awaits_person = awaits_person or row.consent is ConsentMode.ATTENDED
        row.attempts_allowed = row.attempts + self._limits.max_attempts
        row.not_before = None
        row.expires_at = utc_now() + timedelta(seconds=self._limits.lifetime)
        transitions.move(db, row, SessionStatus.PENDING, event=event, actor=actor)


async def _get_session(
    db: AsyncSession, session_id: str, access: AccessScope, *, for_update: bool = False
) -> AuthorizationSession:
    is_covered = access.condition(AuthorizationSession.account_id, AuthorizationSession.api_app)
    query = select(AuthorizationSession).where(AuthorizationSession.session_id == session_id, is_covered)
    row: AuthorizationSession | None = await db.scalar(query.with_for_update() if for_update else query)
    if row is None:
        raise SessionNotFoundException(session_id)
    return row


async def _open_session(db: AsyncSession, row: AuthorizationSession) -> str | None:
    """Id of the open, not forced session of the row's account and app."""
    session_id: str | None = await db.scalar(
        select(AuthorizationSession.session_id).where(
            AuthorizationSession.account_id == row.account_id,
            AuthorizationSession.api_app == row.api_app,
            AuthorizationSession.status.in_(OPEN_STATUSES),
            ~AuthorizationSession.is_forced,
        )
    )
    return session_id
