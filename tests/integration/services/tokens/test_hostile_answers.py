"""Arbitrary token answers and headers, from the client to the row: no exception but ours, no token lost."""

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import select

from app.clients.oauth.oauth2 import OAuthProviderClient
from app.clients.oauth.token_answers import MAX_TOKEN_LIFE
from app.context import Context
from app.models import AppState, CredentialStatus, utc_now
from app.utils.exceptions import AppException
from app.utils.waits import MAX_WAIT
from tests.fixtures.factories import new_tokens
from tests.fixtures.fuzzing import CASES
from tests.fixtures.tokens import TokenChain

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.integers(10**17, 10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
OPTIONAL = st.dictionaries(st.sampled_from(["expires_in", "scope", "id_token", "x"]), ANYTHING)
NUMBERS = st.integers().map(str) | st.integers(10**9, 10**19).map(str) | st.floats().map(str)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["retry-after"]
        + [
            f"{window}-{field}"
            for window in ("x-rate-limit", "x-user-limit-24hour", "x-app-limit-24hour")
            for field in ("remaining", "reset")
        ]
    ),
    NUMBERS | st.just("9" * 5000) | st.text(st.characters(min_codepoint=32, max_codepoint=126)),
)
STATUSES = st.sampled_from([200, 400, 401, 403])
REFUSALS = st.sampled_from([429, 500, 503])


def answers(examples: int) -> settings:
    return settings(
        max_examples=CASES or examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


FEW, MANY = answers(15), answers(40)


def answering(context: Context, status: int, fields: Any, headers: dict[str, str]) -> None:
    """The provider gives this answer from now on. The transport is the only thing that is not real."""
    body = json.dumps(fields).encode()
    named = {"content-type": "application/json", **headers}
    transport = httpx.MockTransport(lambda request: httpx.Response(status, content=body, headers=named))
    context.tokens.oauth._client = OAuthProviderClient(http=httpx.AsyncClient(transport=transport), timeout=5)


async def refreshable(context: Context) -> TokenChain:
    """An account that must be refreshed now, of an app that nothing limits."""
    chain = TokenChain(context, None, "alice")  # type: ignore[arg-type] # there is no sandbox
    async with context.database.transaction() as db:
        await context.tokens.apps.resume(db, chain.app, actor="tests")
    await chain.store(new_tokens())
    await chain.make_due(lives_for=-1)
    return chain


async def limit_is_bounded(context: Context) -> bool:
    async with context.database.reading() as db:
        until = await db.scalar(select(AppState.limited_until))
    return until is None or until <= utc_now() + timedelta(seconds=MAX_WAIT)


@FEW
@given(optional=OPTIONAL, headers=HEADERS)
async def test_no_optional_field_or_header_costs_the_tokens(
    context: Context, optional: dict[str, Any], headers: dict[str, str]
):
    await check_optional(context, optional, headers)


@pytest.mark.long
@MANY
@given(optional=OPTIONAL, headers=HEADERS)
async def test_none_of_more_optional_fields_and_headers_costs_the_tokens(
    context: Context, optional: dict[str, Any], headers: dict[str, str]
):
    await check_optional(context, optional, headers)


async def check_optional(context: Context, optional: dict[str, Any], headers: dict[str, str]) -> None:
    chain = await refreshable(context)
    before = (await chain.active_row()).version
    answering(context, 200, {**optional, "access_token": "new-a", "refresh_token": "new-r"}, headers)
    handed = await chain.get_access_token(force=True)
    assert handed.access_token == SecretStr("new-a")
    row = await chain.active_row()
    assert (row.version, row.spending_version, row.status) == (before + 1, None, CredentialStatus.ACTIVE)
    assert (await chain.tokens()).refresh_token == SecretStr("new-r")
    assert row.refresh_due_at > utc_now() + timedelta(seconds=50)
    if row.token_expires_at is not None:
        assert row.token_expires_at <= utc_now() + timedelta(seconds=MAX_TOKEN_LIFE)
    assert await limit_is_bounded(context)


@pytest.mark.databases("sqlite")
@FEW
@given(headers=HEADERS, status=REFUSALS)
async def test_headers_of_a_refusal_cost_no_tokens(context: Context, headers: dict[str, str], status: int):
    await check_refusal(context, headers, status)


@pytest.mark.long
@MANY
@given(headers=HEADERS, status=REFUSALS)
async def test_more_headers_of_a_refusal_cost_no_tokens(
    context: Context, headers: dict[str, str], status: int
):
    await check_refusal(context, headers, status)


async def check_refusal(context: Context, headers: dict[str, str], status: int) -> None:
    chain = await refreshable(context)
    before = await chain.tokens()
    answering(context, status, {"title": "later"}, headers)
    with pytest.raises(AppException):
        await chain.get_access_token(force=True)
    row = await chain.active_row()
    assert (row.spending_version, row.lease_token, row.status) == (None, None, CredentialStatus.ACTIVE)
    assert (await chain.tokens()).refresh_token == before.refresh_token
    assert utc_now() < row.refresh_due_at <= utc_now() + timedelta(seconds=MAX_WAIT)
    assert await limit_is_bounded(context)


@pytest.mark.databases("sqlite")
@FEW
@given(fields=ANYTHING, headers=HEADERS, status=STATUSES)
async def test_an_arbitrary_answer_ends_in_an_error_of_ours_or_in_tokens(
    context: Context, fields: Any, headers: dict[str, str], status: int
):
    await check_answer(context, fields, headers, status)


@pytest.mark.long
@MANY
@given(fields=ANYTHING, headers=HEADERS, status=STATUSES)
async def test_more_arbitrary_answers_end_in_an_error_of_ours_or_in_tokens(
    context: Context, fields: Any, headers: dict[str, str], status: int
):
    await check_answer(context, fields, headers, status)


async def check_answer(context: Context, fields: Any, headers: dict[str, str], status: int) -> None:
    chain = await refreshable(context)
    answering(context, status, fields, headers)
    with pytest.raises(AppException):
        await chain.get_access_token(force=True)
    assert (await chain.active_row()).lease_token is None
    assert await limit_is_bounded(context)
