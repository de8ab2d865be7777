"""Requests for authorizations: a session is made once, for each of the requests that arrive together."""

import uuid
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import OAuthApp
from app.database import Database, insert_or_update
from app.models import OPEN_STATUSES, AuthorizationSession, ConsentMode, Profile, SessionStatus, utc_now
from app.models.sessions import OPEN_AND_NOT_FORCED
from app.services.authorizations import idempotency, transitions
from app.services.authorizations.idempotency import Claim
from app.services.authorizations.waiting import WaitingCount, queue_positions
from app.services.events import recorder
from app.services.interfaces import OAuthServiceProtocol
from app.services.keys.service import Caller
from app.services.oauth.app_state import AppStates
from app.services.profiles.directory import ProfileDirectory
from app.services.queue.jobs import JobQueue, QueuedSession
from app.services.shared.group_commit import GroupCommit
from app.utils.exceptions import AppException, AppPausedException, InvalidRequestException
from app.utils.request_id import accept_request_id, current_request_id

_COLUMNS: Final = [name for name in AuthorizationSession.__mapper__.columns.keys() if name != "id"]  # noqa: SIM118
_GROUPS_AT_ONCE: Final = 4
"""Groups of requests, each with a connection: one may wait for another process's lock of a key or an account."""


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
    queue_position: int | None = None
    """Position of a new session that `submit` has committed."""

    @property
    def is_new(self) -> bool:
        return self.new_row is not None


@dataclass(frozen=True)
class RequestLimits:
    lifetime: float
    """Seconds a session may wait for its start, unless it says otherwise."""
    max_attempts: int


@dataclass(frozen=True)
class SessionRequest:
    """A request for an authorization, with the ids of its caller, its session and its log lines."""

    command: AuthorizationCommand
    caller: Caller
    idempotency_key: str | None = None
    session_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    request_id: str = field(default_factory=lambda: accept_request_id(current_request_id()))

    @cached_property
    def claim(self) -> Claim | None:
        if self.idempotency_key is None:
            return None
        return Claim(self.caller.name, self.idempotency_key, self.command, self.session_id)


class SessionRequests:
    """Requests for sessions, alone in a transaction of the caller, or together with those that arrive at once.

    Work begins once the transaction has committed. `consent`: who gives it where neither the request nor its app says.
    """

    def __init__(
        self,
        *,
        database: Database,
        directory: ProfileDirectory,
        oauth: OAuthServiceProtocol,
        apps: AppStates,
        queue: JobQueue,
        waiting: WaitingCount,
        limits: RequestLimits,
        consent: ConsentMode,
    ) -> None:
        self._directory = directory
        self._oauth = oauth
        self._apps = apps
        self._queue = queue
        self.waiting = waiting
        self._limits = limits
        self._consent = consent
        self._groups = GroupCommit(
            database=database, write=self._submit_group, at_once=_GROUPS_AT_ONCE, place=_key_place
        )

    async def submit(
        self, command: AuthorizationCommand, *, caller: Caller, idempotency_key: str | None = None
    ) -> SubmitResult:
        """Make a session or find the one of an earlier request, as `request` does; it is committed.

        Requests that arrive at once share a transaction. Raises what `request` raises.
        """
        caller.access.require(command.account_id, command.api_app)
        return _result_or_raise(await self._groups.add(SessionRequest(command, caller, idempotency_key)))

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
        (result,) = await self._make(db, [SessionRequest(command, caller, idempotency_key)])
        return _result_or_raise(result)

    async def close(self) -> None:
        """Wait until each request that was accepted is committed, or refused."""
        await self._groups.wait_for_all()

    async def _submit_group(
        self, db: AsyncSession, requests: Sequence[SessionRequest]
    ) -> list[SubmitResult | AppException]:
        results = await self._make(db, requests)
        new = [
            each.new_row for each in results if isinstance(each, SubmitResult) and each.new_row is not None
        ]
        positions = await queue_positions(db, new)
        return [
            replace(each, queue_position=positions.get(each.session_id))
            if isinstance(each, SubmitResult)
            else each
            for each in results
        ]

    async def _make(
        self, db: AsyncSession, requests: Sequence[SessionRequest]
    ) -> list[SubmitResult | AppException]:
        """Make the sessions with a fixed number of statements; the result of each request, or what refuses it.

        Requests with the same `Idempotency-Key` come in different groups.
        """
        # In one order everywhere, here of keys and then of accounts, so that no two transactions wait in a circle.
        claims = sorted(
            (claim for request in requests if (claim := request.claim) is not None),
            key=lambda each: each.place,
        )
        assert len({claim.place for claim in claims}) == len(claims)
        now = utc_now()
        earlier = await idempotency.find_all(db, claims, now) if claims else {}
        made = await self._new_rows(db, [each for each in requests if each.session_id not in earlier])
        rows = {id_: each for id_, each in made.items() if isinstance(each, AuthorizationSession)}
        if claims := [claim for claim in claims if claim.new_id in rows]:
            taken = await idempotency.take_all(db, claims, now)
            if lost := [claim for claim in claims if claim.new_id not in taken]:  # another process was first
                earlier |= await idempotency.find_all(db, lost, now)
        new = [row for id_, row in rows.items() if id_ not in earlier]
        existing = await self._insert_all(db, sorted(new, key=lambda row: (row.api_app, row.account_id)))
        found = [(claim, existing[claim.new_id]) for claim in claims if claim.new_id in existing]
        await idempotency.replace_ids(db, found)
        created = [row for row in new if row.session_id not in existing]
        self.waiting.give_back(len(rows) - len(created))
        if created:
            await recorder.record_requests(db, created)
            await self._queue.submit(db, [QueuedSession.from_row(row) for row in created])
        return [_result(request.session_id, earlier, made, existing) for request in requests]

    async def _new_rows(
        self, db: AsyncSession, requests: Sequence[SessionRequest]
    ) -> dict[str, AuthorizationSession | AppException]:
        """Rows that are not inserted yet, or what refuses them, by session id."""
        if not requests:
            return {}
        keys = {(each.command.account_id, each.command.api_app) for each in requests}
        profiles = await self._directory.get_for_accounts(db, keys)
        paused = await self._apps.paused_reasons(db, {api_app for _, api_app in keys})
        rows: dict[str, AuthorizationSession | AppException] = {}
        fitting: list[tuple[SessionRequest, Profile]] = []
        for request in requests:
            try:
                fitting.append((request, self._choose_profile(request.command, profiles, paused)))
            except AppException as error:
                rows[request.session_id] = error
        room = await self.waiting.reserve_some(db, len(fitting)) if fitting else 0
        for number, (request, profile) in enumerate(fitting):
            try:
                rows[request.session_id] = self._new_row(request, profile, has_room=number < room)
            except AppException as error:
                rows[request.session_id] = error
        return rows

    def _choose_profile(
        self,
        command: AuthorizationCommand,
        profiles: Mapping[tuple[str, str], Profile | AppException],
        paused: Mapping[str, str],
    ) -> Profile:
        self._oauth.app(command.api_app)
        if problem := self._oauth.handle_problem(command.api_app, command.account_id):
            raise InvalidRequestException(f"account_id: {problem}")
        profile = profiles[command.account_id, command.api_app]
        if isinstance(profile, AppException):
            raise profile
        if (reason := paused.get(command.api_app)) is not None:
            raise AppPausedException(command.api_app, reason)
        return profile

    def _new_row(self, request: SessionRequest, profile: Profile, *, has_room: bool) -> AuthorizationSession:
        if not has_room:
            raise self.waiting.refusal()
        app = self._oauth.app(request.command.api_app)
        profile_id, caller = profile.profile_id, request.caller
        return self.row_for(request.command, app, profile_id, caller, request.session_id, request.request_id)

    async def _insert_all(self, db: AsyncSession, rows: Sequence[AuthorizationSession]) -> dict[str, str]:
        """Insert them but those whose account has an open session: the ids of those, by the ids of the rows."""
        existing: dict[str, str] = {}
        while rows:
            skipped = await _insert(db, rows)
            open_ids = await open_sessions(db, {row.account_id for row in skipped})
            existing |= {
                row.session_id: open_ids[key]
                for row in skipped
                if (key := (row.account_id, row.api_app)) in open_ids
            }
            rows = [row for row in skipped if row.session_id not in existing]  # that one has ended since
        return existing

    def row_for(
        self,
        command: AuthorizationCommand,
        app: OAuthApp,
        profile_id: str,
        caller: Caller,
        session_id: str,
        request_id: str,
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
            is_held=False,
            consent=consent,
            awaits_person=consent is ConsentMode.ATTENDED,
            attempts=0,
            attempts_allowed=self._limits.max_attempts,
            request_id=request_id,
            requested_by=caller.name,
            requested_by_kind=caller.kind,
            requested_by_id=caller.key_id or caller.person_id,
            created_at=now,
            updated_at=now,
            expires_at=expires_at,
        )
        row.queue_rank = transitions.queue_rank(row)
        return row


async def _insert(db: AsyncSession, rows: Sequence[AuthorizationSession]) -> Sequence[AuthorizationSession]:
    """Insert them, with their ids, but those whose account has an open session; return these."""
    insert, id_ = unless_open(insert_or_update(db, AuthorizationSession)), AuthorizationSession.id
    if len(rows) == 1:
        row_id = await db.scalar(insert.values(column_values(rows[0])).returning(id_))
        ids = {} if row_id is None else {rows[0].session_id: row_id}
    else:
        # Without RETURNING, with which PostgreSQL takes several times as long.
        await db.execute(insert, [{name: getattr(row, name) for name in _COLUMNS} for row in rows])
        session_id = AuthorizationSession.session_id
        is_inserted = session_id.in_([row.session_id for row in rows])
        found = await db.execute(select(session_id, id_).where(is_inserted))
        ids = {each.session_id: each.id for each in found}
    for row in rows:
        if row.session_id in ids:
            row.id = ids[row.session_id]
    return [row for row in rows if row.session_id not in ids]


def unless_open(insert: Any) -> Any:
    """Let an INSERT of sessions leave out those whose account has an open one."""
    return insert.on_conflict_do_nothing(
        index_elements=["twitter_username", "api_app"], index_where=text(OPEN_AND_NOT_FORCED)
    )


def column_values(row: AuthorizationSession) -> dict[str, Any]:
    """Return the values that are set, by attribute."""
    return {name: value for name in _COLUMNS if (value := getattr(row, name)) is not None}


async def open_sessions(db: AsyncSession, account_ids: Set[str]) -> dict[tuple[str, str], str]:
    """Return the ids of the accounts' open sessions that are not forced, by account and app."""
    if not account_ids:
        return {}
    query = select(
        AuthorizationSession.account_id, AuthorizationSession.api_app, AuthorizationSession.session_id
    ).where(
        AuthorizationSession.account_id.in_(account_ids),
        AuthorizationSession.status.in_(OPEN_STATUSES),
        ~AuthorizationSession.is_forced,
    )
    return {(account, app): session_id for account, app, session_id in await db.execute(query)}


def _key_place(request: SessionRequest) -> tuple[str, str] | None:
    return None if request.claim is None else request.claim.place


def _result(
    session_id: str,
    earlier: Mapping[str, str | AppException],
    made: Mapping[str, AuthorizationSession | AppException],
    existing: Mapping[str, str],
) -> SubmitResult | AppException:
    outcome = earlier.get(session_id) or existing.get(session_id) or made[session_id]
    if isinstance(outcome, AppException):
        return outcome
    return SubmitResult(outcome) if isinstance(outcome, str) else SubmitResult(session_id, outcome)


def _result_or_raise(result: SubmitResult | AppException) -> SubmitResult:
    if isinstance(result, AppException):
        raise result
    return result
