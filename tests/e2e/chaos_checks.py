"""Checks after the chaos: whether every session had one true end, and nothing runs on."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from app.database import Database
from app.models import AuthorizationAttempt, AuthorizationSession, Credential, Event, Profile, SessionStatus
from app.services.tokens.vault import CredentialVault
from app.utils.exceptions import AppException
from sandbox.demo.service_process import ServiceProcess
from tests.e2e.chaos import Record, RequestedSession
from tests.e2e.harness import APP, ServiceHarness
from tests.e2e.processes import children_named, is_alive, processes_with
from tests.fixtures.histories import problems_of
from tests.fixtures.waiting import eventually

_ACCEPTABLE_ANSWERS = ("200 None", "202 None", "503 DATABASE_UNAVAILABLE", "503 SERVICE_STOPPING")


class DatabaseState:
    """Everything in the database, read once."""

    def __init__(self) -> None:
        self.sessions: dict[str, AuthorizationSession] = {}
        self.events: dict[str, list[Event]] = defaultdict(list)
        self.attempts: dict[str, list[AuthorizationAttempt]] = defaultdict(list)
        self.credentials: dict[str, Credential] = {}


async def read(database: Database) -> DatabaseState:
    found = DatabaseState()
    async with database.reading() as db:
        for row in await db.scalars(select(AuthorizationSession)):
            found.sessions[row.session_id] = row
        for event in await db.scalars(select(Event).where(Event.session_id.is_not(None)).order_by(Event.id)):
            found.events[event.session_id or ""].append(event)
        for attempt in await db.scalars(select(AuthorizationAttempt).order_by(AuthorizationAttempt.number)):
            found.attempts[attempt.session_id].append(attempt)
        for credential in await db.scalars(select(Credential)):
            found.credentials[credential.account_id] = credential
    return found


async def find_problems(
    harness: ServiceHarness, processes: Sequence[ServiceProcess], record: Record
) -> tuple[list[str], DatabaseState]:
    """Every untruth found; none is what a test wants."""
    problems = await _left_behind(harness, processes, record)
    problems += [f"logged {line['event']}" for process in processes for line in _crashes(process)]
    database = Database(harness.environment["DATABASE_URL"], pool_size=2)
    try:
        found = await read(database)
        problems += _unasked(record.asked, found)
        for asked in record.asked:
            name = f"{asked.account} ({asked.session_id})"
            problems += [
                f"{name}: {problem}"
                for problem in await _problems_of_session(harness, database, asked, found)
            ]
    finally:
        await database.close()
    if reused := (await harness.admin.stats()).codes_reused:
        problems.append(f"{reused} codes were presented twice")
    return problems, found


def table(record: Record, found: DatabaseState) -> str:
    """For people."""
    ends = Counter(
        f"{row.status} {row.error_code or ''}".strip()
        for row in (found.sessions[asked.session_id] for asked in record.asked)
    )
    attempts = Counter(len(found.attempts[asked.session_id]) for asked in record.asked)
    codes = Counter(
        attempt.error_code for asked in record.asked for attempt in found.attempts[asked.session_id]
    )
    longest, kind = _longest_recovery(record, found)
    rows: list[tuple[str, Any]] = [
        ("sessions", len(record.asked)),
        *((f"  ended {end}", count) for end, count in ends.most_common()),
        *((f"  with {number} attempts", count) for number, count in sorted(attempts.items())),
        *((f"  attempts that ended {code or 'well'}", count) for code, count in codes.most_common()),
        *((what, count) for what, count in sorted(record.done.items()) if not what.startswith("fault")),
        ("faults set", sum(count for what, count in record.done.items() if what.startswith("fault"))),
        ("seconds", f"{record.seconds:.0f}"),
        ("longest recovery, seconds", f"{longest:.1f} after {kind}"),
    ]
    return "\n".join(f"{name:<40}{value:>12}" for name, value in rows)


def _longest_recovery(record: Record, found: DatabaseState) -> tuple[float, str]:
    """From a blow to the next event of a session that it met in progress."""
    longest = (0.0, "nothing")
    for events in found.events.values():
        for kind, at in record.struck_at:
            before = [event for event in events if event.occurred_at.timestamp() <= at]
            after = [event for event in events if event.occurred_at.timestamp() > at]
            running = before and before[-1].event_type in ("authorization.started", "authorization.stage")
            if running and after:
                longest = max(longest, (after[0].occurred_at.timestamp() - at, kind))
    return longest


async def _left_behind(
    harness: ServiceHarness, processes: Sequence[ServiceProcess], record: Record
) -> list[str]:
    """Browsers, drivers, leases and slots follow the sessions' ends, so they are waited for."""
    assert harness.sandbox.data_dir is not None
    folder = str(harness.sandbox.data_dir)

    async def left() -> list[str]:
        found = [f"browser of {browser.account}" for browser in await harness.admin.browsers()]
        found += [
            f"process {pid} in a profile" for pid in processes_with(folder) if pid != harness.sandbox.pid
        ]
        found += [f"lease on profile {profile_id}" for profile_id in await _held_profiles(harness)]
        return found + await _slots(harness)

    async def nothing_left() -> bool:
        return not await left()

    try:
        await eventually(nothing_left, 60)
    except AssertionError:
        return await left()
    ours = [driver for process in processes for driver in children_named(process.pid, "chromedriver")]
    return [
        f"chromedriver {driver.pid}"
        for driver in record.drivers
        if driver.pid not in ours and driver.is_running() and is_alive(driver.pid)
    ]


async def _slots(harness: ServiceHarness) -> list[str]:
    report = (await harness.call("GET", "/health/ready")).json()["data"]
    running = report["running_profiles"]
    return ([f"{running} slots"] if running else []) + ([] if report["ready"] else ["not ready"])


async def _held_profiles(harness: ServiceHarness) -> list[str]:
    async with harness.reading() as db:
        held = select(Profile.profile_id).where(
            Profile.in_use | Profile.lease_token.is_not(None) | Profile.quarantined_at.is_not(None)
        )
        return list(await db.scalars(held))


def _crashes(process: ServiceProcess) -> list[dict[str, Any]]:
    crashed = ("http.crashed", "authorization.crashed", "worker.died", "worker.cancelled")
    return [line for line in process.log_lines() if line["event"] in crashed]


def _unasked(asked: Sequence[RequestedSession], found: DatabaseState) -> list[str]:
    known = {each.session_id for each in asked}
    return [f"session {session_id} was never asked for" for session_id in found.sessions.keys() - known]


async def _problems_of_session(
    harness: ServiceHarness, database: Database, asked: RequestedSession, found: DatabaseState
) -> list[str]:
    row = found.sessions.get(asked.session_id)
    if row is None:
        return ["was accepted and is lost"]
    problems = problems_of(row, found.events[row.session_id], found.attempts[row.session_id])
    if not row.status.is_final:
        problems.append(f"is still {row.status}")
    if row.error_code not in asked.fits:
        problems.append(f"ended with {row.error_code}: {row.error_message}; fitting are {asked.fits}")
    strange = [
        answer for answer in asked.answers if answer[0].isdigit() and answer not in _ACCEPTABLE_ANSWERS
    ]
    problems += [f"the POST was answered {answer}" for answer in strange]
    return problems + await _problems_of_tokens(
        harness, database, asked, row, found.credentials.get(asked.account)
    )


async def _problems_of_tokens(
    harness: ServiceHarness,
    database: Database,
    asked: RequestedSession,
    row: AuthorizationSession,
    credential: Credential | None,
) -> list[str]:
    usable = [grant for grant in await harness.admin.grants(asked.account) if grant.usable]
    if row.status is not SessionStatus.COMPLETED:
        return [] if credential is None else ["has tokens and was not completed"]
    if credential is None or credential.version != 1 or len(usable) != 1:
        return [
            f"completed, with {credential and credential.version} sets of tokens and {len(usable)} grants"
        ]
    credentials = CredentialVault(key_ring=harness.settings.key_ring)
    try:
        async with database.reading() as db:
            tokens = await credentials.load_tokens(db, asked.account, APP)
    except AppException as error:
        return [f"its tokens cannot be read: {error.message}"]
    owner = await harness.owner(tokens.access_token.get_secret_value())
    return [] if owner == asked.account else [f"its tokens speak for {owner}"]
