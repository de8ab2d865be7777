"""A threshold is told once when it is crossed and once on the way back."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select

from app.database import Database
from app.models import AuthorizationSession, CredentialStatus, Event, SessionStatus, utc_now
from app.services.operations.alarms import AlarmService, Reading
from app.services.operations.counts import count_fleet
from tests.fixtures.factories import new_profile, new_session
from tests.fixtures.services import OpenContext

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


async def told(database: Database) -> list[tuple[str, str]]:
    async with database.reading() as db:
        events = await db.scalars(
            select(Event).where(Event.event_type.startswith("alarm.")).order_by(Event.id)
        )
        return [(event.event_type, event.data["alarm"]) for event in events]


@pytest.mark.databases("sqlite", "postgresql")
async def test_change_is_recorded_once_and_a_state_not_at_all(database: Database):
    alarms = AlarmService(database=database)
    for is_active in (False, True, True, False, False, True):
        await alarms.update({"slots": Reading(is_active, "3 of 2")})
    assert await told(database) == [
        ("alarm.raised", "slots"),
        ("alarm.cleared", "slots"),
        ("alarm.raised", "slots"),
    ]
    assert [alarm.name for alarm in await alarms.active()] == ["slots"]


@pytest.mark.databases("sqlite", "postgresql")
async def test_one_of_several_processes_records_the_alarm(database: Database):
    reading = {"slots": Reading(True, "3 of 2")}
    await asyncio.gather(*(AlarmService(database=database).update(reading) for _ in range(5)))
    assert await told(database) == [("alarm.raised", "slots")]


@pytest.fixture
async def fleet(database: Database) -> None:
    async with database.transaction() as db:
        profile = new_profile()
        db.add_all([profile, new_profile(is_active=False), new_profile(quarantined_at=utc_now())])
        db.add(new_session(profile, created_at=utc_now() - timedelta(minutes=20)))
        db.add(new_session(profile, status=SessionStatus.IN_PROGRESS, is_forced=True))
        for minutes in (1, 59, 61):
            ended = utc_now() - timedelta(minutes=minutes)
            db.add(new_session(profile, status=SessionStatus.FAILED, completed_at=ended))


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.usefixtures("fleet")
async def test_the_fleet_is_counted(database: Database):
    counts = await count_fleet(database)
    assert (counts.active_profiles, counts.quarantined_profiles) == (2, 1)
    assert (counts.pending_authorizations, counts.running_authorizations) == (1, 1)
    assert counts.failures_last_hour == 2
    assert 1200 <= counts.oldest_waiting_seconds < 1300
    assert counts.credentials.get(CredentialStatus.ACTIVE, 0) == 0


@pytest.mark.usefixtures("fleet")
async def test_the_monitor_raises_and_clears(database: Database, open_services: OpenContext):
    limits = {"alarm_waiting_seconds": 600, "alarm_failures_per_hour": 1, "alarm_pending": 1}
    async with open_services(**limits) as context:
        monitor = context.workers.get("monitor")
        assert await monitor.run_once()
        assert await monitor.run_once()
        raised = {
            ("alarm.raised", name)
            for name in ("waiting_too_long", "too_many_failures", "quarantined_profiles")
        }
        assert set(await told(database)) == raised
        async with database.transaction() as db:
            for row in await db.scalars(select(AuthorizationSession)):
                row.status, row.completed_at = SessionStatus.COMPLETED, utc_now()
        assert await monitor.run_once()
        assert ("alarm.cleared", "waiting_too_long") in await told(database)
        assert ("alarm.cleared", "too_many_failures") in await told(database)


async def test_a_leaked_slot_is_an_alarm_on_the_second_look(database: Database, open_services: OpenContext):
    async with open_services(machine_name="m1") as context:
        monitor = context.workers.get("monitor")
        context.fleet.gologin._running.add("f" * 24)
        await monitor.run_once()
        assert await told(database) == []
        await monitor.run_once()
        assert await told(database) == [("alarm.raised", "slot_leak:m1")]


async def test_an_open_breaker_is_an_alarm(database: Database, open_services: OpenContext):
    async with open_services() as context:
        await context.fleet.gate.acquire()
        await context.fleet.gate.open_breaker("HTTP 429")
        await context.workers.get("monitor").run_once()
    assert await told(database) == [("alarm.raised", "gologin_breaker_open")]
