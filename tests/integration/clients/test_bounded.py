"""Answers that unpack to more than anybody reads, never end, or are no JSON that can be read."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from app.clients import bounded
from app.clients.adspower import AdsPowerClient
from app.clients.devtools import DevToolsClient
from app.clients.gologin import GoLoginClient
from app.clients.oauth_provider import OAuthProviderClient, ProviderApi
from app.utils.exceptions import (
    AppException,
    GoLoginAPIException,
    InfrastructureException,
    TwitterAPIException,
)
from tests.fixtures.scripted import Slow, scripted

BOMB = gzip.compress(bytes(64 * 1024 * 1024))
NESTED = b"[" * 200_000


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


class _OpenGate:
    async def enter(self) -> None: ...

    async def trip(self, reason: str) -> None: ...


def answer(body: bytes, status: int = 200, **headers: str) -> bytes:
    named = {"Content-Length": str(len(body)), "Connection": "close", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join([f"HTTP/1.1 {status} Such", *lines, "", ""]).encode() + body


def _gologin(http: httpx.AsyncClient, url: str) -> GoLoginClient:
    return GoLoginClient(
        http=http,
        gate=_OpenGate(),
        api_url=url,
        api_token="t",
        local_url=url,
        api_timeout=30,
        stop_timeout=30,
    )


def _adspower(http: httpx.AsyncClient, url: str) -> AdsPowerClient:
    return AdsPowerClient(http=http, base_url=url, api_timeout=30, stop_timeout=30, spacing=0)


def _api(url: str) -> ProviderApi:
    return ProviderApi(name="P", token_url=url, me_url=url, username_path="login", user_id_path="id")


def _provider(http: httpx.AsyncClient) -> OAuthProviderClient:
    return OAuthProviderClient(http=http, timeout=30)


CALLS: dict[str, Callable[[httpx.AsyncClient, str], Awaitable[object]]] = {
    "token": lambda http, url: _provider(http).token(_api(url), client_id="c", client_secret="s", form={}),
    "me": lambda http, url: _provider(http).me(_api(url), "token"),
    "list": lambda http, url: _gologin(http, url).list_profiles(1),
    "start": lambda http, url: _gologin(http, url).start_profile("p", timeout=30),
    "adspower list": lambda http, url: _adspower(http, url).list_profiles(1),
    "adspower start": lambda http, url: _adspower(http, url).start_profile("p", timeout=30),
    "version": lambda http, url: DevToolsClient(http=http).version(url.removeprefix("http://")),
}
call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@call
@pytest.mark.parametrize(
    "body",
    [
        answer(BOMB, Content_Encoding="gzip"),
        answer(zlib.compress(bytes(64 * 1024 * 1024)), Content_Encoding="deflate"),
        answer(b"x", Content_Encoding="br"),
        answer(b"x", Content_Encoding="gzip"),
        answer(b"[" + b" " * 17_000_000),
        answer(b'{"id": ' + b"9" * 5000 + b"}"),
        answer(gzip.compress(b"x"), Content_Type="text/html; charset=zlib"),
    ],
    ids=["gzip", "deflate", "brotli", "no gzip", "endless", "digits", "charset"],
)
async def test_a_client_refuses_an_answer_that_it_cannot_read(
    http: httpx.AsyncClient, call: Callable[[httpx.AsyncClient, str], Awaitable[object]], body: bytes
) -> None:
    async with scripted(body) as server:
        with pytest.raises(AppException) as caught:
            await call(http, server.url)
    assert isinstance(caught.value, InfrastructureException)


@pytest.mark.parametrize("name", ["list", "start", "adspower list", "adspower start", "version"])
async def test_a_client_refuses_json_that_is_too_deep(http: httpx.AsyncClient, name: str) -> None:
    async with scripted(answer(NESTED)) as server:
        with pytest.raises(InfrastructureException):
            await CALLS[name](http, server.url)


async def test_an_inflated_answer_stops_at_the_ceiling(http: httpx.AsyncClient) -> None:
    async with scripted(answer(BOMB, Content_Encoding="gzip")) as server:
        with pytest.raises(bounded.UnreadableAnswerError, match="larger than 1024 KB"):
            await bounded.request(http, "GET", server.url)


@pytest.mark.parametrize("size", [0, 1, bounded.MAX_ANSWER])
@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_of_the_allowed_size_is_whole(
    http: httpx.AsyncClient, size: int, packed: bool
) -> None:
    body = b"x" * size
    sent = answer(gzip.compress(body), Content_Encoding="gzip") if packed else answer(body)
    async with scripted(sent) as server:
        assert (await bounded.request(http, "GET", server.url)).content == body


async def test_deflate_without_a_header_is_read(http: httpx.AsyncClient) -> None:
    pack = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    sent = answer(pack.compress(b"words") + pack.flush(), Content_Encoding="deflate")
    async with scripted(sent) as server:
        assert (await bounded.request(http, "GET", server.url)).text == "words"


async def test_an_error_keeps_its_status_however_large_it_is(http: httpx.AsyncClient) -> None:
    async with scripted(answer(BOMB, 429, Content_Encoding="gzip", Retry_After="7")) as server:
        response = await bounded.request(http, "GET", server.url)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "7"
    assert len(response.content) == bounded.MAX_ANSWER


async def test_an_unreadable_token_answer_may_have_spent_the_grant(http: httpx.AsyncClient) -> None:
    async with scripted(answer(BOMB, Content_Encoding="gzip")) as server:
        with pytest.raises(TwitterAPIException) as caught:
            await CALLS["token"](http, server.url)
    assert caught.value.may_have_acted


async def test_a_body_without_end_meets_the_deadline(http: httpx.AsyncClient) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    async with scripted(Slow(head, 0.01)) as server:
        client = _gologin(http, server.url)
        with pytest.raises(GoLoginAPIException, match="no answer within"):
            async with asyncio.timeout(20):
                await client.start_profile("p", timeout=0.3)


async def test_cookies_of_an_answer_are_not_kept(http: httpx.AsyncClient) -> None:
    async with scripted(answer(b"{}", Set_Cookie="a=b; Path=/")) as server:
        await bounded.request(http, "GET", server.url)
        await bounded.request(http, "GET", server.url)
    assert "cookie" not in server.heard[-1].headers
