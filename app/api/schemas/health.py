"""Responses of the health checks."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from app.services.profiles.request_budget import BreakerState


class BreakerResponse(BaseModel):
    """GoLogin's cloud API is not called while it is open."""

    is_open: bool
    opened_at: datetime | None
    reason: str | None

    @classmethod
    def from_state(cls, state: BreakerState) -> "BreakerResponse":
        return cls(is_open=state.is_open, opened_at=state.opened_at, reason=state.reason)


class AlarmResponse(BaseModel):
    name: str
    since: datetime
    detail: str


class HealthResponse(BaseModel):
    status: Literal["ok"] = "ok"
    version: str


class WorkerHealth(BaseModel):
    name: str
    alive: bool
    last_success: datetime | None
    consecutive_failures: int
    last_error: str | None = Field(description="Error code or class of the last failure")
    next_run: datetime | None


class LoopLagHealth(BaseModel):
    """Lag of the event loop's timers over the last 6,000 ticks."""

    samples: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class ReadinessResponse(BaseModel):
    ready: bool
    reasons: list[str] = Field(description="Reasons why the process is not ready; empty when it is")
    database: bool
    queue: bool | None = Field(
        description="Whether the queue delivers sessions; null in a process without workers"
    )
    workers: list[WorkerHealth]
    running_profiles: int
    max_concurrent_profiles: int
    event_loop: LoopLagHealth
    gologin_breaker: BreakerResponse | None = Field(description="null when the database does not answer")
    alarms: list[AlarmResponse]
