"""Imported tokens beside a service that stores some itself."""

import asyncio
from contextlib import suppress

import pytest
from sqlalchemy import text

from app.database import Database
from app.models import Credential, utc_now
from app.services.tokens.importer import csv_entries
from app.utils.exceptions import InvalidRequestException
from tests.fixtures.batches import count_rows
from tests.fixtures.factories import new_tokens
from tests.fixtures.key_lists import APP, fill, store, token_import
from tests.fixtures.services import OpenContext
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


@pytest.mark.databases("sqlite", "postgresql")
async def test_two_imports_at_once_store_each_account_once(open_services: OpenContext):
    accounts = [f"filled_{number:05}" for number in range(600)]
    async with open_services() as first, open_services() as second:
        reports = await asyncio.gather(store(first, accounts), store(second, accounts))
        assert sum(report.stored for report in reports) == 600
        assert sum(len(report.skipped) for report in reports) == 600
        assert await count_rows(first.database, Credential) == 600


@pytest.mark.databases("postgresql")
async def test_two_imports_in_opposite_order_do_not_wait_for_each_other(open_services: OpenContext):
    """Each would hold half of what the other needs once the row between them is free."""
    accounts = ["anna", "berta", "clara"]
    async with open_services() as context, open_services() as other:
        with suppress(_GivenUp):
            async with context.database.transaction() as db:
                values = context.tokens.credentials.current_columns("berta", APP, new_tokens(), utc_now())
                db.add(Credential(account_id="berta", api_app=APP, provider_user_id="1", **values))
                await db.flush()
                imports = asyncio.gather(store(context, accounts), store(other, accounts[::-1]))
                await until_waiting(context.database, 2)
                raise _GivenUp
        reports = await imports
    assert sum(report.stored for report in reports) == 3


class _GivenUp(Exception):
    pass


async def until_waiting(database: Database, wanted: int) -> None:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    async def are_waiting() -> bool:
        async with database.reading() as db:
            return bool(await db.scalar(query) == wanted)

    await eventually(are_waiting)


async def test_an_account_that_is_there_twice_is_a_bad_line(open_services: OpenContext):
    async with open_services() as context:
        await fill(context, 1)
        report = await store(context, ["anna", "filled_00000", "ANNA"])
    assert report.stored == 1
    assert [(told.line, told.reason) for told in report.skipped] == [(2, "has tokens already; skipped")]
    assert [(told.line, told.reason) for told in report.bad_lines] == [
        (3, "the same account and app as in 1")
    ]


async def test_entries_before_one_that_cannot_be_read_are_stored(open_services: OpenContext):
    lines = ["account_id,api_app,access_token\n", f"anna,{APP},a\n", "x" * 200_000]
    async with open_services() as context:
        with pytest.raises(InvalidRequestException, match=r"after line 2: .*; 1 stored before it"):
            await token_import(context).run(csv_entries(lines), actor="tests")
        assert await count_rows(context.database, Credential) == 1
