"""Answers without an end, or that unpack to much more than they are: read up to their ceiling, and no further."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any

import httpx
import pytest
import pytest_asyncio

from app.clients.bounded import LIST, MAX_ANSWER, MAX_LIST, AnswerTooLargeError, BoundedTransport
from app.clients.browsers.adspower import AdsPowerClient
from app.clients.browsers.devtools import DevToolsClient
from app.clients.browsers.gologin import GoLoginClient
from app.clients.oauth.oauth2 import OAuthProviderClient
from app.services.oauth.provider import x_provider
from app.utils.exceptions import (
    AdsPowerAPIException,
    AppException,
    GoLoginAPIException,
    SeleniumConnectionException,
    TwitterAPIException,
)
from tests.fixtures.scripted import Slow, scripted


class OpenGate:
    async def acquire(self) -> None:
        pass

    async def open_breaker(self, reason: str) -> None:
        raise AssertionError(reason)


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    transport = BoundedTransport(httpx.AsyncHTTPTransport(trust_env=False))
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=60) as client:
        yield client


def answer(body: bytes, **headers: str) -> bytes:
    named = {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode() + body


@cache
def bomb(size: int = 200_000_000) -> bytes:
    """`size` bytes of blanks, packed a thousand times smaller; made in pieces."""
    packer = zlib.compressobj(wbits=31)
    blanks = b" " * 1_000_000
    return b"".join([*(packer.compress(blanks) for _ in range(size // len(blanks))), packer.flush()])


@pytest.mark.parametrize(
    ("pack", "encoding"),
    [
        (bytes, "identity"),
        (gzip.compress, "gzip"),
        (gzip.compress, "X-GZIP"),
        (gzip.compress, "gzip, identity"),
        (zlib.compress, "deflate"),
        (lambda body: zlib.compress(body, wbits=-15), "deflate"),
    ],
)
async def test_an_answer_within_its_ceiling_is_read(
    http: httpx.AsyncClient, pack: Callable[[bytes], bytes], encoding: str
):
    body = b"x" * MAX_ANSWER
    async with scripted(answer(pack(body), Content_Encoding=encoding)) as server:
        assert (await http.get(server.url)).content == body
    async with scripted(answer(pack(body + b"x"), Content_Encoding=encoding)) as server:
        with pytest.raises(AnswerTooLargeError, match="larger than 1,000,000 bytes"):
            await http.get(server.url)
        await http.get(server.url, extensions=LIST)


@pytest.mark.parametrize(("body", "encoding"), [(b"not gzip", "gzip"), (b"{}", "br"), (b"{}", "gzip, gzip")])
async def test_answer_that_cannot_be_unpacked_is_refused(http: httpx.AsyncClient, body: bytes, encoding: str):
    async with scripted(answer(body, Content_Encoding=encoding)) as server:
        with pytest.raises(httpx.DecodingError):
            await http.get(server.url)


async def test_a_list_has_a_ceiling_of_its_own(http: httpx.AsyncClient):
    async with scripted(answer(b"x" * (MAX_LIST + 1))) as server:
        with pytest.raises(AnswerTooLargeError, match="larger than 16,000,000 bytes"):
            await http.get(server.url, extensions=LIST)


async def ask_token(http: httpx.AsyncClient, url: str) -> Any:
    client = OAuthProviderClient(http=http, timeout=20)
    return await client.token(
        x_provider(web_url=url, api_url=url), client_id="id", client_secret="s", form={}
    )


async def ask_who(http: httpx.AsyncClient, url: str) -> Any:
    client = OAuthProviderClient(http=http, timeout=20)
    return await client.me.__wrapped__(client, x_provider(web_url=url, api_url=url), "token")


async def list_gologin(http: httpx.AsyncClient, url: str) -> Any:
    client = gologin(http, url)
    return await client.list_profiles.__wrapped__(client, 1)


async def list_adspower(http: httpx.AsyncClient, url: str) -> Any:
    client = AdsPowerClient(http=http, base_url=url, api_timeout=20, stop_timeout=20, spacing=0)
    return await client.list_profiles.__wrapped__(client, 1)


async def start_gologin(http: httpx.AsyncClient, url: str) -> Any:
    return await gologin(http, url).start_profile("id", timeout=20)


async def start_adspower(http: httpx.AsyncClient, url: str) -> Any:
    client = AdsPowerClient(http=http, base_url=url, api_timeout=20, stop_timeout=20, spacing=0)
    return await client.start_profile("id", timeout=20)


async def ask_version(http: httpx.AsyncClient, url: str) -> Any:
    return await DevToolsClient(http=http).version(url.removeprefix("http://"))


def gologin(http: httpx.AsyncClient, url: str) -> GoLoginClient:
    return GoLoginClient(
        http=http, gate=OpenGate(), api_url=url, api_token="t", local_url=url, api_timeout=20, stop_timeout=20
    )


CALLS: dict[Callable[[httpx.AsyncClient, str], Awaitable[Any]], type[AppException]] = {
    ask_token: TwitterAPIException,
    ask_who: TwitterAPIException,
    list_gologin: GoLoginAPIException,
    start_gologin: GoLoginAPIException,
    start_adspower: AdsPowerAPIException,
    ask_version: SeleniumConnectionException,
}


@pytest.mark.parametrize(("call", "error"), CALLS.items(), ids=[call.__name__ for call in CALLS])
@pytest.mark.parametrize("kind", ["bomb", "endless", "deep"])
async def test_no_client_reads_further(
    http: httpx.AsyncClient, call: Callable[..., Any], error: type[AppException], kind: str
):
    """A bomb costs no more memory than a few times the ceiling; deep nesting is no JSON."""
    endless = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + b" " * (MAX_LIST + 100_000)
    sent = {
        "bomb": answer(bomb(), Content_Encoding="gzip"),
        "endless": Slow(endless, pause=0.01),
        "deep": answer(b"[" * 200_000),
    }[kind]
    async with scripted(sent) as server:
        tracemalloc.start()
        try:
            with pytest.raises(error) as raised:
                await call(http, server.url)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 5 * MAX_LIST
    if kind != "deep" and error is not SeleniumConnectionException:
        assert "larger than" in raised.value.message


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (list_gologin, {"profiles": [{"id": "a", "notes": "x" * MAX_ANSWER}]}),
        (list_adspower, {"code": 0, "data": {"list": [{"user_id": "a", "remark": "x" * MAX_ANSWER}]}}),
    ],
)
async def test_a_profile_list_may_be_larger_than_other_answers(
    http: httpx.AsyncClient, call: Callable[..., Any], body: dict[str, Any]
):
    async with scripted(answer(json.dumps(body).encode())) as server:
        (row,) = (await call(http, server.url)).profiles
    assert row.id == "a"


async def test_the_service_reads_within_ceilings(sandbox_context: Any):
    """The client that everything of the service shares."""
    clients = (
        sandbox_context.tokens.oauth._client,
        sandbox_context.fleet.client,
        sandbox_context.fleet.gologin._devtools,
    )
    assert {type(client._http._transport) for client in clients} == {BoundedTransport}
    async with scripted(answer(json.dumps({"access_token": "x" * MAX_ANSWER}).encode())) as server:
        async with asyncio.timeout(60):
            with pytest.raises(TwitterAPIException, match="larger than"):
                await ask_token(sandbox_context.tokens.oauth._client._http, server.url)


@pytest.mark.parametrize("encoding", ["identity", "gzip", "br"])
async def test_a_refusal_is_cut_off_and_keeps_its_status(http: httpx.AsyncClient, encoding: str):
    """A 429 with a huge body must open the breaker all the same."""
    body = b"Slow down. " + b" " * (2 * MAX_ANSWER)
    sent = answer(gzip.compress(body) if encoding == "gzip" else body, Content_Encoding=encoding)
    async with scripted(sent.replace(b"200 OK", b"429 Slow")) as server:
        response = await http.get(server.url)
    assert response.status_code == 429
    assert response.content == (b"" if encoding == "br" else body[:MAX_ANSWER])


async def test_charset_unpacks_no_text_and_cookies_are_not_kept(http: httpx.AsyncClient):
    packed = zlib.compress(b" " * 10_000_000)
    async with scripted(answer(packed, Content_Type="text/html; charset=zlib", Set_Cookie="a=b")) as server:
        response = await http.get(server.url)
    assert len(response.text) <= len(packed)
    assert not http.cookies


async def test_an_empty_body_is_read_however_it_is_said_to_be_packed(http: httpx.AsyncClient):
    async with scripted(answer(b"", Content_Encoding="br")) as server:
        assert (await http.get(server.url)).content == b""
