"""Query and answer of `/fleet/history`."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.common import Moment
from app.models import SessionStatus
from app.services.fleet.history import MAX_POINTS, HistoryPoint, HistoryRange


class FleetHistoryQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    since: Moment | None = Field(
        default=None, alias="from", description="Begin; an hour before `to` when it is left out"
    )
    until: Moment | None = Field(default=None, alias="to", description="End; now when it is left out")
    step: int | None = Field(
        default=None,
        ge=60,
        le=86_400,
        multiple_of=60,
        description=f"Seconds of one point, of which an answer has {MAX_POINTS} at most; "
        "when it is left out, one that fits a chart",
    )


class FleetHistoryPoint(BaseModel):
    """One step. What is no sum is a mean over the step; null: not counted."""

    begins_at: datetime
    minutes: int = Field(
        description="Minutes that were counted; fewer than `step` has: no monitor ran, or not yet"
    )
    ended: dict[SessionStatus, int] = Field(description="Sessions that ended, by status")
    failures: dict[str, int] = Field(description="Sessions that ended with an error, by its code")
    sessions_per_minute: float
    success_rate: float | None = Field(
        description="Share of the ended sessions that completed, without cancelled ones; null: none"
    )
    waiting: float | None
    running: float | None
    oldest_waiting_seconds: float | None
    running_profiles: float | None
    working: float | None = Field(description="Accounts in this state, as the next four")
    expiring: float | None
    broken: float | None
    needs_person: float | None
    never_authorized: float | None


class FleetHistoryResponse(BaseModel):
    begins_at: datetime = Field(description="Begin of the first step")
    ends_at: datetime
    step: int = Field(description="Seconds")
    points: list[FleetHistoryPoint] = Field(description="Steps of which there are numbers, the oldest first")

    @classmethod
    def from_points(cls, wanted: HistoryRange, points: Sequence[HistoryPoint]) -> "FleetHistoryResponse":
        return cls(
            begins_at=wanted.since,
            ends_at=wanted.until,
            step=wanted.step,
            points=[
                FleetHistoryPoint(
                    begins_at=point.begins_at,
                    minutes=point.minutes,
                    ended=dict(point.ended),
                    failures=dict(point.failures),
                    sessions_per_minute=point.sessions_per_minute,
                    success_rate=point.success_rate,
                    **point.means,
                )
                for point in points
            ],
        )
