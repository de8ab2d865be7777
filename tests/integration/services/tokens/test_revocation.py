"""Revoked: gone at the provider, then forgotten; asked again until the provider has answered."""

import asyncio
from datetime import timedelta

import pytest

from app.context import Context, open_context
from app.models import CredentialStatus, utc_now
from app.utils.exceptions import TokenNotFoundException, TokenRevokedException, TwitterAPIException
from tests.fixtures.factories import new_tokens
from tests.fixtures.settings import MakeSettings
from tests.fixtures.tokens import TokenChain
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


async def due_again(chain: TokenChain) -> None:
    await chain.change(refresh_due_at=utc_now() - timedelta(seconds=1))


async def test_revoked_token_is_gone_at_the_provider_and_forgotten(chain: TokenChain):
    tokens = await chain.tokens()
    assert await chain.revoke()
    assert (await chain.row(), await chain.usable_grants()) == (None, 0)
    with pytest.raises(TwitterAPIException, match="401"):
        await chain.who(tokens.access_token)
    with pytest.raises(TokenNotFoundException):
        await chain.get_access_token()
    with pytest.raises(TokenNotFoundException):
        await chain.revoke()
    assert len(await chain.events("credential.revoked")) == 1


@pytest.mark.databases("sqlite")
async def test_revocation_without_an_answer_is_repeated_until_there_is_one(
    chain: TokenChain, sandbox_settings: MakeSettings
):
    await chain.admin.set_fault("provider.revoke", "drop", account=chain.account)
    async with open_context(sandbox_settings()) as process:
        assert not await process.tokens.credentials.revoke(chain.account, chain.app, actor="tests")
        row = await chain.active_row()
        assert (row.status, row.lease_token) == (CredentialStatus.REVOKING, None)
        with pytest.raises(TokenRevokedException):
            await chain.get_access_token()
        with pytest.raises(TokenRevokedException):
            await chain.get_access_token(force=True)
        assert await process.tokens.credentials.revoke_due(10) is None, "not yet"
        await due_again(chain)
        assert await process.tokens.credentials.revoke_due(10) == 0, "no answer"
        await chain.admin.clear_faults(chain.account)
        await due_again(chain)
        assert await process.tokens.credentials.revoke_due(10) == 1
    assert (await chain.row(), await chain.usable_grants()) == (None, 0)


@pytest.mark.databases("sqlite", "postgresql")
async def test_one_of_two_processes_repeats_the_revocation(chain: TokenChain, sandbox_settings: MakeSettings):
    await chain.change(status=CredentialStatus.REVOKING)
    await due_again(chain)
    async with open_context(sandbox_settings()) as other:
        done = await asyncio.gather(
            *(each.tokens.credentials.revoke_due(10) for each in (chain.context, other))
        )
    assert sorted(count or 0 for count in done) == [0, 1]
    assert await chain.calls("provider.revoke") == 1


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_refresh_in_flight_while_it_is_revoked_leaves_nothing_usable(chain: TokenChain):
    await chain.make_due()
    await chain.admin.set_fault("provider.token", "delay", seconds=0.5, times=1, account=chain.account)
    asking = asyncio.create_task(chain.get_access_token())
    await eventually(chain.is_spending)
    revoked = await chain.revoke()
    with pytest.raises((TokenNotFoundException, TokenRevokedException)):
        await asking
    assert revoked
    assert (await chain.row(), await chain.usable_grants()) == (None, 0)


async def test_tokens_that_come_after_the_revocation_are_revoked_too(
    chain: TokenChain, sandbox_context: Context
):
    """The provider took the spent token's revocation for nothing; the answer of the refresh came after."""
    await chain.make_due()
    (held,) = await sandbox_context.tokens.leases.take_due(1)
    tokens = await sandbox_context.tokens.oauth.refresh_access_token(chain.app, held.refresh_token)
    await chain.change(refresh_token=None)
    assert await chain.revoke()
    assert await chain.usable_grants() == 1
    await sandbox_context.tokens.refresher.save(held, tokens, utc_now())
    assert (await chain.row(), await chain.usable_grants()) == (None, 0)


async def test_a_new_authorization_ends_the_revocation(chain: TokenChain):
    await chain.admin.set_fault("provider.revoke", "drop", account=chain.account)
    assert not await chain.revoke()
    await chain.admin.clear_faults(chain.account)
    await chain.authorize()
    await due_again(chain)
    assert await chain.context.tokens.credentials.revoke_due(10) is None
    assert (await chain.get_access_token()).row.status is CredentialStatus.ACTIVE


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_row_that_no_key_opens_stops_no_other(chain: TokenChain):
    unreadable = TokenChain(chain.context, chain.admin, f"{chain.account}x")
    await unreadable.store(new_tokens())
    await unreadable.change(refresh_token="lost:AAAA")
    for each in (unreadable, chain):
        await each.change(status=CredentialStatus.REVOKING)
        await due_again(each)
    assert await chain.context.tokens.credentials.revoke_due(10) == 1
    row = await unreadable.active_row()
    assert (row.status, row.refresh_error_code) == (CredentialStatus.REVOKING, "DECRYPTION_FAILED")
