"""A reach is the same in Python and in a query, on both databases."""

import pytest
from sqlalchemy import select

from app.database import Database
from app.models import Event, EventType
from app.services.events import recorder
from app.services.shared.access import EVERYTHING, AccessScope

PLACES = [
    (account, app)
    for account in (None, "anna", "shop_1", "shop%1", "shopx1", "shop_", r"a\b", "a.b@c")
    for app in (None, "A1", "A2")
]
PATTERNS = ["*", "anna", "shop_*", "*_*", "*1", "s*p*", r"a\*", "a.*@c", "", "shop%*"]


@pytest.mark.parametrize("apps", [[], ["A1"], ["A1", "A3"]], ids=str)
async def test_query_finds_the_rows_that_the_scope_covers(database: Database, apps: list[str]):
    async with database.transaction() as db:
        for account, app in PLACES:
            recorder.record(db, EventType.BATCH_COMPLETED, account_id=account, api_app=app)
    reaches = [
        EVERYTHING,
        AccessScope.from_lists(apps, PATTERNS[1:3]),
        AccessScope.from_lists(apps, ["anna", "shop_"]),
    ]
    reaches += [AccessScope.from_lists(apps, [each]) for each in PATTERNS]
    async with database.reading() as db:
        for access in reaches:
            found = select(Event.account_id, Event.api_app).where(
                access.condition(Event.account_id, Event.api_app)
            )
            rows = [tuple(row) for row in await db.execute(found.order_by(Event.id))]
            assert rows == [place for place in PLACES if access.covers(*place)], access
