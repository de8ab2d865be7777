"""The stages of running attempts: kept in memory as they are reported, and written for many sessions at once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import is_sqlite
from app.models import AuthorizationSession, EventType, SessionStage, utc_now
from app.models.base import UtcDateTime
from app.services.events import recorder
from app.services.interfaces import AuthorizationJob

_TIME: Final = bindparam("now", type_=UtcDateTime)
# The rows are locked in the order of their ids, as by all who lock many of them: else two could wait for each other.
_ON_POSTGRESQL: Final = text(
    """
    WITH held AS (
        SELECT session.id, reached.stage, reached.times
        FROM json_to_recordset(CAST(:reached AS json))
            AS reached(session_id text, lease_token text, stage text, times json)
        JOIN authorization_sessions AS session
            ON session.session_id = reached.session_id AND session.lease_token = reached.lease_token
        ORDER BY session.id
        FOR UPDATE OF session
    )
    UPDATE authorization_sessions AS session
    SET stage = held.stage, stage_times = held.times, updated_at = :now
    FROM held WHERE session.id = held.id
    RETURNING session.lease_token
    """
).bindparams(_TIME)
_ON_SQLITE: Final = text(
    """
    UPDATE authorization_sessions
    SET stage = json_extract(value, '$.stage'), stage_times = json_extract(value, '$.times'), updated_at = :now
    FROM json_each(:reached)
    WHERE session_id = json_extract(value, '$.session_id') AND lease_token = json_extract(value, '$.lease_token')
    RETURNING lease_token
    """
).bindparams(_TIME)


@dataclass(frozen=True)
class StageProgress:
    """Stages that an attempt has reached."""

    job: AuthorizationJob
    stage: SessionStage
    """The last one."""
    times: Mapping[str, float]
    """Seconds from the attempt's start at which each was reached."""
    news: tuple[tuple[SessionStage, datetime], ...]
    """Stages of which no event tells yet."""


@dataclass
class StageLog:
    """The reports of one attempt, in their order."""

    job: AuthorizationJob
    _times: dict[str, float] = field(default_factory=dict)
    _news: list[tuple[SessionStage, datetime]] = field(default_factory=list)
    _last: SessionStage | None = None

    def add(self, stage: SessionStage, at: datetime) -> None:
        self._last = stage
        self._times[stage] = round((at - self.job.started_at).total_seconds(), 3)
        self._news.append((stage, at))

    def take(self) -> StageProgress | None:
        """Return how far the attempt is; whoever takes the news writes them. None: nothing was reported."""
        if self._last is None:
            return None
        news, self._news = tuple(self._news), []
        return StageProgress(self.job, self._last, dict(self._times), news)

    def restore(self, progress: StageProgress | None) -> None:
        """Take back news that were not written."""
        if progress is not None:
            self._news[:0] = progress.news


async def write_progress(db: AsyncSession, group: Sequence[StageProgress]) -> None:
    """Note the progress of many attempts with its events, in two statements; nothing of one whose lease is lost."""
    reached = [
        {
            "session_id": each.job.session_id,
            "lease_token": each.job.lease_token,
            "stage": each.stage,
            "times": each.times,
        }
        for each in group
    ]
    statement = _ON_SQLITE if is_sqlite(db) else _ON_POSTGRESQL
    held = set(await db.scalars(statement, {"reached": json.dumps(reached), "now": utc_now()}))
    events = [event for each in group if each.job.lease_token in held for event in _events(each)]
    if events:
        await recorder.record_all(db, events)


def note_progress(db: AsyncSession, row: AuthorizationSession, progress: StageProgress | None) -> None:
    """Note the progress on a row that the transaction has locked."""
    if progress is not None:
        row.stage, row.stage_times = progress.stage, dict(progress.times)
        record_news(db, progress)


def record_news(db: AsyncSession, progress: StageProgress) -> None:
    recorder.add_all(db, _events(progress))


def _events(progress: StageProgress) -> list[dict[str, Any]]:
    job, events = progress.job, []
    for stage, at in progress.news:
        about: dict[str, Any] = {
            "account_id": job.account_id,
            "api_app": job.api_app,
            "session_id": job.session_id,
            "profile_id": job.profile_id,
            "request_id": job.request_id,
            "occurred_at": at,
        }
        events.append(recorder.new_event(EventType.AUTHORIZATION_STAGE, **about, stage=stage))
        if stage is SessionStage.WAITING_FOR_PERSON:
            events.append(recorder.new_event(EventType.AUTHORIZATION_ATTENTION_AWAITED, **about))
    return events
