"""Actions on all sessions that a filter matches: counted first, then done for about as many as were counted."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Select, exists, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.database import after_commit
from app.models import OPEN_STATUSES, AuthorizationSession, Batch, BatchStatus, SessionStatus
from app.services.authorizations import queries, transitions
from app.services.authorizations.queries import SessionFilter
from app.services.authorizations.service import AuthorizationService
from app.services.authorizations.transitions import SessionHook
from app.services.authorizations.waiters import SessionWaiters
from app.services.oauth.app_state import AppStates
from app.services.queue.jobs import JobQueue, QueuedSession
from app.services.shared.access import AccessScope
from app.services.shared.paging import PageRequest, Total
from app.utils.exceptions import ErrorCode, InvalidRequestException

MAX_SESSIONS: Final = 1_000
"""Sessions of one action."""
_TOLERANCE: Final = 0.05
"""Share by which the number may have changed since it was counted: sessions change by the second."""


class SessionAction(StrEnum):
    RETRY = "retry"
    RESUME = "resume"
    CANCEL = "cancel"


_STATUSES: Final[Mapping[SessionAction, Sequence[SessionStatus]]] = {
    SessionAction.RETRY: (SessionStatus.FAILED, SessionStatus.TIMEOUT, SessionStatus.CANCELLED),
    SessionAction.RESUME: (SessionStatus.NEEDS_ATTENTION,),
    SessionAction.CANCEL: tuple(OPEN_STATUSES),
}
"""Statuses of the sessions that an action is for, unless the filter names one."""


@dataclass(frozen=True)
class SessionPlan:
    sessions: Sequence[AuthorizationSession]
    """The newest sessions that an action is for, `MAX_SESSIONS` at most."""
    total: Total
    """Number of all of them."""


class SessionActions:
    """Takes the caller's database session; work begins once its transaction has committed."""

    def __init__(
        self,
        *,
        authorizations: AuthorizationService,
        apps: AppStates,
        queue: JobQueue,
        waiters: SessionWaiters,
        on_session_ended: SessionHook,
    ) -> None:
        self._authorizations = authorizations
        self._apps = apps
        self._queue = queue
        self._waiters = waiters
        self._on_session_ended = on_session_ended

    async def plan(
        self, db: AsyncSession, action: SessionAction, filters: SessionFilter, *, access: AccessScope
    ) -> SessionPlan:
        """Return the sessions that the filter matches and the action is for. Three statements."""
        statuses = statuses_for(action, filters.status)
        if not statuses:
            return SessionPlan((), Total(0))
        request = PageRequest(size=MAX_SESSIONS, descending=True)
        page = await queries.fetch_page(db, filters, request, access=access, statuses=statuses)
        return SessionPlan(page.rows, page.total)

    async def run(
        self,
        db: AsyncSession,
        action: SessionAction,
        filters: SessionFilter,
        *,
        expected_count: int,
        actor: str,
        access: AccessScope,
    ) -> int:
        """Do the action for about `expected_count` sessions; return how many of them were changed.

        Sessions that have changed meanwhile, and those whose account has another open session, stay as they are.
        Raises `InvalidRequestException`, `AppPausedException`, `TooManyWaitingException`.
        """
        plan = await self.plan(db, action, filters, access=access)
        count = len(plan.sessions)
        if abs(count - expected_count) > expected_count * _TOLERANCE:
            raise InvalidRequestException(
                f"{count} sessions match the filter now, not {expected_count}; nothing was done: count them again"
            )
        ids = [row.id for row in plan.sessions]
        if action is SessionAction.CANCEL:
            return await self._cancel(db, ids, actor)
        return await self._start_again(db, action, filters, ids, actor)

    async def _cancel(self, db: AsyncSession, ids: Sequence[int], actor: str) -> int:
        row = AuthorizationSession
        query = select(row).where(row.id.in_(ids), row.status.in_(OPEN_STATUSES)).order_by(row.id)
        rows = (await db.scalars(_locked(query))).all()
        for each in rows:
            await transitions.end_attempt(db, each, code=ErrorCode.CANCELLED, message="Cancelled by a caller")
            transitions.move(db, each, SessionStatus.CANCELLED, actor=actor)
            self._on_session_ended(db, each)
        session_ids = [each.session_id for each in rows]

        def tell() -> None:
            for session_id in session_ids:
                self._waiters.tell(session_id)

        after_commit(db, tell)
        return len(rows)

    async def _start_again(
        self, db: AsyncSession, action: SessionAction, filters: SessionFilter, ids: Sequence[int], actor: str
    ) -> int:
        row, other = AuthorizationSession, aliased(AuthorizationSession)
        has_open_one = exists().where(
            other.account_id == row.account_id,
            other.api_app == row.api_app,
            other.status.in_(OPEN_STATUSES),
            ~other.is_forced,
        )
        is_ending = exists().where(
            Batch.batch_id == row.batch_id, Batch.completed_at.is_(None), Batch.status != BatchStatus.RUNNING
        )
        query = (
            select(row)
            .where(
                row.id.in_(ids),
                row.status.in_(statuses_for(action, filters.status)),
                or_(row.is_forced, ~has_open_one),
                ~is_ending,
            )
            .order_by(row.account_id, row.api_app, row.id.desc())
        )
        rows = _one_of_each_account((await db.scalars(_locked(query))).all())
        if not rows:
            return 0
        for api_app in sorted({each.api_app for each in rows}):
            await self._apps.ensure_not_paused(db, api_app)
        await self._authorizations.waiting.reserve(db, coming=len(rows))
        for each in rows:
            self._authorizations.put_back(db, each, actor=actor, awaits_person=action is SessionAction.RESUME)
        try:
            await db.flush()
        except IntegrityError:
            raise InvalidRequestException(
                "An account got another session just now; send the request again"
            ) from None
        await self._queue.submit(db, [QueuedSession.from_row(each) for each in rows])
        return len(rows)


def statuses_for(action: SessionAction, status: SessionStatus | None) -> Sequence[SessionStatus]:
    """Return the statuses of sessions that an action is for, where a filter names `status`; empty: of none."""
    if status is None:
        return _STATUSES[action]
    is_retry = action is SessionAction.RETRY and status is SessionStatus.NEEDS_ATTENTION
    return (status,) if is_retry or status in _STATUSES[action] else ()


def _locked(query: Select[AuthorizationSession]) -> Select[AuthorizationSession]:
    return query.with_for_update(of=AuthorizationSession).execution_options(populate_existing=True)


def _one_of_each_account(rows: Iterable[AuthorizationSession]) -> list[AuthorizationSession]:
    """Return the first session of each account and app, and all forced ones: an account has one open session."""
    chosen: list[AuthorizationSession] = []
    seen: set[tuple[str, str]] = set()
    for row in rows:
        key = (row.account_id, row.api_app)
        if row.is_forced or key not in seen:
            chosen.append(row)
        if not row.is_forced:
            seen.add(key)
    return chosen
