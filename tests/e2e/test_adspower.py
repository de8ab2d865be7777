"""The whole job with the other profile browser: only the settings differ."""

import secrets
from pathlib import Path

import pytest

from app.models import Profile
from sandbox.process import SandboxProcess
from tests.e2e.harness import ServiceHarness, open_harness

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOBODY = "http://127.0.0.1:9"


async def assert_stored(harness: ServiceHarness, account: str) -> None:
    row, tokens = await harness.credential(account), await harness.tokens(account)
    assert row is not None
    secret = tokens.access_token.get_secret_value()
    assert secret not in row.access_token
    assert await harness.owner(secret) == account


@pytest.mark.long
async def test_accounts_are_authorised_through_adspower(folder: Path):
    """Its app answers two calls a second at most; GoLogin is not there at all."""
    own = folder / secrets.token_hex(4)
    async with SandboxProcess(accounts=5, data_dir=own / "profiles") as sandbox:
        await sandbox.admin.change_settings(adspower_spacing_ms=500)
        changes = {
            "profile_browser": "adspower",
            "adspower_url": sandbox.info.adspower_url,
            "gologin_api_url": NOBODY,
            "gologin_local_url": NOBODY,
        }
        async with open_harness(sandbox, own, **changes) as harness:
            assert await harness.count(Profile) == 5
            account, unsaved = sandbox.info.accounts[:2]
            session = await harness.authorize(account)
            assert (session["status"], session["error"]) == ("completed", None)
            assert session["profile_id"] == await harness.profile_id(account)
            await assert_stored(harness, account)
            await harness.nothing_left(account)

            await sandbox.admin.set_fault("provider.authorize", "declined", account=unsaved)
            session = await harness.authorize(unsaved)
            assert session["error_code"] == "CONSENT_DECLINED"
            assert await harness.credential(unsaved) is None
            await harness.nothing_left(unsaved)

            counts = (await sandbox.admin.stats()).by_endpoint
            assert counts["adspower.start"] == 2
            assert counts["adspower.stop"] == 2
            assert not [endpoint for endpoint in counts if endpoint.startswith(("gologin.", "local."))]
