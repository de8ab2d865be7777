"""Limits over HTTP: their headers, addresses that fail, and a Redis that counts for many processes."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from app.api.errors import exception_response
from app.api.http.rate_limit import RateLimiter
from app.services.keys.service import Caller, Scope
from app.utils.exceptions import RateLimitException
from tests.fixtures.api import API_KEY, OpenApi, answered, refused
from tests.fixtures.logs import logged
from tests.fixtures.redis_server import redis_server
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

ALICE = Caller("alice", frozenset())
NAMES = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")


def quota(response: httpx.Response) -> tuple[int, int]:
    limit, remaining, reset = (int(response.headers[name]) for name in NAMES)
    assert 0 <= reset <= 60
    return limit, remaining


async def test_every_answer_to_a_key_tells_its_quota(open_api: OpenApi):
    async with open_api(workers=False, rate_limit_per_minute=4) as api:
        assert quota(await api.client.get("/accounts")) == (4, 3)
        assert quota(await api.client.get("/accounts/nobody")) == (4, 2)
        assert quota(await api.client.get("/accounts", params={"page": 0})) == (4, 1)
        own = await api.key(Scope.PROFILES, rate_limit_per_minute=2)
        assert quota(await api.client.get("/accounts", headers=own)) == (2, 1)  # 403
        assert quota(await api.client.get("/profiles", headers=own)) == (2, 0)
        response = await api.client.get("/profiles", headers=own)
        assert "More than 2 requests" in refused(response, 429, "RATE_LIMITED")
        assert quota(response) == (2, 0)
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        assert quota(await api.client.get("/accounts")) == (4, 0), "one caller does not starve another"


def test_retry_after_is_at_least_one_second():
    assert exception_response(RateLimitException(1, retry_after=0.0)).headers["Retry-After"] == "1"


async def test_answer_without_a_key_has_no_quota(open_api: OpenApi):
    async with open_api(workers=False) as api:
        response = await api.client.get("/accounts", headers={"X-API-Key": "x"})
        assert response.status_code == 401
        health = await api.client.get("/health")
        assert not {name.lower() for name in NAMES} & (set(response.headers) | set(health.headers))


async def test_failures_over_the_budget_are_answered_429_and_a_valid_key_always_passes(
    open_sqlite_api: OpenApi,
):
    async with open_sqlite_api(workers=False, auth_failures_per_minute=3) as api:
        wrong = {"X-API-Key": "x"}
        responses = await asyncio.gather(*(api.client.get("/accounts", headers=wrong) for _ in range(200)))
        assert Counter(each.status_code for each in responses) == {401: 3, 429: 197}
        response = await api.client.get("/accounts", headers=wrong)
        refused(response, 429, "TOO_MANY_FAILED_AUTHENTICATIONS")
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        answered(await api.client.get("/health"))
        assert (await api.client.get("/accounts")).status_code == 200


@pytest.mark.parametrize(("failed_before", "at_once"), [(30, 2), (0, 10)])
async def test_a_flood_from_one_address_leaves_the_database_to_the_others(
    open_sqlite_api: OpenApi, monkeypatch: pytest.MonkeyPatch, failed_before: int, at_once: int
):
    """A look-up that takes its time must hold up no other address."""
    looking, most, may_end = 0, 0, asyncio.Event()
    async with open_sqlite_api(
        workers=False, auth_failures_per_minute=30, trusted_proxies=["127.0.0.0/8"]
    ) as api:
        authenticate = api.context.keys.authenticate

        async def slow(key: str | None) -> Caller:
            nonlocal looking, most
            if key == API_KEY:
                return await authenticate(key)
            looking, most = looking + 1, max(most, looking + 1)
            await may_end.wait()
            looking -= 1
            return await authenticate(key)

        async def ask(address: str, key: str) -> int:
            headers = {"X-Forwarded-For": address, "X-API-Key": key}
            return (await api.client.get("/accounts", headers=headers)).status_code

        for _ in range(failed_before):
            assert await ask("203.0.113.1", "x") == 401
        monkeypatch.setattr(api.context.keys, "authenticate", slow)
        flood = [asyncio.create_task(ask("203.0.113.1", "x")) for _ in range(50)]
        await eventually(lambda: looking == at_once, 30)
        assert await ask("203.0.113.2", API_KEY) == 200
        may_end.set()
        assert Counter(await asyncio.gather(*flood)) == Counter(
            {401: 30 - failed_before, 429: 20 + failed_before}
        )
        assert most == at_once


async def test_a_key_is_checked_and_counted_before_the_body_is_read(open_sqlite_api: OpenApi):
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body is read")
        yield b""

    async with open_sqlite_api(workers=False, auth_failures_per_minute=2, rate_limit_per_minute=1) as api:
        for path in ("/keys", "/authorize"):
            wrong = await api.client.post(path, content=unread(), headers={"X-API-Key": "x"})
            refused(wrong, 401, "UNAUTHORIZED")
        wrong = await api.client.post("/keys", content=b"{", headers={"X-API-Key": "x"})
        refused(wrong, 429, "TOO_MANY_FAILED_AUTHENTICATIONS")
        malformed = await api.client.post("/keys", content=b"{", headers={"Content-Type": "application/json"})
        refused(malformed, 422, "INVALID_REQUEST")
        assert quota(malformed) == (1, 0)
        refused(await api.client.post("/keys", content=unread()), 429, "RATE_LIMITED")


async def test_caller_who_fails_behind_a_trusted_proxy_does_not_shut_out_others(open_api: OpenApi):
    async with open_api(workers=False, auth_failures_per_minute=1, trusted_proxies=["127.0.0.0/8"]) as api:
        for address, key, status in (
            ("203.0.113.1", "x", 401),
            ("203.0.113.1", "x", 429),
            ("203.0.113.1", API_KEY, 200),
            ("203.0.113.2", "x", 401),
            ("203.0.113.2", API_KEY, 200),
        ):
            headers = {"X-Forwarded-For": f"198.51.100.9, {address}", "X-API-Key": key}
            assert (await api.client.get("/accounts", headers=headers)).status_code == status, address


@asynccontextmanager
async def limiter(uri: str, **times: float) -> AsyncIterator[RateLimiter]:
    opened = RateLimiter(per_minute=3, storage_uri=uri, **times)
    try:
        yield opened
    finally:
        await opened.close()


async def test_processes_that_share_a_redis_share_the_count(tmp_path: Path):
    with redis_server(tmp_path) as redis:
        await redis.start()
        async with limiter(redis.uri) as one, limiter(redis.uri) as other:
            counted = [await each.count(ALICE) for each in (one, other, one, other)]
            assert [each.remaining for each in counted] == [2, 1, 0, 0]
            assert [each.is_exceeded for each in counted] == [False, False, False, True]
            assert 0 < counted[-1].reset <= 60
            assert (await other.count(Caller("bob", frozenset()))).remaining == 2


async def test_a_redis_that_dies_refuses_nobody_and_is_used_again_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with redis_server(tmp_path) as redis:
        await redis.start()
        # The timeout: the machine may be busy.
        async with limiter(redis.uri, storage_retry=0.0, storage_timeout=5.0) as one:
            for _ in range(4):
                last = await one.count(ALICE)
            assert last.is_exceeded
            redis.stop()
            assert [(await one.count(ALICE)).remaining for _ in range(2)] == [2, 1], "counted by itself"
            assert len(logged(caplog, "rate_limit.storage_away")) == 1
            await redis.start()
            assert [(await one.count(ALICE)).remaining for _ in range(2)] == [2, 1]
            assert len(logged(caplog, "rate_limit.storage_back")) == 1


async def test_a_redis_that_does_not_answer_is_not_waited_for(caplog: pytest.LogCaptureFixture):
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    with silent:
        async with limiter(f"redis://:secret@127.0.0.1:{port}") as one:
            counted = await asyncio.gather(*(one.count(ALICE) for _ in range(4)))
            assert sorted(each.remaining for each in counted) == [0, 0, 1, 2]
            assert not (await one.count(Caller("bob", frozenset()))).is_exceeded
    (line,) = logged(caplog, "rate_limit.storage_away")
    assert "secret" not in str(line)
