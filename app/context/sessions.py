"""Authorization sessions: asked for alone or in batches, queued, and run in browsers."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from app.config import Settings
from app.context.fleet import Fleet
from app.context.tokens import Tokens
from app.database import Database
from app.models import ConsentMode
from app.services.authorizations.bulk import SessionActions
from app.services.authorizations.requests import RequestLimits
from app.services.authorizations.runs import RunLimits, SessionRuns
from app.services.authorizations.service import AuthorizationService
from app.services.authorizations.waiters import SessionWaiters
from app.services.authorizations.waiting import WaitingCount
from app.services.automation import BrowserController, ProfileAutomator
from app.services.batches.pacing import BatchPacing
from app.services.batches.service import BatchLimits, BatchService
from app.services.browser.chromedriver import ChromeDrivers
from app.services.browser.live_tabs import LiveTabs
from app.services.interfaces import BrowserTimeouts
from app.services.queue.jobs import JobQueue


@dataclass(frozen=True)
class Sessions:
    queue: JobQueue
    waiters: SessionWaiters
    pacing: BatchPacing
    authorizations: AuthorizationService
    actions: SessionActions
    batches: BatchService
    runs: SessionRuns
    automator: ProfileAutomator


def build_sessions(
    settings: Settings,
    database: Database,
    fleet: Fleet,
    tokens: Tokens,
    tabs: LiveTabs,
    owner: str,
    stack: AsyncExitStack,
) -> Sessions:
    queue = _queue(settings, database)
    stack.push_async_callback(queue.close)
    waiters = SessionWaiters()
    pacing = BatchPacing(database=database, queue=queue, waiters=waiters)
    stack.push_async_callback(pacing.close)
    waiting = WaitingCount(database=database, ceiling=settings.max_waiting)
    stack.push_async_callback(waiting.close)
    authorizations = AuthorizationService(
        database=database,
        directory=fleet.directory,
        oauth=tokens.oauth,
        apps=tokens.apps,
        on_session_ended=pacing.session_ended,
        queue=queue,
        waiters=waiters,
        waiting=waiting,
        limits=RequestLimits(
            lifetime=settings.session_lifetime,
            max_attempts=settings.max_attempts,
        ),
        consent=ConsentMode(settings.consent_mode),
    )
    stack.push_async_callback(authorizations.close)
    actions = SessionActions(
        authorizations=authorizations,
        apps=tokens.apps,
        queue=queue,
        waiters=waiters,
        on_session_ended=pacing.session_ended,
    )
    runs = SessionRuns(
        database=database,
        gologin=fleet.gologin,
        credentials=tokens.credentials,
        apps=tokens.apps,
        on_session_ended=pacing.session_ended,
        queue=queue,
        waiters=waiters,
        limits=RunLimits(
            max_running=settings.session_max_running,
            lease=settings.lease_seconds,
            retry_wait=settings.retry_wait,
        ),
        owner=owner,
    )
    batches = _batches(settings, authorizations, fleet, tokens, pacing)
    automator = _automator(settings, fleet, tokens, tabs, stack)
    return Sessions(queue, waiters, pacing, authorizations, actions, batches, runs, automator)


def _queue(settings: Settings, database: Database) -> JobQueue:
    attended_limit = settings.attended_max_running
    if settings.is_sqlite:
        # A process that is alone keeps a slot for those that need nobody, when it has more than one.
        attended_limit = min(attended_limit, max(1, settings.max_concurrent_profiles - 1))
    return JobQueue(
        database=database,
        slots=settings.max_concurrent_profiles,
        attended_limit=attended_limit,
        heartbeat_timeout=settings.lease_seconds,
    )


def _batches(
    settings: Settings,
    authorizations: AuthorizationService,
    fleet: Fleet,
    tokens: Tokens,
    pacing: BatchPacing,
) -> BatchService:
    return BatchService(
        authorizations=authorizations,
        oauth=tokens.oauth,
        directory=fleet.directory,
        apps=tokens.apps,
        pacing=pacing,
        limits=BatchLimits(
            max_running=settings.batch_max_running,
            stop_percent=settings.batch_stop_percent,
            stop_window=settings.batch_stop_window,
            max_rows=settings.max_batch_rows,
        ),
    )


def _automator(
    settings: Settings, fleet: Fleet, tokens: Tokens, tabs: LiveTabs, stack: AsyncExitStack
) -> ProfileAutomator:
    drivers = ChromeDrivers(path=settings.chromedriver_path)
    stack.push_async_callback(drivers.close)
    timeouts = BrowserTimeouts(
        attach=settings.browser_attach_timeout,
        page_load=settings.page_load_timeout,
        consent_button=settings.consent_button_timeout,
        callback=settings.callback_timeout,
        person=settings.attended_timeout,
    )
    automator = ProfileAutomator(
        gologin=fleet.gologin,
        browser=BrowserController(
            max_screenshot_bytes=settings.evidence_max_screenshot_bytes, live_tabs=tabs
        ),
        oauth=tokens.oauth,
        drivers=drivers,
        max_concurrent=settings.max_concurrent_profiles,
        timeout=settings.authorization_timeout,
        timeouts=timeouts,
    )
    stack.callback(automator.close)
    return automator
