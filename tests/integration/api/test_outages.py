"""A database that cannot be used is said to be so: 503 with what to do, one log line, and it goes on afterwards."""

from collections.abc import Callable
from typing import Any

import pytest
import structlog
from sqlalchemy import event

from app.context import Context
from tests.fixtures.api import OpenApi, answered, refused
from tests.fixtures.factories import AddRow

pytestmark = pytest.mark.databases("sqlite")

BODY = {"account_id": "alice", "api_app": "AIOTT1"}


def limit_size(context: Context) -> Callable[[int], None]:
    """SQLite's own limit of pages stands for the disk; 1 is "as large as it is now"."""
    pages = 1_000_000

    def on_checkout(connection: Any, *_: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count={pages}")
        cursor.close()

    def limit(to: int) -> None:
        nonlocal pages
        pages = to

    event.listen(context.database.engine.sync_engine, "checkout", on_checkout)
    return limit


async def test_a_full_disk_is_named_and_nothing_is_lost(open_api: OpenApi, add_profile: AddRow):
    for number in range(40):
        await add_profile(account_id=f"a{number}", profile_metadata={"notes": "x" * 2000})
    await add_profile(account_id="alice")
    with structlog.testing.capture_logs() as lines:
        async with open_api() as api:
            kept = answered(await api.client.post("/authorize", json=BODY), 202)["session_id"]
            limit = limit_size(api.context)
            limit(1)
            answers = [
                await api.client.post("/authorize", json={**BODY, "account_id": f"a{number}"})
                for number in range(40)
            ]
            full = [answer for answer in answers if answer.status_code == 503]
            assert full
            assert {answer.status_code for answer in answers} <= {202, 503}
            for answer in full:
                assert "disk is full; make room" in refused(answer, 503, "DATABASE_UNAVAILABLE")
                assert int(answer.headers["Retry-After"]) > 0
            assert answered(await api.client.get(f"/authorize/{kept}"))["session_id"] == kept

            limit(1_000_000)
            for number, answer in enumerate(answers):
                again = await api.client.post("/authorize", json={**BODY, "account_id": f"a{number}"})
                assert again.status_code in (200, 202)
                if answer.status_code == 202:
                    session = answer.json()["data"]["session_id"]
                    assert answered(await api.client.get(f"/authorize/{session}"))["session_id"] == session
            api.context.begin_shutdown()
    outages = [line for line in lines if line["event"] == "database.unavailable"]
    assert 1 <= len(outages) <= 3  # not one a request
    assert not [line for line in lines if line["event"] == "http.crashed"]


async def test_service_without_a_free_connection_answers_with_retry_after(
    open_api: OpenApi, monkeypatch: pytest.MonkeyPatch
):
    async with open_api(database_pool_size=1) as api:
        monkeypatch.setattr(api.context.database.engine.sync_engine.pool, "_timeout", 0.05)
        async with api.context.database.reading():
            sentence = refused(await api.client.post("/authorize", json=BODY), 503, "DATABASE_UNAVAILABLE")
        assert "busy" in sentence
        api.context.begin_shutdown()
