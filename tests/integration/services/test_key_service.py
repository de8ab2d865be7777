"""Only the hash of a key is kept, and only a living key opens the door."""

from datetime import timedelta

import pytest
from pydantic import SecretStr
from sqlalchemy import select, text, update

from app.context import Context
from app.database import Database
from app.models import ApiKey, utc_now
from app.services.key_service import Caller, KeyService, Scope
from app.utils.exceptions import AuthenticationException, InvalidRequestException

AUTHORIZE = frozenset({Scope.AUTHORIZE})


async def create(context: Context, name: str = "reporting", **values: object) -> str:
    async with context.database.transaction() as session:
        return await context.keys.create(session, name=name, **{"scopes": AUTHORIZE} | values)


async def authenticate(context: Context, key: str | None) -> Caller:
    async with context.database.reading() as session:
        return await context.keys.authenticate(session, key)


async def test_a_made_key_names_its_caller_and_scopes(context: Context):
    caller = await authenticate(context, await create(context))
    assert caller == Caller("reporting", AUTHORIZE)
    assert caller.may(Scope.AUTHORIZE)
    assert not caller.may(Scope.TOKENS_READ)


async def test_admin_may_do_all(context: Context):
    caller = await authenticate(context, await create(context, scopes=frozenset({Scope.ADMIN})))
    assert all(caller.may(scope) for scope in Scope)


async def test_neither_the_row_nor_the_event_tells_the_key(context: Context, database: Database):
    key = await create(context)
    async with database.reading() as session:
        rows = str((await session.execute(text("SELECT * FROM api_keys"))).all())
        rows += str((await session.execute(text("SELECT * FROM events"))).all())
        prefix = await session.scalar(select(ApiKey.prefix))
    assert key.startswith(f"{prefix}_")
    assert key.removeprefix(prefix) not in rows
    assert "api_key.created" in rows


@pytest.mark.parametrize("spoil", [
    lambda key: key[:-1],
    lambda key: f"{key}x",
    lambda key: key.swapcase(),
    lambda key: "_".join(key.split("_", 2)[:2]),
    lambda key: f" {key}",
])  # fmt: skip
async def test_an_almost_right_key_is_refused(context: Context, spoil):
    key = await create(context)
    with pytest.raises(AuthenticationException):
        await authenticate(context, spoil(key))


@pytest.mark.parametrize("key", [None, "", "x", "_", "gla_00000000_x", "ключ", "' OR 1=1 --", "a" * 10_000])
async def test_an_unknown_key_is_refused(context: Context, key: str | None):
    await create(context)
    with pytest.raises(AuthenticationException, match="X-API-Key"):
        await authenticate(context, key)


async def test_an_expired_key_is_refused(context: Context, database: Database):
    key = await create(context, lifetime=timedelta(days=1))
    assert await authenticate(context, key)
    async with database.transaction() as session:
        await session.execute(update(ApiKey).values(expires_at=utc_now() - timedelta(seconds=1)))
    with pytest.raises(AuthenticationException):
        await authenticate(context, key)


async def test_the_settings_key_works_before_any_other(context: Context):
    caller = await authenticate(context, context.settings.api_key.get_secret_value())
    assert caller == Caller("bootstrap", frozenset(Scope))


async def test_a_name_is_taken_once(context: Context):
    await create(context)
    with pytest.raises(InvalidRequestException, match="'reporting' exists already"):
        await create(context)


@pytest.mark.parametrize("name", ["bootstrap", "", "  "])
async def test_a_name_that_cannot_be(context: Context, name: str):
    with pytest.raises(InvalidRequestException, match="choose another name"):
        await create(context, name)


async def test_no_key_is_nobody_even_where_the_bootstrap_key_is_empty(context: Context):
    keys = KeyService(bootstrap_key=SecretStr(""))
    for key in (None, ""):
        async with context.database.reading() as session:
            with pytest.raises(AuthenticationException):
                await keys.authenticate(session, key)
