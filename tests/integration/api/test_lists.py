"""`GET /authorize` as a list, and what all lists have in common: filters, order, pages, cursors."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.database import Database
from app.models import ProfileSync, SessionStatus, utc_now
from app.services.keys.service import Scope
from app.utils.crypto import generate_key
from tests.fixtures.api import Api, OpenApi, refused
from tests.fixtures.factories import AddRow, new_profile, new_session

LISTS = ["/authorize", "/accounts", "/profiles", "/profiles/sync", "/batches", "/keys"]


def page_of(response: httpx.Response) -> dict[str, Any]:
    answer: dict[str, Any] = response.json()
    assert response.status_code == 200, response.text
    assert answer["request_id"] == response.headers["X-Request-ID"]
    return answer


@pytest.fixture
async def three(add: AddRow) -> list[str]:
    """The ids of three sessions, the newest first."""
    now, alice = utc_now(), new_profile(account_id="alice")
    rows = [
        new_session(alice, status=SessionStatus.COMPLETED, created_at=now, completed_at=now, batch_id="b-1"),
        new_session(
            new_profile(account_id="bob"),
            created_at=now - timedelta(hours=1),
            status=SessionStatus.FAILED,
            error_code="AUTH_TIMEOUT",
            request_id="r-2",
        ),
        new_session(alice, created_at=now - timedelta(hours=2), api_app="AIOTT2", requested_by="billing"),
    ]
    for row in rows:
        row.not_before = now + timedelta(days=1)  # nobody starts it
    await add(*rows)
    return [row.session_id for row in rows]


async def test_sessions_are_filtered_and_sorted(api: Api, three: list[str]):
    soon = (utc_now() - timedelta(minutes=90)).isoformat()
    wanted: list[tuple[dict[str, str], list[int]]] = [
        ({}, [0, 1, 2]),
        ({"order": "asc"}, [2, 1, 0]),
        ({"account_id": "@Alice"}, [0, 2]),
        ({"api_app": "AIOTT2"}, [2]),
        ({"status": "failed"}, [1]),
        ({"error_code": "AUTH_TIMEOUT"}, [1]),
        ({"batch_id": "b-1"}, [0]),
        ({"request_id": "r-2"}, [1]),
        ({"requested_by": "billing"}, [2]),
        ({"since": soon}, [0, 1]),
        ({"until": soon}, [2]),
        ({"account_id": "alice", "status": "failed"}, []),
        ({"status": "failed", "api_app": "AIOTT1", "error_code": "AUTH_TIMEOUT"}, [1]),
        ({"status": "failed", "requested_by": "billing"}, []),
    ]
    for query, found in wanted:
        answer = page_of(await api.client.get("/authorize", params=query))
        assert [row["session_id"] for row in answer["data"]] == [three[number] for number in found], query
        assert (answer["total"], answer["next_cursor"]) == (len(found), None)


@pytest.mark.databases("sqlite")
async def test_a_session_in_a_list_is_that_of_its_own_address(api: Api, three: list[str]):
    listed = page_of(await api.client.get("/authorize"))["data"][0]
    alone = page_of(await api.client.get(f"/authorize/{three[0]}"))["data"]
    assert listed == {name: value for name, value in alone.items() if name in listed}
    assert set(alone) - set(listed) == {
        "queue_position",
        "queue_position_is_exact",
        "existing",
        "attempt_list",
    }


@pytest.mark.databases("sqlite")
async def test_a_key_without_the_scope_lists_nothing(api: Api):
    refused(await api.client.get("/authorize", headers=await api.key(Scope.PROFILES)), 403, "FORBIDDEN")


async def test_a_cursor_leads_through_the_list(api: Api, three: list[str]):
    query = {"page_size": "1"}
    seen, pages, cursor = [], [], {}
    while True:
        answer = page_of(await api.client.get("/authorize", params=query | cursor))
        seen += [row["session_id"] for row in answer["data"]]
        pages.append((answer["page"], answer["total"], answer["total_pages"]))
        if answer["next_cursor"] is None:
            break
        cursor = {"cursor": answer["next_cursor"]}
    assert seen == three
    assert pages == [(1, 3, 3), (2, 3, 3), (3, 3, 3)]


@pytest.mark.databases("sqlite")
async def test_a_cursor_of_another_list_filter_or_order_is_refused(api: Api, three: list[str]):
    cursor = page_of(await api.client.get("/authorize", params={"page_size": 1}))["next_cursor"]
    page_of(await api.client.get("/authorize", params={"cursor": cursor, "page_size": 2}))
    for path, query in (
        ("/authorize", {"status": "failed"}),
        ("/authorize", {"order": "asc"}),
        ("/profiles", {}),
        ("/batches", {}),
        ("/authorize", {"cursor": cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")}),
        ("/authorize", {"cursor": "ä"}),
        ("/authorize", {"cursor": ""}),
        ("/keys", {}),
    ):
        answer = await api.client.get(path, params={"cursor": cursor} | query)
        assert "begin without one" in refused(answer, 422, "INVALID_CURSOR")


@pytest.mark.databases("sqlite")
async def test_a_cursor_of_another_key_is_refused(api: Api, three: list[str]):
    """A cursor tells how many rows its key sees."""
    other = await api.key(*Scope, name="other")
    for name in ("one", "two"):  # an event each, so that there is a second page
        await api.client.post("/keys", json={"name": name, "scopes": ["events"]})
    for path in ("/authorize", "/events"):
        answer = page_of(await api.client.get(path, params={"page_size": 1}, headers=other))
        query = {"cursor": answer["next_cursor"]}
        page_of(await api.client.get(path, params=query, headers=other))
        refused(await api.client.get(path, params=query), 422, "INVALID_CURSOR")


@pytest.mark.databases("sqlite")
async def test_a_cursor_outlives_a_change_of_the_encryption_keys(open_api: OpenApi, three: list[str]):
    old, new = f"old:{generate_key()}", f"new:{generate_key()}"
    async with open_api(workers=False, encryption_keys=old) as api:
        cursor = page_of(await api.client.get("/authorize", params={"page_size": 1}))["next_cursor"]
    async with open_api(workers=False, encryption_keys=f"{new},{old}") as api:
        page_of(await api.client.get("/authorize", params={"cursor": cursor}))
    async with open_api(workers=False, encryption_keys=new) as api:
        refused(await api.client.get("/authorize", params={"cursor": cursor}), 422, "INVALID_CURSOR")


@pytest.mark.databases("sqlite")
async def test_unknown_query_of_a_list_is_refused(api: Api):
    for path in LISTS:
        for query, words in (
            ({"page": 0}, "query.page: Input should be greater than or equal to 1"),
            ({"page_size": 501}, "query.page_size: Input should be less than or equal to 500"),
            ({"colour": "red"}, "query.colour: Extra inputs are not permitted"),
            ({"page": "9" * 5000}, "query.page: "),
        ):
            assert words in refused(await api.client.get(path, params=query), 422, "INVALID_REQUEST")
        assert page_of(await api.client.get(path))["next_cursor"] is None


async def test_syncs_are_listed_the_newest_first(api: Api, database: Database):
    async with database.transaction() as db:
        db.add_all([ProfileSync(sync_id=f"s-{number}", requested_by="tests") for number in range(3)])
    found = page_of(await api.client.get("/profiles/sync", params={"page_size": 2}))
    assert [row["sync_id"] for row in found["data"] if row["requested_by"] == "tests"][:1] == ["s-2"]
    rest = page_of(await api.client.get("/profiles/sync", params={"cursor": found["next_cursor"]}))
    listed = [row["sync_id"] for row in found["data"] + rest["data"] if row["requested_by"] == "tests"]
    assert listed == ["s-2", "s-1", "s-0"]


async def test_a_session_with_a_time_that_python_cannot_hold_is_listed_with_the_others(
    api: Api, three: list[str], database: Database
):
    """An older version left such a row in PostgreSQL, and the list failed for everybody."""
    absurd = "9999-12-31 23:59:59.999999" if database.is_sqlite else "58879-01-01 00:00:00+00"
    update = f"UPDATE authorization_sessions SET not_before = '{absurd}' WHERE session_id = '{three[2]}'"
    async with database.transaction() as db:
        await db.execute(text(update))
    rows = page_of(await api.client.get("/authorize"))["data"]
    assert [row["session_id"] for row in rows] == three
    assert rows[2]["not_before"].startswith("9999-12-31T23:59:59")
    one = await api.client.get(f"/authorize/{three[2]}")
    assert one.status_code == 200
