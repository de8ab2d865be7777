"""`GET /fleet`: what the monitor counted, and the state that is read at once."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from app import __version__
from app.models import (
    CredentialStatus,
    FleetReport,
    SessionStatus,
    WebhookEndpoint,
    WebhookStatus,
    utc_now,
)
from app.services.keys.service import Scope
from app.services.shared.access import AccessScope
from app.utils.exceptions import InvalidClientException
from tests.fixtures.api import Api, OpenApi, answered, refused
from tests.fixtures.factories import new_credential, new_profile, new_session
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


async def read(api: Api) -> Any:
    return answered(await api.client.get("/fleet"))


async def monitor(api: Api) -> None:
    assert await api.context.workers.get("monitor").run_once()


async def add(api: Api, *rows: Any) -> None:
    async with api.context.database.transaction() as db:
        db.add_all(rows)


async def test_fleet_before_the_first_count_says_so(api: Api):
    fleet = await read(api)
    assert (fleet["version"], fleet["counted_at"], fleet["counts"]) == (__version__, None, None)
    assert (fleet["accounts_by_state"], fleet["machines"], fleet["workers"]) == ({}, [], [])
    assert fleet["slots"] == {"running_profiles": 0, "fleet_limit": None}
    assert [app["api_app"] for app in fleet["apps"]] == sorted(api.context.settings.oauth_apps)
    assert fleet["gologin"]["reserved"] == 0


async def test_accounts_are_counted_by_state_app_and_reason(api: Api):
    now = utc_now()
    person = new_profile(account_id="person")
    await add(
        api,
        new_credential("whole"),
        new_credential(
            "late", token_expires_at=now - timedelta(hours=1), refresh_error_code="TWITTER_API_ERROR"
        ),
        new_credential("soon", token_expires_at=now + timedelta(minutes=5)),
        new_credential(
            "broken", status=CredentialStatus.REAUTHORIZATION_REQUIRED, refresh_error_code="INVALID_GRANT"
        ),
        new_credential("going", status=CredentialStatus.REVOKING),
        person,
        new_session(
            person, status=SessionStatus.NEEDS_ATTENTION, error_code="LOGIN_REQUIRED", completed_at=now
        ),
        new_profile(account_id="new"),
        new_profile(account_id="new_here", api_app="AIOTT1"),
    )
    await monitor(api)
    fleet = await read(api)
    assert fleet["accounts_by_state"] == {
        "working": 1,
        "expiring": 2,
        "broken": 2,
        "needs_person": 1,
        "never_authorized": 2,
    }
    counts = {
        (row["state"], row["api_app"], row["code"]): row["count"] for row in fleet["counts"]["accounts"]
    }
    assert counts == {
        ("working", "AIOTT1", None): 1,
        ("expiring", "AIOTT1", "TWITTER_API_ERROR"): 1,
        ("expiring", "AIOTT1", "TOKEN_EXPIRED"): 1,
        ("broken", "AIOTT1", "INVALID_GRANT"): 1,
        ("broken", "AIOTT1", "TOKEN_REVOKED"): 1,
        ("needs_person", "AIOTT1", "LOGIN_REQUIRED"): 1,
        ("never_authorized", None, "TOKEN_NOT_FOUND"): 1,
        ("never_authorized", "AIOTT1", "TOKEN_NOT_FOUND"): 1,
    }
    assert fleet["counts"]["tokens"] == {
        "expired": 1,
        "in_15_minutes": 1,
        "in_1_hour": 1,
        "in_24_hours": 2,
        "by_hour": [1, 1, *[0] * 22],
    }


async def test_queue_is_counted_with_the_time_it_needs(api: Api):
    now = utc_now()
    rows = [new_session(new_profile(), created_at=now - timedelta(minutes=20)) for _ in range(4)]
    rows.append(new_session(new_profile(), is_held=True))
    for status, code, minutes in (
        (SessionStatus.COMPLETED, None, 1),
        (SessionStatus.FAILED, "BROWSER_CRASHED", 14),
        (SessionStatus.TIMEOUT, "AUTH_TIMEOUT", 50),
        (SessionStatus.FAILED, "BROWSER_CRASHED", 70),
    ):
        ended = now - timedelta(minutes=minutes)
        rows.append(new_session(new_profile(), status=status, error_code=code, completed_at=ended))
    await add(api, *rows)
    await monitor(api)
    sessions = (await read(api))["counts"]["sessions"]
    oldest = datetime.fromisoformat(sessions.pop("oldest_waiting_at"))
    assert timedelta(minutes=20) <= utc_now() - oldest < timedelta(minutes=21)
    assert sessions == {
        "waiting": 4,
        "held": 1,
        "running": 0,
        "ended_last_hour": {"completed": 1, "failed": 1, "timeout": 1},
        "failures_last_hour": {"BROWSER_CRASHED": 1, "AUTH_TIMEOUT": 1},
        "drain_seconds": 5 * 900 / 2,
    }


async def test_live_state_needs_no_count(api: Api):
    await add(
        api,
        new_profile(in_use=True, lease_owner="m1:7:abc"),
        new_profile(in_use=True, lease_owner="m1:8:def"),
        new_profile(in_use=True, lease_owner="m2:late-start"),
        *(
            WebhookEndpoint(
                endpoint_id=name, name=name, url="https://h.example", event_types=[], api_apps=[],
                account_patterns=[], secret="x", after_xact_id=0, after_event_id=0, created_by="tests", **values,
            )
            for name, values in {
                "well": {},
                "failing": {"failing_since": utc_now()},
                "paused": {"status": WebhookStatus.PAUSED, "pause_reason": "HTTP 410"},
                "deleted": {"status": WebhookStatus.DELETED, "failing_since": utc_now()},
            }.items()
        ),
        FleetReport(name="machine:m1", counted_at=utc_now(), data=MACHINE),
    )  # fmt: skip
    context = api.context
    async with context.database.transaction() as db:
        for _ in range(context.settings.app_pause_after):
            await context.tokens.apps.count_failure(
                db, "AIOTT1", InvalidClientException(401, "invalid_client")
            )
        await context.tokens.apps.set_limit(db, "AIOTT2", seconds=60, reason="app")
    for _ in range(30):
        await context.fleet.gate.reserve()
    await context.fleet.gate.open_breaker("HTTP 429")
    fleet = await read(api)
    assert fleet["slots"] == {"running_profiles": 3, "fleet_limit": None}
    assert [(each["name"], each["running_profiles"]) for each in fleet["machines"]] == [("m1", 2)]
    assert [(each["id"], each["reason"]) for each in fleet["webhooks"]] == [
        ("failing", None),
        ("paused", "HTTP 410"),
    ]
    apps = {each["api_app"]: each for each in fleet["apps"]}
    assert "INVALID_CLIENT" in apps["AIOTT1"]["reason"]
    assert (apps["AIOTT2"]["paused_at"], apps["AIOTT2"]["limited_by"]) == (None, "app")
    gologin = fleet["gologin"]
    assert gologin["breaker"]["reason"] == "HTTP 429"
    assert 25 <= gologin["reserved"] <= 30
    assert gologin["wait_seconds"] > 0
    assert gologin["requests_per_minute"] == context.settings.gologin_requests_per_minute


MACHINE = {
    "process": "m1:7:abc", "version": "0", "max_concurrent_profiles": 3, "profile_starts_in_progress": 0,
    "profile_starts_limit": 3, "loop_lag_p99_ms": 0.1, "workers": [], "said_by_a_later_version": True,
}  # fmt: skip


@pytest.mark.databases("sqlite")
async def test_machines_report_their_slots_workers_and_heartbeat(open_api: OpenApi):
    async with open_api(machine_name="m1", max_concurrent_profiles=3) as api:
        await add(
            api,
            FleetReport(name="machine:gone", counted_at=utc_now() - timedelta(days=2), data=MACHINE),
        )

        async def has_reported() -> bool:
            fleet = await read(api)
            return [each["name"] for each in fleet["machines"]] == ["m1"] and bool(fleet["counts"])

        await eventually(has_reported)
        fleet = await read(api)
        (machine,) = fleet["machines"]
        assert (machine["name"], machine["max_concurrent_profiles"]) == ("m1", 3)
        assert machine["process"].startswith("m1:")
        assert {worker["name"] for worker in machine["workers"]} >= {"authorization", "refresh", "webhooks"}
        assert all(worker["alive"] for worker in machine["workers"])
        assert utc_now() - datetime.fromisoformat(machine["reported_at"]) < timedelta(minutes=1)
        assert "monitor:m1" in {each["name"] for each in fleet["workers"]}
        api.context.begin_shutdown()


@pytest.mark.databases("sqlite", "postgresql")
async def test_one_monitor_counts_for_all_machines(api: Api, open_api: OpenApi):
    await monitor(api)
    first = (await read(api))["counted_at"]
    async with open_api(workers=False, machine_name="other") as other:
        await monitor(other)
        fleet = await read(other)
    assert fleet["counted_at"] == first
    assert "other" in {machine["name"] for machine in fleet["machines"]}


@pytest.mark.databases("sqlite")
async def test_fleet_is_for_keys_of_its_scope_without_restrictions(api: Api):
    others = await api.key(*(set(Scope) - {Scope.FLEET_READ, Scope.ADMIN}), name="others")
    within = AccessScope.from_lists(["AIOTT1"], [])
    restricted = await api.key(Scope.FLEET_READ, name="restricted", access=within)
    assert Scope.FLEET_READ in refused(await api.client.get("/fleet", headers=others), 403, "FORBIDDEN")
    refused(await api.client.get("/fleet", headers=restricted), 403, "OUT_OF_REACH")
    answered(await api.client.get("/fleet", headers=await api.key(Scope.FLEET_READ)))
