"""The account that a token speaks for, and what follows when the provider refuses one that should live."""

import asyncio
from dataclasses import replace

import pytest

from app.models import CredentialStatus
from app.services.tokens.refresh_leases import REFUSED
from app.utils.exceptions import ReauthorizationRequiredException, TwitterAPIException
from tests.fixtures.tokens import TokenChain
from tests.fixtures.waiting import eventually

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.databases("sqlite", long="postgresql")]


async def test_verify_asks_who_a_fresh_token_speaks_for(chain: TokenChain):
    await chain.make_due(lives_for=-1)
    user = await chain.verify()
    assert [event.actor for event in await chain.events("token.verified")] == ["tests"]
    assert (user.username, await chain.refreshes()) == (chain.account, 1)


async def test_verify_finds_a_chain_that_its_owner_has_revoked(chain: TokenChain):
    await chain.admin.revoke_grants(chain.account)
    with pytest.raises(ReauthorizationRequiredException):
        await chain.verify()
    (broken,) = await chain.events("credential.broken")
    assert (broken.data["reason"], await chain.calls()) == ("INVALID_GRANT", 2), "the exchange and one try"


async def test_an_access_token_alone_that_is_refused_is_refreshed_once_for_all(chain: TokenChain):
    await chain.context.tokens.oauth.revoke_token(chain.app, (await chain.tokens()).access_token)
    users = await asyncio.gather(*(chain.verify() for _ in range(10)))
    assert {user.username for user in users} == {chain.account}
    assert ((await chain.active_row()).version, await chain.refreshes()) == (2, 1)


async def test_a_refusal_that_comes_late_refreshes_nothing_again(chain: TokenChain):
    await chain.context.tokens.oauth.revoke_token(chain.app, (await chain.tokens()).access_token)
    await chain.admin.set_fault("provider.me", "delay", seconds=1, times=1, account=chain.account)
    slow = asyncio.create_task(chain.verify())
    await eventually(lambda: chain.calls("provider.me"))
    await chain.verify()
    assert (await slow).username == chain.account
    assert await chain.refreshes() == 1


async def test_newer_tokens_and_a_revocation_are_not_taken_for_broken(chain: TokenChain):
    leases = chain.context.tokens.leases
    old = await chain.active_row()
    await chain.store(await chain.tokens())
    await leases.end_unrefreshable(old, REFUSED)
    assert (await chain.active_row()).status is CredentialStatus.ACTIVE
    await chain.change(status=CredentialStatus.REVOKING)
    await leases.end_unrefreshable(await chain.active_row(), REFUSED)
    assert (await chain.active_row()).status is CredentialStatus.REVOKING


async def test_verify_breaks_what_is_refused_and_cannot_be_refreshed(chain: TokenChain):
    await chain.store(replace(await chain.tokens(), refresh_token=None))
    await chain.admin.revoke_grants(chain.account)
    for _ in range(2):
        with pytest.raises(ReauthorizationRequiredException):
            await chain.verify()
    assert [event.data["reason"] for event in await chain.events("credential.broken")] == [REFUSED]


@pytest.mark.parametrize(
    ("status", "reason"),
    [(402, None), (404, None), (403, "client-not-enrolled"), (403, "user-suspended")],
)
async def test_a_refusal_that_is_not_the_tokens_breaks_nothing(
    chain: TokenChain, status: int, reason: str | None
):
    body = {"title": "Refused", "detail": "No.", "reason": reason}
    await chain.admin.set_fault("provider.me", "status", status=status, account=chain.account, body=body)
    with pytest.raises(TwitterAPIException, match=str(status)):
        await chain.verify()
    row = await chain.active_row()
    assert (row.status, row.version, await chain.refreshes()) == (CredentialStatus.ACTIVE, 1, 0)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_that_is_refused_after_a_refresh_as_well_is_broken(chain: TokenChain, status: int):
    chain.context.tokens.oauth.recheck_wait = 0.01
    await chain.admin.set_fault("provider.me", "status", status=status, account=chain.account)
    with pytest.raises(ReauthorizationRequiredException):
        await chain.verify()
    assert [event.data["reason"] for event in await chain.events("credential.broken")] == [REFUSED]
    assert await chain.refreshes() == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_that_a_refresh_ends_breaks_nothing(chain: TokenChain, status: int):
    await chain.admin.set_fault("provider.me", "status", status=status, account=chain.account, times=1)
    assert (await chain.verify()).username == chain.account
    assert (await chain.active_row()).version == 2


async def test_a_new_token_is_asked_about_a_second_time(chain: TokenChain):
    chain.context.tokens.oauth.recheck_wait = 0.01
    await chain.admin.set_fault("provider.me", "status", status=401, account=chain.account, times=1)
    tokens = await chain.tokens()
    user = await chain.context.tokens.oauth.verify_credentials(chain.app, tokens.access_token, is_new=True)
    assert (user.username, await chain.calls("provider.me")) == (chain.account, 2)


async def test_verify_names_the_reason_why_a_refused_token_was_not_refreshed(chain: TokenChain):
    await chain.context.tokens.oauth.revoke_token(chain.app, (await chain.tokens()).access_token)
    await chain.admin.set_fault("provider.token", "status", status=503, times=1, account=chain.account)
    with pytest.raises(TwitterAPIException, match="503"):
        await chain.verify()
    assert (await chain.active_row()).status is CredentialStatus.ACTIVE
