"""`/health`: is the process alive; `/health/ready`: can it do its work. Neither needs a key."""

from dataclasses import asdict
from typing import Final

from fastapi import APIRouter, Response, status

from app import __version__
from app.api.dependencies import ContextDep
from app.api.responses import APIResponse, success_response
from app.api.schemas.health import (
    AlarmResponse,
    BreakerResponse,
    HealthResponse,
    LoopLagHealth,
    ReadinessResponse,
    WorkerHealth,
)
from app.context import Context

_MAX_FAILURES: Final = 3
"""Failures of a worker in a row that make the process not ready; fewer may be transient."""

router = APIRouter(prefix="/health", tags=["health"])


@router.get("", operation_id="health")
async def health() -> APIResponse[HealthResponse]:
    """Answer that the process lives: always the same answer."""
    return success_response(HealthResponse(version=__version__))


@router.get(
    "/ready",
    operation_id="ready",
    responses={
        503: {
            "model": APIResponse[ReadinessResponse],
            "description": "A worker, the queue or the database is gone or fails; `reasons` says which",
        }
    },
)
async def ready(context: ContextDep, response: Response) -> APIResponse[ReadinessResponse]:
    """Return the state of workers, queue, database, slots and event loop; 503 when one of them does not work."""
    report = await readiness_report(context)
    if not report.ready:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return success_response(report)


async def readiness_report(context: Context) -> ReadinessResponse:
    """Return what `/health/ready` answers."""
    outage = await context.database.outage()
    database = outage is None
    # A process without workers takes no jobs.
    queue = context.sessions.queue.is_connected if context.workers.started else None
    breaker = BreakerResponse.from_state(await context.fleet.gate.state()) if database else None
    alarms = await context.alarms.active() if database else []
    reasons = _reasons(context, outage, queue)
    return ReadinessResponse(
        ready=not reasons,
        reasons=reasons,
        database=database,
        queue=queue,
        workers=[
            WorkerHealth(name=worker.name, **asdict(worker.status)) for worker in context.workers.started
        ],
        running_profiles=context.fleet.gologin.running_profiles,
        max_concurrent_profiles=context.fleet.gologin.max_concurrent_profiles,
        event_loop=LoopLagHealth(**asdict(context.loop_lag.snapshot())),
        gologin_breaker=breaker,
        alarms=[AlarmResponse(name=row.name, since=row.changed_at, detail=row.detail) for row in alarms],
    )


def _reasons(context: Context, outage: str | None, queue: bool | None) -> list[str]:
    reasons = [f"database: {outage}"] if outage else []
    if queue is False:
        reasons.append("queue: its connection is lost")
    for worker in context.workers.started:
        status = worker.status
        if not status.alive:
            reasons.append(f"worker {worker.name}: it has ended")
        elif worker.is_maintenance and status.consecutive_failures >= _MAX_FAILURES:
            reasons.append(
                f"worker {worker.name}: {status.consecutive_failures} failures in a row, "
                f"the last one {status.last_error}"
            )
    return reasons
