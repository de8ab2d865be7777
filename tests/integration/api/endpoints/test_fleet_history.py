"""`GET /fleet/history`: numbers of each step, in a bounded number of points."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from app.models import SessionStatus, utc_now
from app.services.keys.service import Scope
from tests.fixtures.api import Api, answered, refused
from tests.fixtures.costs import statements_of
from tests.fixtures.factories import new_profile, new_session

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


async def read(api: Api, **query: Any) -> Any:
    return answered(await api.client.get("/fleet/history", params=query))


async def end_and_count(api: Api) -> datetime:
    """Let two sessions end two minutes ago, and the monitor count them."""
    ended = utc_now() - timedelta(minutes=2)
    async with api.context.database.transaction() as db:
        db.add(new_session(new_profile(), status=SessionStatus.COMPLETED, completed_at=ended))
        failed = {"status": SessionStatus.FAILED, "error_code": "BROWSER_CRASHED"}
        db.add_all([profile := new_profile(), new_session(profile, completed_at=ended, **failed)])
    assert await api.context.workers.get("monitor").run_once()
    return ended


async def test_last_hour_comes_by_the_minute(api: Api):
    assert (await read(api))["points"] == []
    ended = await end_and_count(api)
    history = await read(api)
    assert history["step"] == 60
    points = {each["begins_at"]: each for each in history["points"]}
    assert 59 <= len(points) <= 61
    begin = ended.replace(second=0, microsecond=0).isoformat().replace("+00:00", "Z")
    point = points[begin]
    assert point["ended"] == {
        "completed": 1, "failed": 1, "timeout": 0, "cancelled": 0, "needs_attention": 0,
    }  # fmt: skip
    assert point["failures"] == {"BROWSER_CRASHED": 1}
    assert (point["sessions_per_minute"], point["success_rate"], point["minutes"]) == (2, 0.5, 1)
    last = history["points"][-1]
    assert (last["never_authorized"], last["waiting"], last["success_rate"]) == (1, 0, None)


@pytest.mark.databases("sqlite", "postgresql")
async def test_longer_time_comes_in_longer_steps(api: Api):
    await end_and_count(api)
    now = utc_now()
    day = await read(api, **{"from": (now - timedelta(days=1)).isoformat()})
    assert day["step"] == 300
    hour = await read(
        api, **{"from": (now - timedelta(days=1)).isoformat(), "to": now.isoformat(), "step": 3600}
    )
    assert len(hour["points"]) <= 2
    assert sum(each["ended"]["completed"] for each in hour["points"]) == 1
    assert sum(each["failures"].get("BROWSER_CRASHED", 0) for each in hour["points"]) == 1


@pytest.mark.databases("sqlite")
async def test_wrong_ranges_are_refused_with_what_to_do(api: Api):
    now = utc_now()
    wrong: dict[str, dict[str, Any]] = {
        "`from` must be earlier than `to`": {
            "from": now.isoformat(),
            "to": (now - timedelta(hours=1)).isoformat(),
        },
        "1500 points at most": {"from": (now - timedelta(days=2)).isoformat(), "step": 60},
        "multiple of 60": {"step": 90},
        "less than or equal to 86400": {"step": 86_460},
        "timezone": {"from": "2026-01-01T00:00:00"},
        "since": {"since": now.isoformat()},
    }
    for text, query in wrong.items():
        response = await api.client.get("/fleet/history", params=query)
        assert text in refused(response, 422, "INVALID_REQUEST"), (text, response.text)


@pytest.mark.databases("sqlite")
async def test_history_is_for_keys_of_the_fleet(api: Api):
    others = await api.key(*(set(Scope) - {Scope.FLEET_READ, Scope.ADMIN}), name="others")
    assert Scope.FLEET_READ in refused(
        await api.client.get("/fleet/history", headers=others), 403, "FORBIDDEN"
    )
    answered(await api.client.get("/fleet/history", headers=await api.key(Scope.FLEET_READ)))


async def test_statements_do_not_depend_on_the_range(api: Api):
    await end_and_count(api)
    counts = []
    for days in (0.04, 1, 90, 1000):
        query = {"from": (utc_now() - timedelta(days=days)).isoformat()}
        with statements_of(api.context.database) as seen:
            await read(api, **query)
        counts.append(len([text for text, _ in seen if "fleet_history" in text]))
    assert counts == [2, 2, 2, 2]
