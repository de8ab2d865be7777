"""OAuth 1.0a through a real browser: the same path, another page, another kind of token."""

import pytest

from tests.e2e.harness import ServiceHarness
from tests.fixtures.oauth1 import APP, token_owner

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_oauth1_authorization_ends_with_a_token_and_its_secret(harness: ServiceHarness, account: str):
    session = await harness.authorize(account, APP)
    assert (session["status"], session["error"]) == ("completed", None)
    assert (session["scopes"], session["missing_scopes"]) == ([], [])
    tokens = await harness.tokens(account, APP)
    assert await token_owner(harness.sandbox.info, tokens) == account
    await harness.nothing_left(account)


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("declined", "failed", "CONSENT_DECLINED"),
        ("signed_out", "needs_attention", "LOGIN_REQUIRED"),
        ("wrong_account_unseen", "failed", "ACCOUNT_MISMATCH"),
    ],
)
async def test_fault_of_the_oauth1_page_ends_the_session_with_its_code(
    harness: ServiceHarness, account: str, fault: str, status: str, code: str
):
    await harness.admin.set_fault("provider.oauth1_authorize", fault, account=account)
    session = await harness.authorize(account, APP)
    assert (session["status"], session["error_code"]) == (status, code)
    assert await harness.credential(account, APP) is None
    if code == "ACCOUNT_MISMATCH":
        grants = await harness.admin.grants(session["error"].split("@")[1].split(",")[0])
        assert [grant.usable for grant in grants if grant.app == APP] == [False]
    await harness.nothing_left(account)


async def test_an_app_that_gets_no_request_token_is_to_blame(harness: ServiceHarness, account: str):
    refusal = {"errors": [{"code": 32, "message": "Could not authenticate you."}]}
    await harness.admin.set_fault(
        "provider.oauth1_request_token", "status", status=401, body=refusal, times=1
    )
    session = await harness.authorize(account, APP)
    assert (session["status"], session["error_code"]) == ("failed", "INVALID_CLIENT")
    assert "Could not authenticate you" in session["error"]
    await harness.nothing_left(account)
