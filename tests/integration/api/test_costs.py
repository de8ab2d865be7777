"""Requests on PostgreSQL cost the same, however many sessions wait: number of statements, pages read, plans."""

from collections.abc import AsyncIterator

import pytest_asyncio
from sqlalchemy import text

from app.services.authorizations.waiting import MAX_EXACT_POSITION
from benchmarks.waiting_rows import add_profiles, add_waiting, analyze
from tests.fixtures.api import Api, answered, opener
from tests.fixtures.costs import Statement, explained
from tests.fixtures.factories import new_profile
from tests.fixtures.settings import MakeSettings

MANY = 40_000
ATTEMPTS = """
INSERT INTO authorization_attempts (session_id, number, started_at)
SELECT 's' || n, 1, now() FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
"""


@pytest_asyncio.fixture
async def api(make_settings: MakeSettings, postgresql_url: str, no_retries: None) -> AsyncIterator[Api]:
    async with opener(make_settings, postgresql_url)(workers=False) as opened:
        yield opened


async def fill(api: Api, first: int, last: int) -> None:
    async with api.context.database.transaction() as db:
        await add_profiles(db, first, last)
        await add_waiting(db, first, last)
        await db.execute(text(ATTEMPTS), {"first": first, "last": last})
    await analyze(api.context.database)


async def cheapest_requests(api: Api, name: str) -> tuple[list[Statement], list[Statement]]:
    """The statements of a POST and a GET of a new session, of several: the first ones also read the catalogue."""
    accounts = [f"{name}_{number}" for number in range(4)]
    async with api.context.database.transaction() as db:
        db.add_all(new_profile(account_id=account) for account in accounts)
    posts, gets = [], []
    for account in accounts:
        with explained(api.context.database) as post:
            answer = await api.client.post("/authorize", json={"account_id": account, "api_app": "AIOTT1"})
        with explained(api.context.database) as get:
            answered(await api.client.get(f"/authorize/{answered(answer, 202)['session_id']}"))
        posts.append(post)
        gets.append(get)
    return min(posts[1:], key=pages), min(gets[1:], key=pages)


def pages(statements: list[Statement]) -> int:
    return sum(each.pages for each in statements)


async def test_post_and_get_cost_the_same_with_many_sessions_waiting(api: Api):
    await fill(api, 1, 40)
    few = await cheapest_requests(api, "few")
    await fill(api, 41, MANY)
    many = await cheapest_requests(api, "many")
    for before, after in zip(few, many, strict=True):
        assert [each.text for each in before] == [each.text for each in after]
        assert {name for each in after for name in each.scanned} == set()
        # The indexes are two pages deeper. A walk over the queue would read hundreds.
        assert pages(after) <= 2 * pages(before) + 10
    post, get = many
    assert (len(post), len(get)) == (6, 4)


async def test_position_says_when_it_is_not_exact(api: Api):
    await fill(api, 1, MAX_EXACT_POSITION - 1)
    async with api.context.database.transaction() as db:
        db.add_all(new_profile(account_id=f"a{number}") for number in range(3))
    seen = []
    for number in range(3):
        answer = await api.client.post("/authorize", json={"account_id": f"a{number}", "api_app": "AIOTT1"})
        seen.append(answered(answer, 202))
    positions = [(each["queue_position"], each["queue_position_is_exact"]) for each in seen]
    assert positions == [(200, True), (201, False), (201, False)]
