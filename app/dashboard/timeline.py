"""Timeline of a session: its attempts, with the stages that each has reached and how long each took."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.models import AuthorizationAttempt, Event, EventType, utc_now
from app.services.authorizations.service import SessionView


@dataclass(frozen=True)
class StageLine:
    name: str
    start: float
    """Seconds from the attempt's start."""
    seconds: float
    """Duration; of the last one until the attempt's end, or until now."""


@dataclass(frozen=True)
class AttemptLine:
    row: AuthorizationAttempt
    stages: Sequence[StageLine]
    seconds: float
    """Duration, until now while the attempt runs."""

    @property
    def is_running(self) -> bool:
        return self.row.ended_at is None


def build_timeline(view: SessionView, events: Iterable[Event]) -> list[AttemptLine]:
    """Return the attempts, oldest first. The row has the stages of the last one, events those of the others."""
    stage_events = sorted(
        (event for event in events if event.event_type == EventType.AUTHORIZATION_STAGE),
        key=lambda event: (event.occurred_at, event.id),
    )
    last = len(view.attempts) - 1
    return [
        _line(attempt, view.row.stage_times if number == last else _times(attempt, stage_events))
        for number, attempt in enumerate(view.attempts)
    ]


def _times(attempt: AuthorizationAttempt, events: Sequence[Event]) -> dict[str, float]:
    return {
        str(event.data.get("stage")): _since(attempt, event.occurred_at)
        for event in events
        if attempt.started_at <= event.occurred_at <= (attempt.ended_at or event.occurred_at)
    }


def _line(attempt: AuthorizationAttempt, times: Mapping[str, float]) -> AttemptLine:
    total = max(0.0, _since(attempt, attempt.ended_at or utc_now()))
    reached = sorted(times.items(), key=lambda item: item[1])
    ends = [*(start for _, start in reached[1:]), total]
    stages = [
        StageLine(name, start, max(0.0, end - start))
        for (name, start), end in zip(reached, ends, strict=False)  # without stages there is one end
    ]
    return AttemptLine(attempt, stages, total)


def _since(attempt: AuthorizationAttempt, moment: datetime) -> float:
    return (moment - attempt.started_at).total_seconds()
