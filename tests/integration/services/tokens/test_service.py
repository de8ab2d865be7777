"""Tokens are in the database only encrypted, one set per account and app."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select, text, update

from app.context import Context, open_context
from app.database import Database
from app.models import Credential, CredentialStatus, Event, utc_now
from app.services.interfaces import TokenSet
from app.services.tokens.refresh_leases import EXPIRED
from app.services.tokens.service import CredentialService, IssuedToken
from app.services.tokens.vault import CredentialVault
from app.utils.crypto import generate_key
from app.utils.exceptions import (
    DecryptionException,
    ReauthorizationRequiredException,
    TokenExpiredException,
    TokenNotFoundException,
)
from tests.fixtures.factories import new_tokens
from tests.fixtures.services import OpenContext
from tests.fixtures.settings import MakeSettings

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

SECRETS = ("clear-access-token", "clear-refresh-token", "clear-secret")


@pytest.fixture
def service(context: Context) -> CredentialService:
    return context.tokens.credentials


@pytest.fixture
def vault(context: Context) -> CredentialVault:
    return context.tokens.vault


async def store(
    database: Database, service: CredentialService, account: str = "alice", **values: object
) -> None:
    async with database.transaction() as db:
        await service.store(
            db,
            account_id=account,
            api_app="AIOTT1",
            provider_user_id="1",
            tokens=new_tokens(**values),
            session_id="s-1",
        )


async def get_access_token(
    service: CredentialService, min_ttl: float = 0, *, force: bool = False
) -> IssuedToken:
    return await service.get_access_token("alice", "AIOTT1", min_ttl=min_ttl, actor="tests", force=force)


async def load(database: Database, vault: CredentialVault, account: str = "alice") -> TokenSet:
    async with database.reading() as db:
        return await vault.load_tokens(db, account, "AIOTT1")


async def test_stored_tokens_are_handed_out(
    database: Database, service: CredentialService, vault: CredentialVault
):
    await store(database, service, oauth_token_secret=SecretStr("clear-secret"))
    tokens = await load(database, vault)
    assert tokens.access_token.get_secret_value() == "clear-access-token"
    assert tokens.refresh_token.get_secret_value() == "clear-refresh-token"
    assert tokens.oauth_token_secret.get_secret_value() == "clear-secret"
    assert 7100 < tokens.expires_in <= 7200


@pytest.mark.databases("sqlite", "postgresql")
async def test_no_table_holds_a_token_in_clear(
    database: Database, service: CredentialService, vault: CredentialVault
):
    await store(database, service, oauth_token_secret=SecretStr("clear-secret"))
    async with database.reading() as db:
        rows = [
            str((await db.execute(text(f"SELECT * FROM {table}"))).all())
            for table in ("credentials", "events", "authorization_sessions")
        ]
    assert "dev:" in rows[0]
    assert not [secret for secret in SECRETS if secret in "".join(rows)]


async def test_the_database_file_holds_no_token_in_clear(
    sqlite_url: str, tmp_path: Path, make_settings: MakeSettings
):
    async with open_context(make_settings(database_url=sqlite_url)) as context:
        await store(context.database, context.tokens.credentials)
    content = b"".join(path.read_bytes() for path in tmp_path.glob("service.db*"))
    assert b"alice" in content
    assert not [secret for secret in SECRETS if secret.encode() in content]


async def test_a_new_set_replaces_the_old_and_raises_the_version(
    database: Database, service: CredentialService, vault: CredentialVault
):
    await store(database, service)
    await store(database, service, access_token=SecretStr("second"), refresh_token=None)
    tokens = await load(database, vault)
    assert (tokens.access_token.get_secret_value(), tokens.refresh_token) == ("second", None)
    async with database.reading() as db:
        assert list(await db.scalars(select(Credential.version))) == [2]
        stored = await db.scalars(select(Event).where(Event.event_type == "credential.stored"))
        assert sorted(event.data["version"] for event in stored) == [1, 2]


@pytest.mark.databases("sqlite")
async def test_accounts_are_kept_apart(
    database: Database, service: CredentialService, vault: CredentialVault
):
    await store(database, service, "alice")
    await store(database, service, "bob", access_token=SecretStr("of-bob"))
    assert (await load(database, vault, "alice")).access_token.get_secret_value() == "clear-access-token"
    assert (await load(database, vault, "bob")).access_token.get_secret_value() == "of-bob"


@pytest.mark.databases("sqlite")
async def test_a_token_copied_to_another_row_does_not_open(
    database: Database, service: CredentialService, vault: CredentialVault
):
    await store(database, service, "alice")
    await store(database, service, "mallory")
    async with database.transaction() as db:
        stolen = await db.scalar(select(Credential.access_token).where(Credential.account_id == "alice"))
        await db.execute(
            update(Credential).where(Credential.account_id == "mallory").values(access_token=stolen)
        )
    with pytest.raises(DecryptionException):
        await load(database, vault, "mallory")


@pytest.mark.databases("sqlite")
async def test_a_rotated_key_opens_what_the_old_one_sealed(
    database: Database,
    service: CredentialService,
    vault: CredentialVault,
    open_services: OpenContext,
    settings,
):
    await store(database, service)
    keys = f"new:{generate_key()},{settings.encryption_keys.get_secret_value()}"
    async with open_services(encryption_keys=keys) as rotated:
        tokens = await load(database, rotated.tokens.vault)
        assert tokens.access_token.get_secret_value() == "clear-access-token"
        await store(database, rotated.tokens.credentials)
    async with database.reading() as db:
        assert (await db.scalar(select(Credential.access_token))).startswith("new:")
    with pytest.raises(DecryptionException):
        await load(database, vault)
    with pytest.raises(DecryptionException):
        await get_access_token(service)


@pytest.mark.databases("sqlite")
async def test_account_without_tokens_has_nothing_to_hand_out(service: CredentialService):
    with pytest.raises(TokenNotFoundException, match="@alice"):
        await get_access_token(service)


async def test_an_expired_token_that_cannot_be_refreshed_needs_a_new_authorization(
    database: Database, service: CredentialService
):
    await store(database, service, refresh_token=None)
    async with database.transaction() as db:
        await db.execute(update(Credential).values(token_expires_at=utc_now() - timedelta(seconds=1)))
    for _ in range(2):
        with pytest.raises(ReauthorizationRequiredException):
            await get_access_token(service)
    async with database.reading() as db:
        row = (await db.scalars(select(Credential))).one()
        (broken,) = await db.scalars(select(Event).where(Event.event_type == "credential.broken"))
    assert (row.status, row.refresh_error_code) == (CredentialStatus.REAUTHORIZATION_REQUIRED, EXPIRED)
    assert broken.data == {"version": 1, "reason": EXPIRED}


async def test_a_token_that_cannot_be_refreshed_is_handed_out_to_its_end(
    database: Database, service: CredentialService
):
    await store(database, service, refresh_token=None, expires_in=20)
    handed = await get_access_token(service, min_ttl=600)
    assert handed.access_token.get_secret_value() == "clear-access-token"
    with pytest.raises(TokenExpiredException):
        await get_access_token(service, force=True)
    async with database.reading() as db:
        assert (await db.scalars(select(Credential))).one().refresh_due_at is None


@pytest.mark.parametrize("refresh_token", [None, SecretStr("clear-refresh-token")])
async def test_a_token_without_a_known_end_is_handed_out_and_refreshed_if_it_can_be(
    database: Database, service: CredentialService, refresh_token: SecretStr | None
):
    await store(database, service, expires_in=None, refresh_token=refresh_token)
    row = (await get_access_token(service, min_ttl=3600)).row
    assert (row.token_expires_at, row.refresh_due_at is None) == (None, refresh_token is None)
    if row.refresh_due_at is not None:
        assert utc_now() < row.refresh_due_at < utc_now() + timedelta(seconds=7200)


@pytest.mark.databases("sqlite")
async def test_a_lifetime_of_nothing_is_not_one_without_an_end(
    database: Database, service: CredentialService
):
    await store(database, service, refresh_token=None, expires_in=0)
    with pytest.raises(ReauthorizationRequiredException):
        await get_access_token(service)


@pytest.mark.databases("sqlite", "postgresql")
async def test_two_stores_at_once_lose_no_version(
    database: Database, service: CredentialService, vault: CredentialVault
):
    await store(database, service)
    await asyncio.gather(*(store(database, service) for _ in range(4)))
    async with database.reading() as db:
        assert list(await db.scalars(select(Credential.version))) == [5]


@pytest.mark.databases("sqlite", "postgresql")
async def test_simultaneous_first_stores_lose_no_version(database: Database, service: CredentialService):
    await asyncio.gather(*(store(database, service) for _ in range(4)))
    async with database.reading() as db:
        assert list(await db.scalars(select(Credential.version))) == [4]
