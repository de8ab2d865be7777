"""The caller's side of an authorization session: asked for once, looked at, waited for, cancelled, tried again."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import OAuthApp
from app.database import Database, after_commit, insert_or_update
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
from app.models.sessions import OPEN_AND_NOT_FORCED
from app.services.authorizations import idempotency, transitions
from app.services.authorizations.transitions import SessionHook
from app.services.authorizations.waiters import SessionWaiters
from app.services.authorizations.waiting import WaitingCount, queue_position
from app.services.events import recorder
from app.services.gologin_service import GoLoginService
from app.services.interfaces import OAuthServiceProtocol
from app.services.keys.service import Caller
from app.services.oauth.app_state import AppStates
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
from app.utils.request_id import accept_request_id, current_request_id
from app.utils.tasks import wait_for_event

_OTHER_PROCESS_POLL: Final = 1.0
"""Seconds between two looks at a session that another process may end; one that ends here is told at once."""


@dataclass(frozen=True)
class AuthorizationCommand:
    """A caller's request for an authorization."""

    account_id: str
    api_app: str
    priority: int = 5
    """0 to 9; the higher, the sooner."""
    not_before: datetime | None = None
    expires_at: datetime | None = None
    """A session that has not started by then ends as ``timeout``."""
    timeout_seconds: float | None = None
    """Deadline of one attempt; the settings' own is the longest."""
    force: bool = False
    """True to make a session although one of the account is open."""
    consent: ConsentMode | None = None
    """Consent mode; None: that of the app or the settings."""
    stage_timeouts: Mapping[str, float] = field(default_factory=dict)
    """Seconds, by the names of `BrowserTimeouts` and ``profile_start``; the settings' own are the longest."""


@dataclass(frozen=True)
class SubmitResult:
    session_id: str
    new_row: AuthorizationSession | None = None
    """Row of a new session; None when an earlier request made it."""

    @property
    def is_new(self) -> bool:
        return self.new_row is not None


@dataclass(frozen=True)
class SessionView:
    """A session as a caller sees it."""

    row: AuthorizationSession
    attempts: Sequence[AuthorizationAttempt]
    queue_position: int | None
    """1 is next; None unless the session waits; over `MAX_EXACT_POSITION`: that, or later."""


@dataclass(frozen=True)
class RequestLimits:
    lifetime: float
    """Seconds a session may wait for its start, unless it says otherwise."""
    max_attempts: int


class AuthorizationService:
    """The caller's side of sessions. Work begins once the caller's transaction has committed.

    `consent`: who gives it where neither the request nor its app says.
    """

    def __init__(
        self,
        *,
        database: Database,
        gologin: GoLoginService,
        oauth: OAuthServiceProtocol,
        apps: AppStates,
        on_session_ended: SessionHook,
        queue: JobQueue,
        waiters: SessionWaiters,
        waiting: WaitingCount,
        limits: RequestLimits,
        consent: ConsentMode,
    ) -> None:
        self._database = database
        self._gologin = gologin
        self._oauth = oauth
        self._apps = apps
        self._on_session_ended = on_session_ended
        self._queue = queue
        self._waiters = waiters
        self.waiting = waiting
        self._limits = limits
        self._consent = consent

    async def request(
        self,
        db: AsyncSession,
        command: AuthorizationCommand,
        *,
        caller: Caller,
        idempotency_key: str | None = None,
    ) -> SubmitResult:
        """Make a session in the caller's transaction, or find the one that this request has made already.

        The same key gives the same session for 24 hours; without one, an open session of the account and app is
        given back unless `force`. Both hold for requests that arrive at once.

        Raises `UnknownApiAppException`, `ProfileNotFoundException` and its kin, `IdempotencyConflictException`,
        `AppPausedException`, `TooManyWaitingException`, `InvalidRequestException`, `OutOfReachException`.
        """
        caller.access.require(command.account_id, command.api_app)
        session_id = str(uuid.uuid4())
        if idempotency_key is not None:
            earlier_id = await idempotency.remember(
                db, caller=caller.name, key=idempotency_key, request=command, new_id=session_id
            )
            if earlier_id is not None:
                return SubmitResult(earlier_id)
        row = await self._new_row(db, command, caller, session_id)
        existing_id = await self._insert(db, row)
        if existing_id is not None:
            if idempotency_key is not None:
                await idempotency.replace_id(db, session_id, existing_id)
            return SubmitResult(existing_id)
        recorder.record_for(db, EventType.AUTHORIZATION_REQUESTED, row, actor=caller.name)
        await self._queue.submit(db, [QueuedSession.from_row(row)])
        return SubmitResult(session_id, row)

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

    async def view_result(self, db: AsyncSession, result: SubmitResult) -> SessionView:
        """View what `request` has made or found, in its transaction: a new row is not read back."""
        if result.new_row is None:
            return await self.view(db, result.session_id)
        return SessionView(result.new_row, (), await queue_position(db, result.new_row))

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

    async def _new_row(
        self, db: AsyncSession, command: AuthorizationCommand, caller: Caller, session_id: str
    ) -> AuthorizationSession:
        app = self._oauth.app(command.api_app)
        if problem := self._oauth.handle_problem(command.api_app, command.account_id):
            raise InvalidRequestException(f"account_id: {problem}")
        profile = await self._gologin.get_profile_for_account(db, command.account_id, command.api_app)
        await self._apps.ensure_not_paused(db, command.api_app)
        await self.waiting.reserve(db)
        return self.row_for(command, app, profile.profile_id, caller, session_id)

    def row_for(
        self, command: AuthorizationCommand, app: OAuthApp, profile_id: str, caller: Caller, session_id: str
    ) -> AuthorizationSession:
        """A session as the order wants it, not inserted yet. Raises `InvalidRequestException`."""
        now = utc_now()
        expires_at = command.expires_at or now + timedelta(seconds=self._limits.lifetime)
        if expires_at <= max(now, command.not_before or now):
            raise InvalidRequestException("expires_at: must be in the future, and after not_before")
        consent = command.consent or (ConsentMode(app.consent) if app.consent else self._consent)
        row = AuthorizationSession(
            session_id=session_id,
            profile_id=profile_id,
            account_id=command.account_id,
            api_app=command.api_app,
            scopes=list(app.scopes),
            missing_scopes=[],
            status=SessionStatus.PENDING,
            stage_times={},
            priority=command.priority,
            not_before=command.not_before,
            timeout_seconds=command.timeout_seconds,
            stage_timeouts=dict(command.stage_timeouts),
            is_forced=command.force,
            consent=consent,
            awaits_person=consent is ConsentMode.ATTENDED,
            attempts=0,
            attempts_allowed=self._limits.max_attempts,
            request_id=accept_request_id(current_request_id()),
            requested_by=caller.name,
            requested_by_kind=caller.kind,
            requested_by_id=caller.key_id,
            created_at=now,
            updated_at=now,
            expires_at=expires_at,
        )
        row.queue_rank = transitions.queue_rank(row)
        return row

    async def _insert(self, db: AsyncSession, row: AuthorizationSession) -> str | None:
        """Insert it, unless a session of the account is open: the id of that one."""
        insert = unless_open(insert_or_update(db, AuthorizationSession)).values(column_values(row))
        if (row_id := await db.scalar(insert.returning(AuthorizationSession.id))) is not None:
            row.id = row_id
            return None
        existing_id = await _open_session(db, row)
        if existing_id is None:  # it has ended since
            return await self._insert(db, row)
        return existing_id


def unless_open(insert: Any) -> Any:
    """Let an INSERT of sessions leave out those whose account has an open one."""
    return insert.on_conflict_do_nothing(
        index_elements=["twitter_username", "api_app"], index_where=text(OPEN_AND_NOT_FORCED)
    )


def column_values(row: AuthorizationSession) -> dict[str, Any]:
    """Return the values that are set, by attribute."""
    names = AuthorizationSession.__mapper__.columns.keys()
    return {name: value for name in names if (value := getattr(row, name)) is not None}


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
