"""Runs authorization sessions: as many at once as there are slots, each under its lease, through restarts."""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from app.clients.oauth.oauth2 import ProviderUser
from app.models import SessionStage
from app.services.authorizations.runs import SessionRuns
from app.services.automation import ProfileAutomator
from app.services.batches.pacing import BatchPacing
from app.services.gologin_service import GoLoginService
from app.services.interfaces import AuthorizationJob, PageEvidence, TokenSet
from app.services.queue.jobs import JobQueue
from app.services.shared.isolation import run_steps
from app.services.shared.leases import keep_alive
from app.services.workers.base import Worker
from app.services.workers.stage_recorder import StageRecorder, StageWriter
from app.utils.exceptions import (
    AppException,
    ConcurrentProfileLimitException,
    DatabaseUnavailableException,
    LeaseLostException,
    ProfileInUseException,
)
from app.utils.logger import get_logger
from app.utils.tasks import run_shielded, run_until

_BUSY: Final = (ProfileInUseException, ConcurrentProfileLimitException)
_BUSY_RETRY: Final = 1.0
"""Seconds until a session is looked at again whose profile runs for another one, or for which the fleet is full."""
_LOOKS_PER_LEASE: Final = 4
_ORPHANS_AT_STOP: Final = 1.0
"""Seconds for a left-over whose stop is under way when the service ends; another process takes it over."""
_STOPPING_SHARE: Final = 1 / 2
"""Share of the grace period that is kept for stopping the browsers of those that did not finish in time."""

_LEASE_LOOK: Final = 1.0
"""Seconds between two looks whether what runs here is still ours: a cancelled session's browser stops within two."""

log = get_logger(__name__)


@dataclass
class _Run:
    """One attempt that runs here; an `AttemptSink`."""

    job: AuthorizationJob
    runs: SessionRuns
    stages: StageRecorder
    stopping: asyncio.Event
    """Set when the worker stops."""
    task: "asyncio.Task[float | None] | None" = None
    evidence: PageEvidence | None = None
    """Page of the browser when the attempt failed there."""
    is_completed: bool = False
    """True when the session has ended: only the profile is still being stopped."""
    is_waiting: bool = False
    """True while it waits for a slot or for its turn to start: it has no browser."""
    is_ending: bool = False
    """True while its end is being written, with what follows from it."""

    def report_stage(self, stage: SessionStage) -> None:
        self.is_waiting = stage is SessionStage.WAITING_FOR_SLOT
        if self.is_waiting and self.stopping.is_set():
            self.interrupt()
        self.stages.report(stage)

    def keep_evidence(self, evidence: PageEvidence) -> None:
        self.evidence = evidence

    async def store_tokens(self, user: ProviderUser, tokens: TokenSet) -> None:
        progress = await self.stages.take()
        try:
            await self.runs.complete(self.job, user, tokens, progress=progress)
        except BaseException:
            self.stages.restore(progress)
            raise
        self.is_completed = True
        log.info("authorization.completed", scopes=tokens.scopes)
        await self.runs.note_limits(self.job, user)

    def interrupt(self) -> None:
        if self.task is not None:
            self.task.cancel()


class AuthorizationWorker(Worker):
    """`grace`: seconds from `stop()` to the end of `run()`, the stopping of browsers included."""

    name = "authorization"

    def __init__(
        self,
        *,
        runs: SessionRuns,
        batches: BatchPacing,
        automator: ProfileAutomator,
        gologin: GoLoginService,
        queue: JobQueue,
        lease_seconds: float,
        grace: float,
    ) -> None:
        super().__init__()
        self._runs = runs
        self._batches = batches
        self._automator = automator
        self._gologin = gologin
        self._queue = queue
        self._lease_seconds = lease_seconds
        self._grace = grace
        self._stages = StageWriter(runs)
        self._running: dict[str, _Run] = {}
        """Runs by lease token: one that lost its lease may still be stopping when its session runs again."""

    async def run(self) -> None:
        delivery = asyncio.create_task(self._queue.run(self.authorize))
        watch = asyncio.create_task(self._watch_leases())
        orphans = asyncio.create_task(self._stop_orphans())
        try:
            while not self._stop.is_set():
                await run_until(self._stop, self.reconcile())
                await self._pause(self._lease_seconds / _LOOKS_PER_LEASE)
                if delivery.done():
                    delivery.result()
        finally:
            await self._drain(delivery)
            for task in (watch, orphans):
                task.cancel()
            await asyncio.wait([watch, orphans], timeout=_ORPHANS_AT_STOP)

    def stop(self) -> None:
        """Deliver nothing more from now on, and start no profile for those that still wait for their turn."""
        super().stop()
        self._queue.stop()
        for run in self._running.values():
            if run.is_waiting:
                run.interrupt()

    async def authorize(self, session_id: str) -> float | None:
        """One session from its claim to its end. Returns seconds when it must be delivered again."""
        try:
            job = await self._runs.claim(session_id)
        except ProfileInUseException:
            return _BUSY_RETRY
        except (ConcurrentProfileLimitException, DatabaseUnavailableException):
            # The process waits, not the session: else each of those that wait would be tried each second.
            self._queue.pause(_BUSY_RETRY)
            return 0.0
        if job is None:
            return None
        run = _Run(job, self._runs, StageRecorder(self._stages, job), self._stop)
        with structlog.contextvars.bound_contextvars(
            request_id=job.request_id,
            session_id=job.session_id,
            profile_id=job.profile_id,
            account_id=job.account_id,
            api_app=job.api_app,
        ):
            # A task of its own, so that it can be interrupted without its delivery.
            run.task = asyncio.create_task(self._run_to_end(run))
        self._running[job.lease_token] = run
        try:
            await asyncio.wait([run.task])
        finally:
            del self._running[job.lease_token]
        return None if run.task.cancelled() else run.task.result()

    async def _run_to_end(self, run: "_Run") -> float | None:
        job = run.job

        async def renew() -> bool:
            return run.is_completed or await self._runs.renew(job)

        log.info("authorization.started")
        try:
            async with keep_alive(renew, seconds=self._lease_seconds):
                await self._automator.authorize_account(job, run)
        except asyncio.CancelledError:
            await run_shielded(self._release(run, reason="service_stopping"))
            raise
        except _BUSY as error:  # another session was first between our look and our try
            await self._release(run, reason=error.error_code)
            return _BUSY_RETRY
        except LeaseLostException:
            if not run.is_completed:
                log.warning("authorization.lease_lost")
        except AppException as error:
            return await self._fail(run, error)
        except Exception:
            log.exception("authorization.crashed")
            return await self._fail(run, AppException())
        return None

    async def _fail(self, run: "_Run", error: AppException) -> float | None:
        """Seconds until the next attempt, if there is one."""
        run.is_ending = True
        try:
            progress = await run.stages.take()
            again_in = await self._runs.fail(run.job, error, evidence=run.evidence, progress=progress)
        except LeaseLostException:
            log.warning("authorization.lease_lost")
            return None
        except DatabaseUnavailableException:  # the lease runs out, and the session is put back
            log.error("authorization.end_not_recorded", error_code=error.error_code, error=error.message)
            return None
        log.warning(
            "authorization.failed",
            error_code=error.error_code,
            error=error.message,
            next_attempt_in=None if again_in is None else round(again_in, 1),
        )
        return again_in

    async def _release(self, run: "_Run", *, reason: str) -> None:
        try:
            await self._runs.release(run.job, reason=reason, progress=await run.stages.take())
            log.info("authorization.released", reason=reason)
        except LeaseLostException:
            return  # it has ended, or another process has it
        except DatabaseUnavailableException:
            log.error("authorization.not_released", reason=reason)  # the lease runs out

    async def _watch_leases(self) -> None:
        """Interrupt what is not ours any more: its session was cancelled, timed out or taken over."""
        while True:
            await asyncio.sleep(_LEASE_LOOK)
            if jobs := [run.job for run in self._running.values() if not run.is_completed]:
                try:
                    lost_tokens = await self._runs.find_lost(jobs)
                except Exception as error:  # the database is away; each run's own heartbeat decides
                    log.warning("authorization.leases_not_seen", error=type(error).__name__)
                    continue
                for lease_token in lost_tokens & self._running.keys():
                    if not self._running[lease_token].is_ending:
                        self._running[lease_token].interrupt()

    async def _stop_orphans(self) -> None:
        """Stop orphaned browsers, beside the other work: a browser that does not go takes its time."""
        while True:
            try:
                await self._gologin.stop_orphans()
            except Exception as error:
                self._note_failure(error, step="stop_left_overs")
            else:
                self._note_success(step="stop_left_overs")
            await asyncio.sleep(self._lease_seconds / _LOOKS_PER_LEASE)

    async def reconcile(self) -> None:
        try:
            await self._batches.reconcile()
        except Exception as error:  # sessions wait for no batch but their own
            log.error("batch.not_looked_after", exc_info=error)
        steps = {
            "expired": self._runs.end_expired,
            "recovered": self._runs.recover_lost,
            "delivered": self._runs.deliver_waiting,
        }
        try:
            outcome = await run_steps(steps)
            if outcome.values.get("recovered"):
                log.warning(
                    "authorization.recovered",
                    sessions=outcome.values["recovered"],
                    waiting=outcome.values.get("delivered"),
                )
            outcome.raise_failure()
        except Exception as error:
            self._note_failure(error)
            return
        self._note_success()

    async def _drain(self, delivery: "asyncio.Task[None]") -> None:
        """No new work; let running ones end; then cancel them, which stops their browsers and frees their sessions."""
        self._queue.stop()
        for_stopping = self._grace * _STOPPING_SHARE
        await asyncio.wait([delivery], timeout=self._grace - for_stopping)
        for run in self._running.values():
            run.interrupt()
        await asyncio.wait([delivery], timeout=for_stopping)
        if self._running:
            log.error(
                "authorization.still_running",
                sessions=sorted(run.job.session_id for run in self._running.values()),
            )
        delivery.cancel()
        await asyncio.gather(delivery, return_exceptions=True)
