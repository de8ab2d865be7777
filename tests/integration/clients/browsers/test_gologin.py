"""GoLogin's client against its stand-ins: what each answer means, what is asked again, and what opens the breaker."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import select

from app.clients.browsers.gologin import GoLoginClient
from app.clients.browsers.profile_browser import BrowserProfile
from app.database import Database
from app.models import Event
from app.services.profiles.request_budget import RequestBudget
from app.utils.exceptions import GoLoginAPIException, GoLoginBreakerOpenException
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.logs import logged
from tests.fixtures.sandbox import running

pytestmark = pytest.mark.usefixtures("no_waiting")

NOBODY: Final = "http://127.0.0.1:9"
CLOUDFLARE_PAGE: Final = (
    "<!DOCTYPE html><html><head><title>Access denied | api.gologin.com used Cloudflare to restrict access</title>"
    "</head><body><h1><span>Error</span> <span>1015</span></h1><h2>You are being rate limited</h2></body></html>"
)

Call = Callable[[GoLoginClient, str], Awaitable[object]]

CALLS: Final[dict[str, Call]] = {
    "list": lambda client, _: client.list_profiles(1),
    "profile": lambda client, profile_id: client.profile_exists(profile_id),
    "user": lambda client, _: client.check_token(),
    "start": lambda client, profile_id: client.start_profile(profile_id, timeout=client._api_timeout),
    "stop": lambda client, profile_id: client.stop_profile(profile_id),
}
CLOUD: Final = ("list", "profile", "user")
LOCAL: Final = ("start", "stop")
ENDPOINTS: Final = {name: f"{'gologin' if name in CLOUD else 'local'}.{name}" for name in CALLS}

MakeClient = Callable[..., GoLoginClient]


@pytest.fixture
def make(counted: httpx.AsyncClient, info: SandboxInfo) -> MakeClient:
    def made(gate: RequestBudget, *, timeout: float = 20, **changes: str) -> GoLoginClient:
        addresses = {
            "api_url": info.gologin_api_url,
            "api_token": info.gologin_api_token,
            "local_url": info.gologin_local_url,
        }
        return GoLoginClient(
            http=counted, gate=gate, api_timeout=timeout, stop_timeout=timeout, **addresses | changes
        )

    return made


@pytest.fixture
async def gate(sqlite_url: str) -> AsyncIterator[RequestBudget]:
    """For the tests that are not about it: nobody waits for a place."""
    database = Database(sqlite_url, pool_size=2)
    yield RequestBudget(database=database, budget=1_000_000)
    await database.close()


@pytest.fixture
def client(make: MakeClient, gate: RequestBudget) -> GoLoginClient:
    return make(gate)


async def failure(call: str, client: GoLoginClient, profile_id: str = "0" * 24) -> GoLoginAPIException:
    with pytest.raises(GoLoginAPIException) as caught:
        await CALLS[call](client, profile_id)
    error = caught.value
    assert error.message.startswith(f"GoLogin API error ({error.status}): ")
    assert len(words(error)) <= 500
    assert "<" not in error.message
    return error


def words(error: GoLoginAPIException) -> str:
    return error.message.removeprefix(f"GoLogin API error ({error.status}): ")


class TestWhatWorks:
    async def test_the_list_is_read_page_by_page(self, client: GoLoginClient, profile: ProfileInfo):
        pages = [(await client.list_profiles(page)).profiles for page in (1, 2, 3, 4)]
        assert [len(page) for page in pages[:2]] == [30, 30]
        assert pages[3] == []
        rows = {row.id: row for page in pages for row in page}
        assert len(rows) == sum(map(len, pages)) >= 66
        assert rows[profile.id].name == profile.account
        assert all(row.name == row.name.strip() for row in rows.values())
        assert (rows[profile.id].tags, rows[profile.id].os) == (("sandbox",), "lin")
        assert (rows[profile.id].browser_type, rows[profile.id].can_be_running) == ("chrome", True)

    async def test_no_proxy_password_comes_through(self, client: GoLoginClient):
        page = await client.list_profiles(1)
        assert "proxy" not in repr(page) + page.model_dump_json()

    async def test_a_profile_exists_or_not(self, client: GoLoginClient, profile: ProfileInfo):
        assert await client.profile_exists(profile.id)
        assert not await client.profile_exists("0" * 24)

    async def test_an_id_is_one_part_of_the_path(self, client: GoLoginClient):
        assert not await client.profile_exists("../user")

    async def test_the_token_works(self, client: GoLoginClient, sent: list[str]):
        await client.check_token()
        assert sent == ["GET"]

    async def test_a_browser_is_started_and_stopped(
        self, client: GoLoginClient, http: httpx.AsyncClient, admin: SandboxAdmin, profile: ProfileInfo
    ):
        ws_url = await client.start_profile(profile.id, timeout=30)
        version = (await http.get(f"http://{urlsplit(ws_url).netloc}/json/version")).json()
        assert version["webSocketDebuggerUrl"] == ws_url
        assert await client.start_profile(profile.id, timeout=30) == ws_url
        await client.stop_profile(profile.id)
        assert await running(admin, profile.id) == []
        await client.stop_profile(profile.id)


class TestErrorFacts:
    """The rows of the error table."""

    async def test_400_with_a_list_of_sentences_joins_them(self, client: GoLoginClient, admin: SandboxAdmin):
        body = {"statusCode": 400, "error": "Bad Request", "message": ["page must be a number", "and small"]}
        await admin.set_fault("gologin.list", "status", status=400, body=body)
        error = await failure("list", client)
        assert (error.status, error.retryable) == (400, False)
        assert words(error) == "page must be a number; and small"

    async def test_400_of_the_stand_in_is_an_error(self, client: GoLoginClient, sent: list[str]):
        with pytest.raises(GoLoginAPIException, match=r"\(400\): page: Input should be greater"):
            await client.list_profiles(0)
        assert len(sent) == 1

    @pytest.mark.parametrize("call", CLOUD)
    async def test_401_means_a_bad_token(
        self, make: MakeClient, gate: RequestBudget, sent: list[str], call: str
    ):
        error = await failure(call, make(gate, api_token="wrong-token-value"))
        assert (error.status, error.retryable, words(error)) == (401, False, "Unauthorized")
        assert len(sent) == 1
        assert not (await gate.state()).is_open

    @pytest.mark.parametrize("call", CALLS)
    async def test_403_means_a_limit_of_the_plan(
        self, client: GoLoginClient, admin: SandboxAdmin, sent: list[str], call: str
    ):
        sentence = "You've reached max parallel cloud launches limit"
        body = {"statusCode": 403, "error": "Forbidden", "message": sentence}
        await admin.set_fault(ENDPOINTS[call], "status", status=403, body=body)
        error = await failure(call, client)
        assert (error.status, error.retryable, words(error)) == (403, False, sentence)
        assert len(sent) == 1

    async def test_404_means_a_deleted_profile(self, client: GoLoginClient, sent: list[str]):
        assert not await client.profile_exists("0" * 24)
        error = await failure("start", client)
        assert (error.status, error.retryable, words(error)) == (404, False, "Profile deleted or not found")
        assert len(sent) == 2

    async def test_404_of_anything_else_is_an_error(self, client: GoLoginClient, admin: SandboxAdmin):
        for call in ("list", "user", "stop"):
            await admin.set_fault(ENDPOINTS[call], "status", status=404)
            error = await failure(call, client)
            assert (error.status, error.retryable) == (404, False)

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    @pytest.mark.parametrize("call", CALLS)
    async def test_5xx_is_a_transient_error(
        self, client: GoLoginClient, admin: SandboxAdmin, sent: list[str], call: str, status: int
    ):
        await admin.clear_stats()
        await admin.set_fault(ENDPOINTS[call], "status", status=status)
        error = await failure(call, client)
        assert (error.status, error.retryable) == (status, True)
        assert sent == (["GET"] * 3 if call in CLOUD else ["POST"])
        assert (await admin.stats()).by_endpoint == {ENDPOINTS[call]: len(sent)}

    @pytest.mark.parametrize("status", [405, 409, 422, 501])
    async def test_other_statuses_are_not_asked_again(
        self, client: GoLoginClient, admin: SandboxAdmin, sent: list[str], status: int
    ):
        await admin.set_fault("gologin.list", "status", status=status)
        error = await failure("list", client)
        assert (error.status, error.retryable, len(sent)) == (status, False, 1)

    async def test_a_redirect_is_not_followed(
        self, client: GoLoginClient, admin: SandboxAdmin, sent: list[str]
    ):
        await admin.set_fault("gologin.user", "status", status=302, body="moved")
        assert (await failure("user", client)).status == 302
        assert len(sent) == 1

    @pytest.mark.parametrize("call", CLOUD)
    async def test_transient_failure_is_repeated(
        self, client: GoLoginClient, admin: SandboxAdmin, profile: ProfileInfo, sent: list[str], call: str
    ):
        await admin.set_fault(ENDPOINTS[call], "status", status=503, times=1)
        await admin.set_fault(ENDPOINTS[call], "drop", times=1)
        assert await CALLS[call](client, profile.id) is not False
        assert len(sent) == 3

    @pytest.mark.parametrize(
        "body",
        [
            {"status": "success"},
            {"status": "success", "wsUrl": None},
            {"status": "success", "wsUrl": ""},
            {"status": "success", "wsUrl": 9222},
            {"status": "success", "wsUrl": "http://127.0.0.1:9222/devtools/browser/x"},
            {"status": "success", "wsUrl": "ws://127.0.0.1/devtools/browser/x"},
            "[]",
            "null",
        ],
        ids=str,
    )
    async def test_200_without_an_address_is_a_failure(
        self, client: GoLoginClient, admin: SandboxAdmin, sent: list[str], body: object
    ):
        await admin.set_fault("local.start", "status", status=200, body=body)
        error = await failure("start", client)
        assert (error.status, error.retryable, len(sent)) == (200, False, 1)

    async def test_start_of_the_stand_in_without_ws_url_is_a_failure(
        self, client: GoLoginClient, admin: SandboxAdmin, profile: ProfileInfo
    ):
        await admin.set_fault("local.start", "no_ws_url", account=profile.account)
        assert words(await failure("start", client, profile.id)).endswith(
            "wsUrl: field required, and nothing came"
        )

    async def test_a_429_of_the_desktop_app_is_no_sign_of_the_clouds(
        self, client: GoLoginClient, gate: RequestBudget, admin: SandboxAdmin, sent: list[str]
    ):
        await admin.set_fault("local.start", "rate_limited")
        assert (await failure("start", client)).retryable is False
        assert not (await gate.state()).is_open
        assert len(sent) == 1


BROKEN: Final[dict[str, tuple[dict[str, Any], object, bool]]] = {
    "HTML 200": ({"kind": "html", "status": 200}, 200, False),
    "HTML 502": ({"kind": "html"}, 502, True),
    "HTML 403": ({"kind": "html", "status": 403}, 403, False),
    "truncated": ({"kind": "truncated_json"}, 200, False),
    "empty body": ({"kind": "empty_body"}, 200, False),
    "empty 500": ({"kind": "empty_body", "status": 500}, 500, True),
    "dropped": ({"kind": "drop"}, "disconnected", True),
    "dropped after": ({"kind": "drop_after"}, "disconnected", True),
}
DONE_BY_ITS_STATUS: Final = {"HTML 200", "truncated", "empty body"}
"""A stop has succeeded by its status alone: 204 without a body is the rule."""


class TestBrokenAnswers:
    async def test_page_in_place_of_json_is_described_by_its_length(
        self, client: GoLoginClient, admin: SandboxAdmin
    ):
        await admin.set_fault("local.start", "html", status=200)
        message = (await failure("start", client)).message
        assert re.search(r"the body must be JSON, and text of length \d+ came$", message), message

    @pytest.mark.parametrize("case", BROKEN)
    @pytest.mark.parametrize("call", CALLS)
    async def test_broken_answer_is_an_error(
        self,
        client: GoLoginClient,
        gate: RequestBudget,
        admin: SandboxAdmin,
        profile: ProfileInfo,
        sent: list[str],
        call: str,
        case: str,
    ):
        fault, status, retryable = BROKEN[case]
        await admin.clear_stats()
        await admin.set_fault(ENDPOINTS[call], **fault)
        if call == "stop" and case in DONE_BY_ITS_STATUS:
            await client.stop_profile(profile.id)
        else:
            error = await failure(call, client, profile.id)
            assert (error.status, error.retryable) == (status, retryable)
        assert len(sent) == (3 if retryable and call in CLOUD else 1)
        assert (await admin.stats()).by_endpoint == {ENDPOINTS[call]: len(sent)}
        assert not (await gate.state()).is_open

    @pytest.mark.parametrize("call", CALLS)
    async def test_a_hang_is_given_up(
        self, make: MakeClient, gate: RequestBudget, admin: SandboxAdmin, sent: list[str], call: str
    ):
        await admin.set_fault(ENDPOINTS[call], "hang")
        error = await failure(call, make(gate, timeout=0.3))
        assert (error.status, error.retryable) == ("timeout", True)
        assert words(error) == "no answer within 0.3 seconds"
        assert len(sent) == (3 if call in CLOUD else 1)

    @pytest.mark.parametrize("call", CALLS)
    async def test_closed_port_is_an_error(
        self, make: MakeClient, gate: RequestBudget, sent: list[str], call: str
    ):
        error = await failure(call, make(gate, api_url=NOBODY, local_url=NOBODY))
        assert (error.status, error.retryable) == ("unreachable", True)
        assert ("the cloud API" if call in CLOUD else "running and signed in") in error.message
        assert len(sent) == (3 if call in CLOUD else 1)

    async def test_an_answer_that_comes_in_drops_is_given_up(
        self, make: MakeClient, gate: RequestBudget, sent: list[str]
    ):
        """Each drop comes within the timeout, the whole never."""

        async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            try:
                while not writer.is_closing():
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.02)
            except ConnectionError:
                pass
            writer.close()

        async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with asyncio.timeout(60):
                error = await failure("stop", make(gate, local_url=url, timeout=0.3))
        assert error.status == "timeout"
        assert sent == ["POST"]


class TestWords:
    """GoLogin's own, and nothing that is not to be shown."""

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({"message": "one sentence"}, "one sentence"),
            ({"message": ["a", "b"]}, "a; b"),
            ({"message": ["a", 5, {"b": 1}]}, "a; 5; {'b': 1}"),
            ({"message": [], "error": "Bad Request"}, "Bad Request"),
            ({"message": None, "error": "Bad Request"}, "Bad Request"),
            ({"message": {"why": "so"}}, "{'why': 'so'}"),
            ({"message": "a <b>bold</b>\n word"}, "a bold word"),
            ({"message": "1 < 2 and 3 > 2"}, None),
            ("<html><style>p {color: red}</style><script>var a = 1 < 2</script><p>Too bad</p>", "Too bad"),
            ("<html><body><h1>Cut off</h1><div class='x", "Cut off"),
            ("<html><body>Cut off<script>var a = 1", "Cut off"),
            ("plain words", "plain words"),
            ("[]", "[]"),
            ('"words"', '"words"'),
            ("[" * 100_000, "[" * 500),
        ],
        ids=lambda value: str(value)[:30],
    )
    async def test_message_of_any_shape_is_shown(
        self, client: GoLoginClient, admin: SandboxAdmin, body: object, expected: str | None
    ):
        await admin.set_fault("gologin.list", "status", status=400, body=body)
        with pytest.raises(GoLoginAPIException) as caught:
            await client.list_profiles(1)
        assert words(caught.value) == (expected or body["message"])

    async def test_empty_answer_has_no_message(self, client: GoLoginClient, admin: SandboxAdmin):
        await admin.set_fault("gologin.list", "empty_body", status=400)
        assert words(await failure("list", client)) == "no message"

    async def test_bytes_that_are_no_text_are_tolerated(self, make: MakeClient, gate: RequestBudget):
        async def garbage(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            body = bytes(range(128, 256)) * 10
            head = (
                f"HTTP/1.1 400 Bad\r\nContent-Type: x/y; charset=nope\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            writer.close()

        async with await asyncio.start_server(garbage, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            assert (await failure("list", make(gate, api_url=url))).status == 400

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("before", [0, 300, 480, 495, 600])
    async def test_the_token_is_masked_also_where_it_would_be_cut(
        self, client: GoLoginClient, admin: SandboxAdmin, info: SandboxInfo, call: str, before: int
    ):
        token = info.gologin_api_token
        bodies = ({"message": "x" * before + token}, f"<p>{'x' * before}{token}</p>", ["x" * before, token])
        for body in bodies:
            await admin.clear_faults()
            content = {"message": body} if isinstance(body, list) else body
            await admin.set_fault(ENDPOINTS[call], "status", status=400, body=content)
            error = await failure(call, client)
            assert not any(token[at : at + 6] in str(error) for at in range(len(token) - 6))
            assert words(error).startswith("x" * min(before, 500))

    async def test_an_unexpected_row_is_not_quoted(self, client: GoLoginClient, admin: SandboxAdmin):
        body = {"profiles": [{"id": {"secret": "s3cret"}, "proxy": {"password": "s3cret"}}]}
        await admin.set_fault("gologin.list", "status", status=200, body=body)
        page = await client.list_profiles(1)
        assert (page.profiles, page.skipped) == ([], ("row 1: dict",))


SIGNS: Final[dict[str, dict[str, Any]]] = {
    "429": {"kind": "rate_limited"},
    "1015": {"kind": "html_1015"},
    "1015 with 403": {"kind": "status", "status": 403, "body": CLOUDFLARE_PAGE},
    "1015 with 503": {"kind": "status", "status": 503, "body": CLOUDFLARE_PAGE},
    "1015 with 200": {"kind": "status", "status": 200, "body": CLOUDFLARE_PAGE},
    "1015 as text": {"kind": "status", "status": 403, "body": "error code: 1015"},
}


@pytest.mark.databases("sqlite")
class TestBreaker:
    @pytest.mark.parametrize("sign", SIGNS)
    @pytest.mark.parametrize("call", CLOUD)
    async def test_a_sign_of_rate_limiting_stops_every_cloud_call(
        self,
        make: MakeClient,
        database: Database,
        admin: SandboxAdmin,
        profile: ProfileInfo,
        sent: list[str],
        caplog: pytest.LogCaptureFixture,
        call: str,
        sign: str,
    ):
        gate = RequestBudget(database=database, budget=1_000_000)
        client = make(gate)
        await admin.clear_stats()
        await admin.set_fault(ENDPOINTS[call], **SIGNS[sign])
        error = await failure(call, client, profile.id)
        assert error.status == SIGNS[sign].get("status", 429)
        assert not error.retryable
        assert sent == ["GET"]
        assert (await gate.state()).is_open

        await admin.clear_faults()
        for other in CLOUD:
            with pytest.raises(GoLoginBreakerOpenException):
                await CALLS[other](client, profile.id)
        assert (await admin.stats()).by_endpoint == {ENDPOINTS[call]: 1}
        async with database.reading() as db:
            events = list(await db.scalars(select(Event.event_type)))
        assert events == ["gologin.breaker_opened"]
        assert [line["level"] for line in logged(caplog, "gologin.breaker_opened")] == ["critical"]

        await client.stop_profile(profile.id)

    async def test_profiles_still_run(
        self, client: GoLoginClient, gate: RequestBudget, admin: SandboxAdmin, profile: ProfileInfo
    ):
        await admin.set_fault("gologin.user", "html_1015")
        await failure("user", client)
        await client.start_profile(profile.id, timeout=30)
        assert await running(admin, profile.id) == [profile.id]
        await client.stop_profile(profile.id)
        assert await running(admin, profile.id) == []
        assert (await gate.state()).is_open

    async def test_simultaneous_signs_are_reported_once(
        self, make: MakeClient, database: Database, admin: SandboxAdmin, sent: list[str]
    ):
        client = make(RequestBudget(database=database, budget=1_000_000))
        await admin.set_fault("gologin.list", "rate_limited")
        results = await asyncio.gather(
            *(client.list_profiles(page) for page in range(1, 9)), return_exceptions=True
        )
        assert {type(result) for result in results} <= {GoLoginAPIException, GoLoginBreakerOpenException}
        assert len(sent) <= 8
        async with database.reading() as db:
            assert list(await db.scalars(select(Event.event_type))) == ["gologin.breaker_opened"]

    async def test_a_retry_does_not_slip_through(
        self, client: GoLoginClient, admin: SandboxAdmin, sent: list[str]
    ):
        """The first attempt fails, and the breaker opens before the second."""
        await admin.set_fault("gologin.list", "status", status=503, times=1)
        await admin.set_fault("gologin.list", "rate_limited", times=1)
        assert (await failure("list", client)).status == 429
        assert len(sent) == 2
        with pytest.raises(GoLoginBreakerOpenException):
            await client.list_profiles(1)
        assert len(sent) == 2

    async def test_a_429_revokes_the_token_and_only_one_call_was_too_many(
        self, client: GoLoginClient, gate: RequestBudget, admin: SandboxAdmin, sent: list[str]
    ):
        """The stand-in's own limit, which counts the calls of the tests before, too."""
        await admin.change_settings(gologin_rate_limit=1)
        with pytest.raises(GoLoginAPIException) as caught:
            for _ in range(2):
                await client.check_token()
        assert caught.value.status == 429
        assert len(sent) <= 2
        assert (await admin.change_settings()).gologin_token_revoked
        assert (await gate.state()).is_open

    async def test_a_profile_may_be_called_like_the_error(
        self, client: GoLoginClient, gate: RequestBudget, admin: SandboxAdmin, profile: ProfileInfo
    ):
        name = "error code: 1015 (Error 1015)"
        await admin.rename_profile(profile.account, name)
        rows: list[BrowserProfile] = []
        for page in (1, 2, 3):
            rows += (await client.list_profiles(page)).profiles
        assert name in {row.name for row in rows}
        assert await client.profile_exists(profile.id)
        assert not (await gate.state()).is_open

    async def test_json_about_it_does_not_open_the_breaker(
        self, client: GoLoginClient, gate: RequestBudget, admin: SandboxAdmin
    ):
        body = {"statusCode": 400, "message": "profile 'error code: 1015' is not yours"}
        await admin.set_fault("gologin.user", "status", status=400, body=body)
        assert "error code: 1015" in words(await failure("user", client))
        assert not (await gate.state()).is_open

    @pytest.mark.parametrize("text", ["Error 10150", "error 101", "terror code 9 of 1015", "1015"])
    async def test_other_pages_do_not_open_the_breaker(
        self, client: GoLoginClient, gate: RequestBudget, admin: SandboxAdmin, text: str
    ):
        await admin.set_fault("gologin.user", "status", status=403, body=f"<p>{text}</p>")
        assert words(await failure("user", client)) == text
        assert not (await gate.state()).is_open

    async def test_a_caller_that_gives_up_meanwhile_opens_it_all_the_same(
        self, make: MakeClient, database: Database, admin: SandboxAdmin
    ):
        """Cancelled while the sign is being written down."""
        gate = RequestBudget(database=database, budget=1_000_000)
        tripping, go_on = asyncio.Event(), asyncio.Event()

        class Slow(RequestBudget):
            async def open_breaker(self, reason: str) -> None:
                tripping.set()
                await go_on.wait()
                await super().open_breaker(reason)

        await admin.set_fault("gologin.user", "rate_limited")
        task = asyncio.create_task(make(Slow(database=database, budget=1_000_000)).check_token())
        async with asyncio.timeout(60):
            await tripping.wait()
            task.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (await gate.state()).is_open


class TestTolerance:
    async def rows(self, client: GoLoginClient, admin: SandboxAdmin, *rows: object) -> list[BrowserProfile]:
        await admin.set_fault("gologin.list", "status", status=200, body={"profiles": list(rows), "new": 1})
        return (await client.list_profiles(1)).profiles

    async def test_missing_fields_are_tolerated(self, client: GoLoginClient, admin: SandboxAdmin):
        (row,) = await self.rows(client, admin, {"id": "a"})
        assert row.model_dump() == {
            "id": "a",
            "name": "",
            "notes": None,
            "tags": (),
            "os": None,
            "browser_type": None,
            "can_be_running": None,
        }

    async def test_fields_of_other_types_are_tolerated(self, client: GoLoginClient, admin: SandboxAdmin):
        strange = {
            "id": "a",
            "name": 5,
            "notes": ["x"],
            "os": {},
            "browserType": 7,
            "canBeRunning": "yes",
            "tags": "sandbox",
            "proxy": "none",
        }
        (row,) = await self.rows(client, admin, strange)
        assert (row.name, row.notes, row.tags, row.os) == ("", None, (), None)
        assert (row.browser_type, row.can_be_running) == (None, None)

    async def test_some_tags_are_ignored(self, client: GoLoginClient, admin: SandboxAdmin):
        tags = [None, "x", {}, {"title": 5}, {"title": "one"}, {"title": " two "}]
        (row,) = await self.rows(client, admin, {"id": "a", "tags": tags})
        assert row.tags == ("one", "two")

    async def test_stray_spaces_and_unstorable_characters_are_removed(
        self, client: GoLoginClient, admin: SandboxAdmin
    ):
        body = (
            '{"profiles": [{"id": "a", "name": " \\u0000@Anna\\ud83d \\n", "notes": "\\u0000x",'
            ' "tags": [{"title": "t\\u0000"}]}]}'
        )
        await admin.set_fault("gologin.list", "status", status=200, body=body)
        (row,) = (await client.list_profiles(1)).profiles
        assert (row.name, row.notes, row.tags) == ("@Anna", "x", ("t",))

    async def test_a_whole_emoji_stays(self, client: GoLoginClient, admin: SandboxAdmin):
        (row,) = await self.rows(client, admin, {"id": "a", "name": "🦊 Ärger"})
        assert row.name == "🦊 Ärger"

    async def test_a_proxy_of_any_shape_is_left_behind(self, client: GoLoginClient, admin: SandboxAdmin):
        proxies = [{"password": "s3cret"}, "http://u:s3cret@h", ["s3cret"], None]
        rows = await self.rows(client, admin, *({"id": str(n), "proxy": p} for n, p in enumerate(proxies)))
        assert len(rows) == 4
        assert "s3cret" not in repr(rows) + str([row.model_dump() for row in rows])

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"profiles": None},
            {"profiles": {}},
            {"profiles": [None] * 1001},
        ],
        ids=str,
    )
    async def test_a_page_that_cannot_be_trusted_is_an_error(
        self, client: GoLoginClient, admin: SandboxAdmin, body: dict[str, object]
    ):
        """An empty page would end the list, and everything after it would be taken for gone."""
        await admin.set_fault("gologin.list", "status", status=200, body=body)
        assert (await failure("list", client)).status == 200

    @pytest.mark.parametrize("row", [{"name": "no id"}, {"id": ""}, "row", None], ids=str)
    async def test_a_row_without_an_id_is_skipped_and_does_not_end_the_list(
        self, client: GoLoginClient, admin: SandboxAdmin, row: object
    ):
        await admin.set_fault("gologin.list", "status", status=200, body={"profiles": [row]})
        page = await client.list_profiles(1)
        assert (page.profiles, len(page.skipped)) == ([], 1)

    async def test_answer_about_another_profile_is_an_error(
        self, client: GoLoginClient, admin: SandboxAdmin, profile: ProfileInfo
    ):
        await admin.set_fault("gologin.profile", "status", status=200, body={"name": "no id"})
        assert (await failure("profile", client, profile.id)).status == 200
