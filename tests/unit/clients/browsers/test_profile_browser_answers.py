"""Arbitrary answers of GoLogin and AdsPower: what can be used and stored, or one of our errors."""

import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.clients.bounded import BoundedTransport
from app.clients.browsers.adspower import AdsPowerClient
from app.clients.browsers.gologin import GoLoginClient
from app.clients.browsers.profile_browser import ProfileBrowserClient, ProfilePage, is_profile_id
from app.utils.exceptions import AdsPowerAPIException, GoLoginAPIException

TOKEN = "the-api-token-of-the-settings"
LONGEST_MESSAGE = 3000
FEW = settings(max_examples=60, deadline=None)

TEXTS = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(
    (
        "\x00",
        "\ud83d",
        "a\x00b\ud800",
        TOKEN,
        f"x{TOKEN}\x00",
        "9" * 5000,
        "x" * 30_000,
        "<b>no</b>",
        "Too many",
    )
)
ADDRESSES = st.sampled_from(
    (
        "ws://127.0.0.1:9222/devtools/browser/x",
        "127.0.0.1:9222",
        "127.0.0.1:99999",
        "evil.invalid:80",
        "127.0.0.1:٣",
        "127.0.0.1:80\n",
        "ws://127.0.0.1:99999/x",
        "ws://169.254.169.254:80/x",
        "ws://[::1:80/x",
        "ws://127.0.0.1:80/\x00",
        "ws://127.0.0.1:80/\ud800",
    )
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**17, 10**1500)
    | st.floats()
    | TEXTS
    | ADDRESSES
    | st.just(0),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("selenium", "user_id", "id", "name", "list", "title")) | TEXTS, inner, max_size=3
        )
    ),
    max_leaves=6,
)
NAMES = (
    *("wsUrl", "status", "message", "error", "profiles", "allProfilesCount", "id"),
    *("code", "msg", "data", "ws", "webSocketDebuggerUrl"),
)
FIELDS = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, VALUES))
DATA = st.fixed_dictionaries(
    {},
    optional={
        "ws": st.fixed_dictionaries({}, optional={"selenium": VALUES}) | VALUES,
        "list": st.lists(
            st.fixed_dictionaries(
                {}, optional=dict.fromkeys(("user_id", "name", "remark", "group_name"), VALUES)
            )
            | VALUES,
            max_size=3,
        ),
        "webSocketDebuggerUrl": VALUES,
    },
)
OF_ADSPOWER = st.fixed_dictionaries(
    {"code": st.sampled_from((0, 0, 0, -1)) | VALUES},
    optional={"data": DATA | VALUES, "msg": VALUES, "webSocketDebuggerUrl": VALUES},
)
BODIES = (FIELDS | OF_ADSPOWER | VALUES).map(lambda body: json.dumps(body).encode())
CONTENTS = BODIES | st.sampled_from(
    (
        b"",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"code":' * 50_000,
        b"<html>error code: 1015</html>",
        b"\xef\xbb\xbf{}",
    )
)
HEADERS = st.dictionaries(
    st.sampled_from(("content-type", "retry-after", "content-encoding", "location", "x-rate-limit-reset")),
    st.sampled_from(
        ("application/json", "text/html; charset=hex", "gzip", "br", "identity", "-1", "1e999", "9" * 400)
    )
    | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
)
STATUSES = st.sampled_from((200, 204, 302, 400, 401, 403, 404, 418, 429, 500, 503, 599))


@dataclass
class Gate:
    is_open: bool = True

    async def acquire(self) -> None:
        pass

    async def open_breaker(self, reason: str) -> None:
        self.is_open = False


Ask = Callable[[Any], Coroutine[Any, Any, object]]


async def start(client: ProfileBrowserClient) -> str:
    return await client.start_profile("id", timeout=5)


async def stop(client: ProfileBrowserClient) -> None:
    await client.stop_profile("id")


async def list_page(client: Any) -> ProfilePage:
    return await type(client).list_profiles.__wrapped__(client, 1)


async def exists(client: Any) -> bool:
    return await type(client).profile_exists.__wrapped__(client, "id")


async def check(client: Any) -> None:
    await type(client).check_token.__wrapped__(client)


ASKS = (start, stop, list_page, exists, check)


def answering(status: int, content: bytes, headers: dict[str, str]) -> httpx.AsyncClient:
    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content))

    return httpx.AsyncClient(transport=BoundedTransport(httpx.MockTransport(answer)))


def assert_storable(text: str) -> None:
    """In a Text column of both databases, and in a log line."""
    assert "\x00" not in text
    text.encode()


def assert_usable(result: object) -> None:
    if isinstance(result, str):
        assert result.isascii()
        parts = urlsplit(result)
        assert (parts.hostname, bool(parts.port), bool(parts.path)) == ("127.0.0.1", True, True)
    elif isinstance(result, ProfilePage):
        for row in result.profiles:
            assert is_profile_id(row.id)
            for text in (row.name, row.notes or "", row.os or "", row.browser_type or "", *row.tags):
                assert_storable(text)
        assert all(text.isascii() and text.isprintable() for text in result.skipped)
    else:
        assert isinstance(result, bool | None)


async def check_answer(ask: Ask, client: ProfileBrowserClient, error: type[GoLoginAPIException]) -> None:
    try:
        assert_usable(await ask(client))
    except GoLoginAPIException as raised:
        refusal = raised
    else:
        return
    assert type(refusal) is error
    assert refusal.retry_after is None, "nobody waits for as long as the answer says"
    assert_storable(refusal.message)
    assert len(refusal.message) < LONGEST_MESSAGE
    if error is GoLoginAPIException:
        assert TOKEN not in refusal.message


@pytest.mark.parametrize("ask", ASKS)
@FEW
@given(content=CONTENTS, status=STATUSES, headers=HEADERS)
async def test_any_answer_of_gologin_is_usable_or_one_of_our_errors(
    ask: Ask, content: bytes, status: int, headers: dict[str, str]
):
    gate = Gate()
    async with answering(status, content, headers) as http:
        client = GoLoginClient(
            http=http,
            gate=gate,
            api_url="http://cloud.example",
            api_token=TOKEN,
            local_url="http://127.0.0.1:36912",
            api_timeout=5,
            stop_timeout=5,
        )
        await check_answer(ask, client, GoLoginAPIException)
    if status == 429 and ask in (list_page, exists, check):
        assert not gate.is_open


@pytest.mark.parametrize("ask", ASKS)
@FEW
@given(content=CONTENTS, status=st.just(200) | STATUSES, headers=HEADERS)
async def test_any_answer_of_adspower_is_usable_or_one_of_our_errors(
    ask: Ask, content: bytes, status: int, headers: dict[str, str]
):
    async with answering(status, content, headers) as http:
        client = AdsPowerClient(
            http=http, base_url="http://127.0.0.1:50325", api_timeout=5, stop_timeout=5, spacing=0
        )
        await check_answer(ask, client, AdsPowerAPIException)


@pytest.mark.parametrize("field", ["message", "error"])
@given(words=VALUES, headers=HEADERS, status=st.sampled_from((200, 400, 404, 500)))
@FEW
async def test_words_of_a_refused_start_can_be_stored(
    field: str, words: Any, headers: dict[str, str], status: int
):
    await test_any_answer_of_gologin_is_usable_or_one_of_our_errors.hypothesis.inner_test(
        start, json.dumps({"status": "error", field: words}).encode(), status, headers
    )
