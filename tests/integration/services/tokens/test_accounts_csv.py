"""Accounts as a table for people, who open it in a spreadsheet."""

import csv
import io

import pytest

from app.database import Database
from app.models import Credential
from app.services.tokens import accounts_csv


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("user_id", ["=1+1", "+7", "-7", "@7", "\t=1"])
async def test_an_export_of_accounts_holds_no_formulas(database: Database, user_id: str):
    """The provider's user id is text of others."""
    async with database.transaction() as db:
        db.add(
            Credential(account_id="alice", api_app="A", provider_user_id=user_id, access_token="x", scopes=[])
        )
    file = io.StringIO()
    assert await accounts_csv.export(database, file) == 1
    (row,) = csv.DictReader(io.StringIO(file.getvalue()))
    assert (row["account_id"], row["provider_user_id"]) == ("alice", f"'{user_id}")
