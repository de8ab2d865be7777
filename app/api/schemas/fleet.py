"""Responses of `/fleet`."""

from datetime import datetime

from pydantic import BaseModel, Field

from app import __version__
from app.api.schemas.health import AlarmResponse, BreakerResponse, WorkerHealth
from app.models import AppState, WebhookEndpoint, WebhookStatus, WorkerRun, utc_now
from app.services.fleet.overview import Overview
from app.services.tokens.account_states import AccountState


class AccountCountResponse(BaseModel):
    state: AccountState
    api_app: str | None = Field(description="null: accounts without tokens whose profiles are for any app")
    code: str | None = Field(description="Code of the problem; null of accounts that work")
    count: int


class SessionCountsResponse(BaseModel):
    waiting: int
    held: int = Field(description="Waiting sessions whose turn within their batch has not come")
    running: int
    oldest_waiting_at: datetime | None = Field(description="Time of the oldest request that waits")
    ended_last_hour: dict[str, int] = Field(description="By status")
    failures_last_hour: dict[str, int] = Field(description="By error code")
    drain_seconds: float | None = Field(
        description="Seconds until all that wait have ended, at the pace of the last 15 minutes; null: none ended"
    )


class TokenCountsResponse(BaseModel):
    """Active tokens by the time of their expiry; a longer time includes the shorter ones, none the expired tokens."""

    expired: int
    in_15_minutes: int
    in_1_hour: int
    in_24_hours: int


class FleetCountsResponse(BaseModel):
    """Counts of the monitor."""

    accounts: list[AccountCountResponse]
    sessions: SessionCountsResponse
    tokens: TokenCountsResponse


class MachineReport(BaseModel):
    """Report of a machine's monitor."""

    process: str = Field(description="Process whose monitor reported")
    version: str
    max_concurrent_profiles: int
    profile_starts_in_progress: int
    profile_starts_limit: int
    loop_lag_p99_ms: float
    workers: list[WorkerHealth] = Field(description="Workers of this process")


class MachineResponse(MachineReport):
    name: str
    reported_at: datetime = Field(
        description="Heartbeat: a machine whose workers run reports every `MONITOR_INTERVAL`"
    )
    running_profiles: int


class SlotsResponse(BaseModel):
    running_profiles: int = Field(description="Profiles that run, on all machines")
    fleet_limit: int | None = Field(description="`FLEET_MAX_RUNNING_PROFILES`; null: no limit")


class GoLoginUsageResponse(BaseModel):
    """The fleet's budget of requests to GoLogin's cloud API."""

    requests_per_minute: int
    reserved: int = Field(description="Requests that are reserved ahead of the budget's pace")
    wait_seconds: float = Field(description="Seconds that a request would wait now")
    breaker: BreakerResponse


class AppHealth(BaseModel):
    """A configured OAuth app, or one that is not configured any more and still paused or limited."""

    api_app: str
    paused_at: datetime | None
    reason: str | None = Field(description="Reason of the pause")
    limited_until: datetime | None = Field(description="End of the provider's limit")
    limited_by: str | None = Field(description="Name of the limit in the provider's headers")

    @classmethod
    def from_row(cls, api_app: str, row: AppState | None) -> "AppHealth":
        until = row.limited_until if row is not None else None
        is_limited = until is not None and until > utc_now()
        return cls(
            api_app=api_app,
            paused_at=row.paused_at if row is not None else None,
            reason=row.reason if row is not None else None,
            limited_until=until if is_limited else None,
            limited_by=row.limited_by if row is not None and is_limited else None,
        )


class FailingWebhook(BaseModel):
    id: str
    name: str
    status: WebhookStatus
    failing_since: datetime | None
    reason: str | None = Field(description="Reason of the pause")

    @classmethod
    def from_row(cls, row: WebhookEndpoint) -> "FailingWebhook":
        return cls(
            id=row.endpoint_id,
            name=row.name,
            status=row.status,
            failing_since=row.failing_since,
            reason=row.pause_reason,
        )


class WorkerRunResponse(BaseModel):
    """A periodic worker, over all processes; `monitor` has one for each machine."""

    name: str
    last_success: datetime | None
    next_run: datetime
    process: str | None = Field(description="Process that runs it now; null: none")

    @classmethod
    def from_row(cls, row: WorkerRun) -> "WorkerRunResponse":
        is_held = row.lease_expires_at is not None and row.lease_expires_at > utc_now()
        return cls(
            name=row.name,
            last_success=row.last_success_at,
            next_run=row.next_run_at,
            process=row.lease_owner if is_held else None,
        )


class FleetResponse(BaseModel):
    version: str = Field(description="Version of the process that answers")
    counted_at: datetime | None = Field(description="Time of the counts; null: no monitor has counted yet")
    counts: FleetCountsResponse | None
    accounts_by_state: dict[str, int] = Field(description="Sums of `counts.accounts`")
    slots: SlotsResponse
    machines: list[MachineResponse] = Field(description="Machines that reported within a day")
    gologin: GoLoginUsageResponse
    apps: list[AppHealth]
    webhooks: list[FailingWebhook] = Field(
        description="Webhooks that are paused, or whose last delivery failed"
    )
    alarms: list[AlarmResponse]
    workers: list[WorkerRunResponse]

    @classmethod
    def from_overview(cls, overview: Overview, *, fleet_limit: int | None) -> "FleetResponse":
        report, running, usage = overview.fleet, overview.running_profiles, overview.gologin
        counts = None if report is None else FleetCountsResponse.model_validate(report.data)
        by_state: dict[str, int] = {}
        if counts is not None:
            by_state = {state.value: 0 for state in AccountState}
            for each in counts.accounts:
                by_state[each.state] += each.count
        return cls(
            version=__version__,
            counted_at=report.counted_at if report is not None else None,
            counts=counts,
            accounts_by_state=by_state,
            slots=SlotsResponse(running_profiles=sum(running.values()), fleet_limit=fleet_limit),
            machines=[
                MachineResponse(
                    **vars(MachineReport.model_validate(row.data)),
                    name=name,
                    reported_at=row.counted_at,
                    running_profiles=running.get(name, 0),
                )
                for name, row in overview.machines.items()
            ],
            gologin=GoLoginUsageResponse(
                requests_per_minute=usage.per_minute,
                reserved=usage.reserved,
                wait_seconds=usage.wait_seconds,
                breaker=BreakerResponse.from_state(usage.breaker),
            ),
            apps=[AppHealth.from_row(name, row) for name, row in overview.apps.items()],
            webhooks=[FailingWebhook.from_row(row) for row in overview.webhooks],
            alarms=[
                AlarmResponse(name=row.name, since=row.changed_at, detail=row.detail)
                for row in overview.alarms
            ],
            workers=[WorkerRunResponse.from_row(row) for row in overview.runs],
        )
