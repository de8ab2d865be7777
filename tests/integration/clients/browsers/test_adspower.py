"""AdsPower's client against its stand-in: pages, real browsers, every broken answer, and its pace."""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from app.clients.browsers.adspower import AdsPowerClient
from app.utils.exceptions import AdsPowerAPIException
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.sandbox import running

pytestmark = pytest.mark.usefixtures("no_waiting")

NOBODY: Final = "http://127.0.0.1:9"
TOO_MANY: Final = "Too many request per second, please check"

Call = Callable[[AdsPowerClient, str], Awaitable[object]]

CALLS: Final[dict[str, Call]] = {
    "list": lambda client, _: client.list_profiles(1),
    "exists": lambda client, profile_id: client.profile_exists(profile_id),
    "status": lambda client, _: client.check_token(),
    "start": lambda client, profile_id: client.start_profile(profile_id, timeout=client._api_timeout),
    "stop": lambda client, profile_id: client.stop_profile(profile_id),
}
ENDPOINTS: Final = {name: f"adspower.{name}" for name in CALLS} | {"exists": "adspower.list"}
ASKED_AGAIN: Final = {"list", "exists", "status"}


def make(http: httpx.AsyncClient, url: str, *, timeout: float = 20, spacing: float = 0) -> AdsPowerClient:
    return AdsPowerClient(http=http, base_url=url, api_timeout=timeout, stop_timeout=timeout, spacing=spacing)


@pytest.fixture
def client(counted: httpx.AsyncClient, info: SandboxInfo) -> AdsPowerClient:
    return make(counted, info.adspower_url)


async def test_the_list_ends_with_an_empty_page(client: AdsPowerClient, profile: ProfileInfo):
    pages = [await client.list_profiles(page) for page in (1, 2)]
    rows = pages[0].profiles
    assert len(rows) >= 66
    assert pages[1].profiles == []
    row = next(row for row in rows if row.id == profile.id)
    assert (row.name, row.notes, row.tags, row.browser_type) == (
        profile.account,
        None,
        ("sandbox",),
        "adspower",
    )
    assert {row.name for row in rows} >= {"sandbox_002", "sandbox_004"}  # the stand-in's have stray spaces
    assert "proxy-password" not in repr(pages)


async def test_list_has_several_pages(client: AdsPowerClient, admin: SandboxAdmin):
    await admin.reset_profiles(130)
    try:
        sizes = [len((await client.list_profiles(page)).profiles) for page in (1, 2, 3)]
    finally:
        await admin.reset_profiles(65)
    assert sizes == [100, 30, 0]


async def test_a_profile_exists_or_not(client: AdsPowerClient, profile: ProfileInfo):
    assert await client.profile_exists(profile.id)
    assert not await client.profile_exists("unknown")


async def test_the_app_runs(client: AdsPowerClient):
    await client.check_token()


async def test_a_browser_is_started_and_stopped(
    client: AdsPowerClient, http: httpx.AsyncClient, admin: SandboxAdmin, profile: ProfileInfo
):
    ws_url = await client.start_profile(profile.id, timeout=30)
    version = (await http.get(f"http://{urlsplit(ws_url).netloc}/json/version")).json()
    assert version["webSocketDebuggerUrl"] == ws_url
    assert [browser.ws_url for browser in await admin.browsers() if browser.profile_id == profile.id] == [
        ws_url
    ]
    assert await client.start_profile(profile.id, timeout=30) == ws_url
    await client.stop_profile(profile.id)
    assert await running(admin, profile.id) == []


async def test_stop_of_a_stopped_profile_succeeds(client: AdsPowerClient, profile: ProfileInfo):
    await client.stop_profile(profile.id)
    await client.stop_profile("unknown")


async def test_an_unknown_profile_cannot_be_started(client: AdsPowerClient, sent: list[str]):
    with pytest.raises(AdsPowerAPIException, match="user account does not exist") as caught:
        await client.start_profile("unknown", timeout=20)
    assert (caught.value.status, caught.value.retryable, len(sent)) == ("code -1", False, 1)
    assert caught.value.message == "AdsPower API error (code -1): user account does not exist"


@pytest.mark.parametrize("kind", ["no_ws_url", "start_then_kill"])
async def test_a_start_without_a_browser_is_a_failure(
    client: AdsPowerClient, admin: SandboxAdmin, profile: ProfileInfo, kind: str
):
    """The failure is not one of an app that was never asked: the browser may have to be stopped."""
    await admin.set_fault("adspower.start", kind, account=profile.account)
    with pytest.raises(AdsPowerAPIException) as caught:
        await client.start_profile(profile.id, timeout=20)
    assert caught.value.status != "unreachable"


BROKEN: Final[dict[str, tuple[dict[str, Any], object, bool]]] = {
    "code -1": (
        {"kind": "status", "status": 200, "body": {"code": -1, "msg": "no"}},
        "code -1",
        False,
    ),
    "too many": ({"kind": "rate_limited"}, "code -1", True),
    "HTML 200": ({"kind": "html", "status": 200}, 200, False),
    "HTML 502": ({"kind": "html"}, 502, True),
    "JSON 500": ({"kind": "status"}, 500, True),
    "JSON 404": ({"kind": "status", "status": 404}, 404, False),
    "truncated": ({"kind": "truncated_json"}, 200, False),
    "empty body": ({"kind": "empty_body"}, 200, False),
    "a list": ({"kind": "status", "status": 200, "body": "[]"}, "no code", False),
    "no code": ({"kind": "status", "status": 200, "body": {}}, "no code", False),
    "dropped": ({"kind": "drop"}, "disconnected", True),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("call", CALLS)
async def test_broken_answer_is_an_error(
    client: AdsPowerClient, sent: list[str], admin: SandboxAdmin, profile: ProfileInfo, call: str, case: str
):
    fault, status, retryable = BROKEN[case]
    await admin.clear_stats()
    await admin.set_fault(ENDPOINTS[call], **fault)
    with pytest.raises(AdsPowerAPIException) as caught:
        await CALLS[call](client, profile.id)
    assert (caught.value.status, caught.value.retryable) == (status, retryable)
    assert caught.value.message.startswith(f"AdsPower API error ({status}): ")
    assert "<" not in caught.value.message
    assert len(sent) == (3 if retryable and call in ASKED_AGAIN else 1)
    assert (await admin.stats()).by_endpoint == {ENDPOINTS[call]: len(sent)}


@pytest.mark.parametrize("call", CALLS)
async def test_an_app_that_hangs_is_given_up(
    counted: httpx.AsyncClient, sent: list[str], info: SandboxInfo, admin: SandboxAdmin, call: str
):
    await admin.set_fault(ENDPOINTS[call], "hang")
    with pytest.raises(AdsPowerAPIException, match=r"\(timeout\): no answer within 0.3 seconds") as caught:
        await CALLS[call](make(counted, info.adspower_url, timeout=0.3), "any")
    assert (caught.value.status, caught.value.retryable) == ("timeout", True)
    assert len(sent) == (3 if call in ASKED_AGAIN else 1)


@pytest.mark.parametrize("call", CALLS)
async def test_app_that_does_not_run_is_an_error(counted: httpx.AsyncClient, sent: list[str], call: str):
    with pytest.raises(AdsPowerAPIException, match="is it running") as caught:
        await CALLS[call](make(counted, NOBODY), "any")
    assert (caught.value.status, caught.value.retryable) == ("unreachable", True)
    assert len(sent) == (3 if call in ASKED_AGAIN else 1)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"s3cret": 1}, "the body must be an object with a code, and an object of length 1 came"),
        ("[7]", "the body must be an object with a code, and a list of length 1 came"),
        ("s3cret", "the body must be JSON, and text of length 6 came"),
        (
            {"code": 0, "data": {"ws": {"selenium": ["s3cret"]}}},
            "input should be a valid string, and a list of ",
        ),
        ({"code": 0, "data": {"ws": {}}}, "ws.selenium: field required, and nothing came"),
    ],
)
async def test_unexpected_answer_is_described_by_field_and_type(
    client: AdsPowerClient, admin: SandboxAdmin, body: Any, problem: str
):
    await admin.set_fault("adspower.start", "status", status=200, body=body)
    with pytest.raises(AdsPowerAPIException) as caught:
        await client.start_profile("any", timeout=20)
    assert problem in caught.value.message
    assert "s3cret" not in caught.value.message


async def test_message_of_the_app_is_cut_and_has_no_tag(client: AdsPowerClient, admin: SandboxAdmin):
    body = {"code": -1, "msg": "<b>no</b> " + "x" * 1000}
    await admin.set_fault("adspower.start", "status", status=200, body=body)
    with pytest.raises(AdsPowerAPIException) as caught:
        await client.start_profile("any", timeout=20)
    words = caught.value.message.removeprefix("AdsPower API error (code -1): ")
    assert len(words) == 500
    assert words.startswith("no xxx")


async def test_incomplete_rows_are_tolerated(client: AdsPowerClient, admin: SandboxAdmin):
    rows = [
        {"user_id": "a"},
        {"user_id": "b", "name": 5, "remark": None, "group_name": ["x"], "new_field": {}},
        {"user_id": "c", "name": " @Anna ", "remark": " note ", "group_name": " g "},
    ]
    await admin.set_fault(
        "adspower.list", "status", status=200, body={"code": 0, "msg": "", "data": {"list": rows}}
    )
    found = (await client.list_profiles(1)).profiles
    assert [(row.id, row.name, row.notes, row.tags) for row in found] == [
        ("a", "", None, ()),
        ("b", "", None, ()),
        ("c", "@Anna", "note", ("g",)),
    ]


async def test_client_never_calls_faster_than_the_app_allows(
    counted: httpx.AsyncClient, info: SandboxInfo, admin: SandboxAdmin
):
    await admin.change_settings(adspower_spacing_ms=100)
    client = make(counted, info.adspower_url, spacing=0.4)
    for _ in range(3):
        assert not await client.profile_exists("unknown")
    records = await admin.requests(endpoint="adspower.list", limit=3)
    assert all(later.at - sooner.at >= 0.2 for sooner, later in itertools.pairwise(records))


async def test_call_refused_as_too_fast_is_repeated(
    client: AdsPowerClient, admin: SandboxAdmin, sent: list[str]
):
    await admin.set_fault("adspower.list", "rate_limited", times=2)
    assert (await client.list_profiles(1)).profiles
    assert len(sent) == 3
