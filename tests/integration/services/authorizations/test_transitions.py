"""Generated schedules: whoever acts at once on a session, its events tell one path that the table allows."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from app.clients.oauth.oauth2 import ProviderUser
from app.context import Context
from app.database import Database
from app.models import AuthorizationAttempt, AuthorizationSession, Event, SessionStatus, utc_now
from app.services.authorizations.requests import AuthorizationCommand
from app.services.interfaces import AuthorizationJob
from app.utils.exceptions import (
    BrowserCrashedException,
    InvalidRequestException,
    LeaseLostException,
    LoginRequiredException,
    ProfileInUseException,
    SessionEndedException,
    SessionNotEndedException,
)
from tests.fixtures.factories import CALLER, new_profile, new_tokens
from tests.fixtures.fuzzing import CASES
from tests.fixtures.histories import path_of, problems_of
from tests.fixtures.services import OpenContext

REFUSALS = (
    LeaseLostException,
    ProfileInUseException,
    SessionEndedException,
    SessionNotEndedException,
    InvalidRequestException,  # a retry while another session of the account is open
)
"""Refusals that an actor who came too late may hear; anything else is a defect."""

_numbers = itertools.count(1)


class Stage:
    """Two sessions of one account and profile, and everybody who may change them, in two processes."""

    def __init__(self, processes: Sequence[Context]) -> None:
        self.processes = processes
        self.sessions: list[str] = []
        self.jobs: list[list[AuthorizationJob]] = [[], []]
        """Every claim that was ever made, stale ones too."""
        self.refused = 0

    @property
    def database(self) -> Database:
        return self.processes[0].database

    async def prepare(self) -> None:
        account = f"t{next(_numbers)}"
        async with self.database.transaction() as db:
            db.add(new_profile(account_id=account))
        for force in (False, True):
            async with self.database.transaction() as db:
                command = AuthorizationCommand(account, "AIOTT1", force=force)
                placed = await self.processes[0].sessions.authorizations.request(db, command, caller=CALLER)
            self.sessions.append(placed.session_id)

    async def act(self, action: str, which: int, process: int, job: int) -> None:
        act: Callable[..., Awaitable[None]] = getattr(self, f"_{action}")
        try:
            await act(self.processes[process], which, job)
        except REFUSALS:
            self.refused += 1

    async def _claim(self, process: Context, which: int, _: int) -> None:
        if (job := await process.sessions.runs.claim(self.sessions[which])) is not None:
            self.jobs[which].append(job)

    async def _complete(self, process: Context, which: int, job: int) -> None:
        if held := self._held(which, job):
            user = ProviderUser(id="1", username=held.account_id)
            await process.sessions.runs.complete(held, user, new_tokens())

    async def _fail_passing(self, process: Context, which: int, job: int) -> None:
        if held := self._held(which, job):
            await process.sessions.runs.fail(held, BrowserCrashedException())

    async def _fail_for_good(self, process: Context, which: int, job: int) -> None:
        if held := self._held(which, job):
            await process.sessions.runs.fail(held, LoginRequiredException(held.account_id))

    async def _release(self, process: Context, which: int, job: int) -> None:
        if held := self._held(which, job):
            await process.sessions.runs.release(held, reason="service_stopping")

    async def _cancel(self, process: Context, which: int, _: int) -> None:
        async with process.database.transaction() as db:
            await process.sessions.authorizations.cancel(db, self.sessions[which], actor="anna")

    async def _retry(self, process: Context, which: int, _: int) -> None:
        async with process.database.transaction() as db:
            await process.sessions.authorizations.retry(db, self.sessions[which], actor="anna")

    async def _recover(self, process: Context, *_: int) -> None:
        await process.sessions.runs.recover_lost()

    async def _end_overdue(self, process: Context, *_: int) -> None:
        await process.sessions.runs.end_overdue()

    async def _lease_runs_out(self, _: Context, which: int, __: int) -> None:
        await self._change(
            which, SessionStatus.IN_PROGRESS, lease_expires_at=utc_now() - timedelta(seconds=1)
        )

    async def _runs_too_long(self, _: Context, which: int, __: int) -> None:
        await self._change(which, SessionStatus.IN_PROGRESS, started_at=utc_now() - timedelta(days=1))

    async def _waits_too_long(self, _: Context, which: int, __: int) -> None:
        await self._change(which, SessionStatus.PENDING, expires_at=utc_now() - timedelta(seconds=1))

    async def _is_due(self, _: Context, which: int, __: int) -> None:
        await self._change(which, SessionStatus.PENDING, not_before=None)

    def _held(self, which: int, job: int) -> AuthorizationJob | None:
        """The latest claim, or an earlier one."""
        jobs = self.jobs[which]
        return jobs[-1 - job % len(jobs)] if jobs else None

    async def _change(self, which: int, status: SessionStatus, **values: Any) -> None:
        """Time passes; no service does this."""
        row = AuthorizationSession
        async with self.database.transaction() as db:
            await db.execute(
                update(row)
                .where(row.session_id == self.sessions[which], row.status == status)
                .values(**values)
            )


ACTIONS = [
    "claim",
    "complete",
    "fail_passing",
    "fail_for_good",
    "release",
    "cancel",
    "retry",
    "recover",
    "end_overdue",
    "lease_runs_out",
    "runs_too_long",
    "waits_too_long",
    "is_due",
]
# Mostly what brings a session on: else nearly every schedule would end with its first wave.
_WEIGHTED = [*ACTIONS, "claim", "claim", "claim", "is_due", "is_due", "retry", "retry", "complete"]
_ACTS = st.tuples(
    st.sampled_from(_WEIGHTED),
    st.sampled_from([0, 0, 0, 1]),
    st.integers(0, 1),
    st.sampled_from([0, 0, 0, 1, 2]),
)
SCHEDULES = st.lists(st.lists(_ACTS, min_size=1, max_size=5), min_size=4, max_size=12)
"""Waves; all acts of a wave begin at once."""


async def problems(database: Database, session_id: str) -> tuple[list[str], list[SessionStatus]]:
    async with database.reading() as db:
        row = (
            await db.scalars(
                select(AuthorizationSession).where(AuthorizationSession.session_id == session_id)
            )
        ).one()
        events = list(
            await db.scalars(select(Event).where(Event.session_id == session_id).order_by(Event.id))
        )
        attempts = list(
            await db.scalars(
                select(AuthorizationAttempt)
                .where(AuthorizationAttempt.session_id == session_id)
                .order_by(AuthorizationAttempt.number)
            )
        )
    return problems_of(row, events, attempts), path_of(events)


@pytest.fixture
async def processes(open_services: OpenContext):
    async with open_services(database_pool_size=6) as one, open_services(database_pool_size=6) as other:
        yield [one, other]


def races(examples: int) -> settings:
    """Settings of a test of schedules: no shrinking, as a race that failed once need not fail again."""
    return settings(
        max_examples=CASES or examples,
        deadline=None,
        derandomize=not CASES,
        database=None,
        phases=[Phase.generate],
        print_blob=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@races(10)
@given(schedule=SCHEDULES)
async def test_every_schedule_leaves_a_history_that_can_be_true(
    processes: list[Context], schedule: list[list[tuple[str, int, int, int]]]
):
    await check_schedule(processes, schedule)


@pytest.mark.long
@races(25)
@given(schedule=SCHEDULES)
async def test_more_schedules_leave_a_history_that_can_be_true(
    processes: list[Context], schedule: list[list[tuple[str, int, int, int]]]
):
    await check_schedule(processes, schedule)


async def check_schedule(processes: list[Context], schedule: list[list[tuple[str, int, int, int]]]) -> None:
    stage = Stage(processes)
    await stage.prepare()
    for wave in schedule:
        await asyncio.gather(*(stage.act(*act) for act in wave))
    for session_id in stage.sessions:
        found, path = await problems(stage.database, session_id)
        note(" → ".join(path))
        assert found == []


@pytest.mark.parametrize("action", ACTIONS)
async def test_simultaneous_repetitions_of_an_act_have_one_effect(processes: list[Context], action: str):
    """The session runs and its time is up in every way: the most that can happen."""
    stage = Stage(processes)
    await stage.prepare()
    await stage.act("claim", 0, 0, 0)
    if action in ("recover", "end_overdue"):
        await stage.act("lease_runs_out", 0, 0, 0)
        await stage.act("runs_too_long", 0, 0, 0)
    if action == "retry":
        await stage.act("cancel", 0, 0, 0)
        await stage.act("cancel", 1, 0, 0)
    _, before = await problems(stage.database, stage.sessions[0])
    await asyncio.gather(*(stage.act(action, 0, number % 2, 0) for number in range(8)))
    found, path = await problems(stage.database, stage.sessions[0])
    assert found == []
    assert len(path) - len(before) <= 1


@pytest.mark.parametrize("waves", [8, pytest.param(20, marks=pytest.mark.long)])
async def test_simultaneous_actors_leave_a_true_history(processes: list[Context], waves: int):
    """All acts on one running session, in one wave, again and again: one wins, and what follows is allowed."""
    for _ in range(CASES or waves):
        stage = Stage(processes)
        await stage.prepare()
        await stage.act("claim", 0, 0, 0)
        await asyncio.gather(*(stage.act(action, 0, number % 2, 0) for number, action in enumerate(ACTIONS)))
        found, path = await problems(stage.database, stage.sessions[0])
        assert found == [], path
        assert path.count(SessionStatus.COMPLETED) <= 1
