"""Lists of the operators' page: a count and its noun agree in each."""

import pytest

from app.services.keys.service import Scope
from tests.fixtures.api import Api
from tests.fixtures.batches import new_batch
from tests.fixtures.dashboard import PageBrowser, shown_text
from tests.fixtures.factories import new_credential

pytestmark = pytest.mark.databases("sqlite")


async def test_list_of_one_row_says_so(api: Api, browser: PageBrowser):
    await new_batch(api.context, 1)
    async with api.context.database.transaction() as db:
        db.add(new_credential("alice"))
    await api.key(Scope.SESSIONS_READ)
    for name, noun in (
        ("sessions", "session"),
        ("accounts", "account"),
        ("profiles", "profile"),
        ("batches", "batch"),
        ("keys", "key"),
    ):
        text = shown_text(await browser.get(f"/ui/{name}"))
        assert f"1 {noun}, page 1" in text, name
