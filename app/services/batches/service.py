"""The caller's side of a batch: created in one transaction, cancelled, retried. `pacing` starts its sessions."""

import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import exists, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.database import after_commit, insert_or_update
from app.models import (
    OPEN_STATUSES,
    AuthorizationSession,
    Batch,
    BatchStatus,
    EventType,
    SessionStatus,
    utc_now,
)
from app.services.authorizations import idempotency
from app.services.authorizations.service import AuthorizationService
from app.services.batches.creation import CHUNK_SIZE, BatchCommand, BatchCreation
from app.services.batches.pacing import BatchPacing
from app.services.batches.queries import RowResult, get_batch
from app.services.events import recorder
from app.services.interfaces import OAuthServiceProtocol
from app.services.keys.service import Caller
from app.services.oauth.app_state import AppStates
from app.services.profiles.directory import ProfileDirectory
from app.utils.exceptions import (
    BatchEndedException,
    InvalidRequestException,
    NothingToRetryException,
)
from app.utils.request_id import accept_request_id, current_request_id

_WITHOUT_TOKENS: Final = (SessionStatus.FAILED, SessionStatus.TIMEOUT, SessionStatus.CANCELLED)


@dataclass(frozen=True)
class PlacedBatch:
    batch_id: str
    is_new: bool
    """False: an earlier request made it."""


@dataclass(frozen=True)
class BatchLimits:
    """Defaults of a batch, and the ceiling of its rows."""

    max_running: int
    stop_percent: int
    stop_window: int
    max_rows: int
    chunk_size: int = CHUNK_SIZE
    """Rows that are created by one statement."""


class BatchService:
    """Takes the caller's database session; the work begins once its transaction has committed."""

    def __init__(
        self,
        *,
        authorizations: AuthorizationService,
        oauth: OAuthServiceProtocol,
        directory: ProfileDirectory,
        apps: AppStates,
        pacing: BatchPacing,
        limits: BatchLimits,
    ) -> None:
        self._authorizations = authorizations
        self._oauth = oauth
        self._directory = directory
        self._apps = apps
        self._pacing = pacing
        self.limits = limits

    async def request(
        self,
        db: AsyncSession,
        command: BatchCommand,
        *,
        caller: Caller,
        idempotency_key: str | None = None,
        source_hash: str | None = None,
    ) -> PlacedBatch:
        """Make a batch, or find the one that the same key, or the same source of this caller, has made.

        Rows that cannot become a session are noted with the reason. Raises `InvalidRequestException`,
        `IdempotencyConflictException`, `TooManyWaitingException`, `BatchEmptyException`, and `OutOfReachException`
        when the caller's access covers none.
        """
        self._refuse(command, caller)
        batch_id = str(uuid.uuid4())
        if idempotency_key is not None:
            earlier_id = await idempotency.remember(
                db, caller=caller.name, key=idempotency_key, request=command, new_id=batch_id
            )
            if earlier_id is not None:
                return PlacedBatch(earlier_id, is_new=False)
        existing_id = await self._insert(db, command, caller, batch_id, source_hash)
        if existing_id is not None:
            return PlacedBatch(existing_id, is_new=False)
        recorder.record(
            db, EventType.BATCH_REQUESTED, actor=caller.name, batch_id=batch_id, rows=len(command.rows)
        )
        await self._creation(command, caller, batch_id).run(db)
        after_commit(db, lambda: self._pacing.wake(batch_id))
        return PlacedBatch(batch_id, is_new=True)

    async def check(self, db: AsyncSession, command: BatchCommand, *, caller: Caller) -> list[RowResult]:
        """Return what `request` would make of each row now; nothing is written.

        Raises `InvalidRequestException`, and `OutOfReachException` when the caller's access covers none.
        """
        self._refuse(command, caller)
        return await self._creation(command, caller, batch_id="").check(db)

    async def forget_source(self, db: AsyncSession, source_hash: str, *, caller: Caller) -> None:
        """The next request of this source makes a new batch."""
        is_same_source = (Batch.requested_by == caller.name, Batch.source_hash == source_hash)
        await db.execute(update(Batch).where(*is_same_source).values(source_hash=None))

    async def cancel(self, db: AsyncSession, batch_id: str, *, caller: Caller) -> None:
        """Let nothing more of it start; what runs finds out within two seconds. `BatchPacing.pace` does the rest.

        Raises `BatchNotFoundException`, `BatchEndedException`.
        """
        batch = await get_batch(db, batch_id, caller=caller, for_update=True)
        if batch.completed_at is not None:
            raise BatchEndedException(batch_id, batch.status)
        batch.status, batch.reason = BatchStatus.CANCELLED, f"asked for by {caller.name}"
        recorder.record(
            db, EventType.BATCH_CANCELLED, actor=caller.name, request_id=batch.request_id, batch_id=batch_id
        )
        after_commit(db, lambda: self._pacing.wake(batch_id))

    async def retry(
        self, db: AsyncSession, batch_id: str, *, needs_attention: bool = False, caller: Caller
    ) -> int:
        """Put back what ended without tokens; how many. Those whose account has an open session stay as they are.

        Raises `BatchNotFoundException`, `NothingToRetryException`, `AppPausedException`, `TooManyWaitingException`.
        """
        batch = await get_batch(db, batch_id, caller=caller, for_update=True)
        statuses = [*_WITHOUT_TOKENS, *([SessionStatus.NEEDS_ATTENTION] if needs_attention else [])]
        other = aliased(AuthorizationSession)
        query = (
            select(AuthorizationSession)
            .where(
                AuthorizationSession.batch_id == batch_id,
                AuthorizationSession.status.in_(statuses),
                ~exists().where(
                    other.account_id == AuthorizationSession.account_id,
                    other.api_app == AuthorizationSession.api_app,
                    other.status.in_(OPEN_STATUSES),
                    ~other.is_forced,
                ),
            )
            .order_by(AuthorizationSession.account_id, AuthorizationSession.api_app)
        )
        rows = (await db.scalars(query.with_for_update(of=AuthorizationSession))).all()
        if not rows:
            raise NothingToRetryException(batch_id)
        for api_app in {row.api_app for row in rows}:
            await self._apps.ensure_not_paused(db, api_app)
        await self._authorizations.waiting.reserve(db, coming=len(rows))
        for row in rows:
            self._authorizations.put_back(db, row, actor=caller.name)
            row.is_held = True
        batch.status, batch.reason = BatchStatus.RUNNING, None
        batch.started_at, batch.completed_at = utc_now(), None
        try:
            await db.flush()
        except IntegrityError:
            raise InvalidRequestException(
                "An account of the batch got another session just now; send the request again"
            ) from None
        recorder.record(
            db,
            EventType.BATCH_RETRIED,
            actor=caller.name,
            request_id=batch.request_id,
            batch_id=batch_id,
            sessions=len(rows),
        )
        after_commit(db, lambda: self._pacing.wake(batch_id))
        return len(rows)

    def _refuse(self, command: BatchCommand, caller: Caller) -> None:
        if len(command.rows) > self.limits.max_rows:
            raise InvalidRequestException(
                f"A batch has {self.limits.max_rows} rows at most, this one has {len(command.rows)}; split it"
            )
        _refuse_uncovered(command, caller)

    def _creation(self, command: BatchCommand, caller: Caller, batch_id: str) -> BatchCreation:
        return BatchCreation(
            authorizations=self._authorizations,
            oauth=self._oauth,
            directory=self._directory,
            apps=self._apps,
            command=command,
            caller=caller,
            batch_id=batch_id,
            chunk_size=self.limits.chunk_size,
        )

    async def _insert(
        self, db: AsyncSession, command: BatchCommand, caller: Caller, batch_id: str, source_hash: str | None
    ) -> str | None:
        """Insert the batch's own row, unless the source has made one: the id of that one."""
        limits = self.limits
        values = {
            "batch_id": batch_id,
            "requested_by": caller.name,
            "request_id": accept_request_id(current_request_id()),
            "source_hash": source_hash,
            "max_running": command.max_running or limits.max_running,
            "stop_percent": limits.stop_percent if command.stop_percent is None else command.stop_percent,
            "stop_window": command.stop_window or limits.stop_window,
        }
        # Of two at once the second waits here for the first one's commit.
        statement = insert_or_update(db, Batch).on_conflict_do_nothing().returning(Batch.id)
        if await db.scalar(statement.values(values)) is not None:
            return None
        is_same_source = (Batch.requested_by == caller.name, Batch.source_hash == source_hash)
        existing_id: str = (await db.scalars(select(Batch.batch_id).where(*is_same_source))).one()
        return existing_id


def _refuse_uncovered(command: BatchCommand, caller: Caller) -> None:
    keys = [(row.account_id, row.api_app) for row in command.rows if row.error is None]
    if keys and not any(caller.access.covers(*key) for key in keys):
        caller.access.require(*keys[0])
