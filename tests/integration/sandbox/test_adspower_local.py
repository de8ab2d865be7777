"""AdsPower's stand-in: its list, its browsers, its errors."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.sandbox import running


class AdsPower:
    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http, self._url = http, url

    async def get(self, path: str, **params: Any) -> dict[str, Any]:
        answer = await self._http.get(f"{self._url}{path}", params=params)
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        return body

    async def list(self, **params: Any) -> dict[str, Any]:
        return await self.get("/api/v1/user/list", **params)

    async def start(self, user_id: str) -> dict[str, Any]:
        return await self.get("/api/v1/browser/start", user_id=user_id)

    async def stop(self, user_id: str) -> dict[str, Any]:
        return await self.get("/api/v1/browser/stop", user_id=user_id)


@pytest.fixture
def adspower(http: httpx.AsyncClient, info: SandboxInfo) -> AdsPower:
    return AdsPower(http, info.adspower_url)


async def test_status_says_that_the_app_runs(adspower: AdsPower):
    assert await adspower.get("/status") == {"code": 0, "msg": "success", "data": {}}


async def test_the_list_has_pages_and_ends_with_an_empty_one(adspower: AdsPower):
    answers = [await adspower.list(page=page, page_size=30) for page in (1, 2, 3, 4)]
    assert {answer["code"] for answer in answers} == {0}
    assert [answer["data"]["page"] for answer in answers] == [1, 2, 3, 4]
    assert {answer["data"]["page_size"] for answer in answers} == {30}
    rows = [row for answer in answers for row in answer["data"]["list"]]
    assert [len(answer["data"]["list"]) for answer in answers] == [30, 30, len(rows) - 60, 0]
    assert len({row["user_id"] for row in rows}) == len(rows) >= 65


async def test_page_has_one_row_by_default(adspower: AdsPower):
    assert len((await adspower.list())["data"]["list"]) == 1


async def test_list_finds_one_profile_by_id(adspower: AdsPower, profile: ProfileInfo):
    (row,) = (await adspower.list(user_id=profile.id))["data"]["list"]
    assert (row["user_id"], row["name"], row["remark"]) == (profile.id, profile.account, "")
    assert row["group_name"] == "sandbox"
    assert row["user_proxy_config"]["proxy_password"].startswith("proxy-password-")
    assert (await adspower.list(user_id="unknown"))["data"]["list"] == []


async def test_browser_is_started_and_stopped(
    adspower: AdsPower,
    http: httpx.AsyncClient,
    info: SandboxInfo,
    admin: SandboxAdmin,
    profile: ProfileInfo,
):
    """It is the browser that GoLogin's stand-in has for the profile."""
    started = await adspower.start(profile.id)
    data = started["data"]
    assert (started["code"], started["msg"]) == (0, "success")
    assert urlsplit(data["ws"]["puppeteer"]).netloc == data["ws"]["selenium"]
    assert data["ws"]["selenium"] == f"127.0.0.1:{data['debug_port']}"
    assert "chromedriver" in data["webdriver"]
    version = (await http.get(f"http://{data['ws']['selenium']}/json/version")).json()
    assert version["webSocketDebuggerUrl"] == data["ws"]["puppeteer"]
    assert (await adspower.start(profile.id))["data"] == data
    body = {"profileId": profile.id}
    answer = await http.post(f"{info.gologin_local_url}/browser/start-profile", json=body)
    assert answer.json()["wsUrl"] == data["ws"]["puppeteer"]
    assert await running(admin, profile.id) == [profile.id]
    assert (await adspower.stop(profile.id))["code"] == 0
    assert await running(admin, profile.id) == []
    assert await adspower.stop(profile.id) == {"code": -1, "msg": "User_id is not open"}


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        ("/api/v1/browser/start", {"user_id": "unknown"}, "user account does not exist"),
        ("/api/v1/browser/start", {}, "user account does not exist"),
        ("/api/v1/browser/stop", {"user_id": "unknown"}, "User_id is not open"),
        ("/api/v1/user/list", {"page": 0}, "page: "),
        ("/api/v1/user/list", {"page_size": 101}, "page_size: "),
    ],
)
async def test_errors_have_adspowers_shape(
    adspower: AdsPower, path: str, params: dict[str, Any], message: str
):
    answer = await adspower.get(path, **params)
    assert answer["code"] == -1
    assert answer["msg"].startswith(message)


async def test_a_call_too_soon_is_refused(adspower: AdsPower, admin: SandboxAdmin):
    await admin.change_settings(adspower_spacing_ms=60_000)
    assert (await adspower.list())["msg"] in ("success", "Too many request per second, please check")
    answers = await asyncio.gather(*(adspower.list() for _ in range(3)))
    assert answers == [{"code": -1, "msg": "Too many request per second, please check"}] * 3
    assert (await adspower.get("/status"))["code"] == 0
    await admin.change_settings(adspower_spacing_ms=0)
    assert (await adspower.list())["code"] == 0


async def test_no_address_starts_nothing(adspower: AdsPower, admin: SandboxAdmin, profile: ProfileInfo):
    await admin.set_fault("adspower.start", "no_ws_url", account=profile.account)
    assert await adspower.start(profile.id) == {"code": 0, "msg": "success", "data": {}}
    assert await running(admin, profile.id) == []


async def test_browser_that_dies_at_its_start_is_reported(
    adspower: AdsPower, admin: SandboxAdmin, profile: ProfileInfo
):
    await admin.set_fault("adspower.start", "start_then_kill", account=profile.account)
    assert (await adspower.start(profile.id))["data"]["ws"]
    assert await running(admin, profile.id) == []


async def test_calls_are_counted_by_endpoint_and_account(
    adspower: AdsPower, admin: SandboxAdmin, profile: ProfileInfo
):
    await admin.clear_stats()
    await adspower.list(user_id=profile.id)
    await adspower.stop(profile.id)
    await adspower.get("/status")
    stats = await admin.stats()
    assert stats.by_endpoint == {"adspower.list": 1, "adspower.stop": 1, "adspower.status": 1}
    assert stats.by_account == {profile.account: 2}


@pytest.mark.parametrize(("kind", "code"), [("rate_limited", -1), ("status", -1)])
async def test_faults_have_adspowers_shape(
    http: httpx.AsyncClient, info: SandboxInfo, admin: SandboxAdmin, kind: str, code: int
):
    await admin.set_fault("adspower.list", kind)
    answer = await http.get(f"{info.adspower_url}/api/v1/user/list")
    assert answer.status_code == (200 if kind == "rate_limited" else 500)
    assert answer.json()["code"] == code
