"""The life of an OAuth 1.0a token set: no end, no refresh, and a signed question that tells when it is dead."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
import pytest_asyncio
from pydantic import SecretStr

from app.context import Context, open_context
from app.models import CredentialStatus
from app.services.interfaces import TokenSet
from app.utils.exceptions import (
    InvalidClientException,
    InvalidGrantException,
    ReauthorizationRequiredException,
    TokenNotFoundException,
    TokenNotRefreshableException,
    UnknownApiAppException,
)
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.logs import LogLines
from tests.fixtures.oauth1 import APP, token_owner
from tests.fixtures.settings import MakeSettings
from tests.fixtures.tokens import TokenChain

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.databases("sqlite", long="postgresql")]


@pytest_asyncio.fixture
async def chain(sandbox_context: Context, admin: SandboxAdmin, profile: ProfileInfo) -> TokenChain:
    """Authorised just now."""
    made = TokenChain(sandbox_context, admin, profile.account, app=APP)
    await made.authorize()
    return made


OpenWith = Callable[..., AbstractAsyncContextManager[Context]]


@pytest.fixture
def open_with(sandbox_settings: MakeSettings, info: SandboxInfo) -> OpenWith:
    """One more process, whose app has other settings."""
    app = info.apps[APP].model_dump()
    return lambda **changes: open_context(sandbox_settings(oauth_apps={APP: app | changes}))


async def test_oauth1_token_is_stored_encrypted_and_handed_out_with_its_secret(
    chain: TokenChain, info: SandboxInfo
):
    row, handed = await chain.active_row(), await chain.get_access_token(min_ttl=3600)
    assert (row.scopes, row.token_expires_at, row.refresh_due_at, row.refresh_token) == ([], None, None, None)
    assert handed.oauth_token_secret is not None
    for secret, column in (
        (handed.access_token, row.access_token),
        (handed.oauth_token_secret, row.oauth_token_secret),
    ):
        assert column is not None
        assert secret.get_secret_value() not in column
    tokens = TokenSet(handed.access_token, None, (), None, handed.oauth_token_secret)
    assert await token_owner(info, tokens) == chain.account


async def test_oauth1_token_is_never_refreshed(chain: TokenChain):
    with pytest.raises(TokenNotRefreshableException, match="does not expire"):
        await chain.get_access_token(force=True)
    assert (await chain.active_row()).version == 1
    assert await chain.context.tokens.leases.take_due(1) == []


async def test_verify_is_signed(chain: TokenChain):
    assert (await chain.verify()).username == chain.account


async def test_a_token_that_the_owner_ended_needs_a_new_authorization(chain: TokenChain):
    await chain.admin.revoke_grants(chain.account)
    with pytest.raises(ReauthorizationRequiredException):
        await chain.verify()
    row = await chain.active_row()
    assert (row.status, row.refresh_error_code) == (
        CredentialStatus.REAUTHORIZATION_REQUIRED,
        "TOKEN_REFUSED",
    )
    assert [event.data["reason"] for event in await chain.events("credential.broken")] == ["TOKEN_REFUSED"]
    with pytest.raises(ReauthorizationRequiredException):
        await chain.get_access_token()
    await chain.authorize()
    assert (await chain.verify()).username == chain.account
    assert len(await chain.events("credential.recovered")) == 1


async def test_an_answer_about_the_token_before_breaks_no_newer_one(chain: TokenChain):
    old = await chain.active_row()
    await chain.authorize()
    await chain.context.tokens.leases.end_unrefreshable(old, "TOKEN_REFUSED")
    assert (await chain.active_row()).status is CredentialStatus.ACTIVE


async def test_a_wrong_secret_of_the_app_breaks_no_account(chain: TokenChain, open_with: OpenWith):
    async with open_with(client_secret="wrong") as context:
        with pytest.raises(InvalidClientException):
            await chain.verify(by=context)
        assert not await context.tokens.credentials.revoke(chain.account, APP, actor="tests")
    assert (await chain.active_row()).refresh_error_code == "INVALID_CLIENT"
    assert await chain.usable_grants() == 1


async def test_app_that_changed_its_kind_is_reported(chain: TokenChain, open_with: OpenWith):
    async with open_with(kind="oauth2") as context:
        with pytest.raises(UnknownApiAppException):
            await chain.verify(by=context)


@pytest.mark.parametrize("already_gone", [False, True])
async def test_revoked_token_is_gone_at_the_provider_and_forgotten(chain: TokenChain, already_gone: bool):
    if already_gone:
        await chain.admin.revoke_grants(chain.account)
    assert await chain.revoke()
    assert (await chain.row(), await chain.usable_grants()) == (None, 0)
    with pytest.raises(TokenNotFoundException):
        await chain.get_access_token()


async def test_a_verifier_works_once(chain: TokenChain):
    oauth = chain.context.tokens.oauth
    request = await oauth.generate_auth_url(APP)
    assert request.code_verifier is None
    with pytest.raises(InvalidGrantException):
        await oauth.exchange_code_for_tokens(APP, code=SecretStr("wrong"), authorization=request)


async def test_signing_logs_nothing_at_any_level(
    log_lines: LogLines, chain: TokenChain, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("DEBUG"):
        await chain.verify()
    written = json.dumps(log_lines()) + caplog.text
    assert not [secret for secret in (await chain.admin.issued()).all() if secret in written]
