"""A provider's own rule for handles, wherever accounts come in."""

from pathlib import Path

import pytest

from app.config import OAuthApp
from app.database import Database
from app.models import Credential
from tests.fixtures.api import OpenApi, answered, refused
from tests.fixtures.batches import add_accounts, count_rows
from tests.fixtures.key_lists import APP, store

SENTENCE = "account_id: must be a handle of Digits, by the provider's handle_rule: [0-9]{1,20}"


@pytest.mark.databases("sqlite")
async def test_a_handle_that_the_provider_cannot_have_is_refused(
    open_api: OpenApi, database: Database, tmp_path: Path
):
    path = tmp_path / "providers.toml"
    path.write_text("[digits]\nextends = 'x'\nname = 'Digits'\nhandle_rule = '[0-9]{1,20}'")
    app = {"client_id": "id", "redirect_uri": "http://localhost:8000/callback"}
    apps = {APP: OAuthApp(**app, provider="digits"), "OTHER": OAuthApp(**app)}
    await add_accounts(database, ["123", "ann"])
    async with open_api(workers=False, providers_file=path, oauth_apps=apps) as api:
        post = api.client.post
        bad, good, other = [
            await post("/authorize", json={"account_id": account, "api_app": api_app})
            for account, api_app in (("@Ann", APP), ("123", APP), ("ann", "OTHER"))
        ]
        assert refused(bad, 422, "INVALID_REQUEST") == SENTENCE
        answered(good, 202)
        answered(other, 202)
        rows = [{"account_id": account, "api_app": APP} for account in ("ann", "123")]
        batch = answered(await post("/authorize/batch", json=rows), 202)
        # The second row found its session, which a worker may have tried by now.
        assert [row["session_id"] for row in batch["rows"]] == [None, good.json()["data"]["session_id"]]
        assert [row["error"] for row in batch["rows"] if row["error_code"] == "INVALID_REQUEST"] == [SENTENCE]
        report = await store(api.context, ["ann", "123"])
        assert [(line.line, line.reason) for line in report.bad_lines] == [(1, SENTENCE)]
        assert (report.stored, await count_rows(database, Credential)) == (1, 1)
        api.context.begin_shutdown()
