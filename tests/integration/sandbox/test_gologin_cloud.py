import httpx
import pytest

from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from sandbox.process import SandboxProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def bearer(info: SandboxInfo) -> dict[str, str]:
    return {"authorization": f"Bearer {info.gologin_api_token}"}


async def test_the_list_has_thirty_rows_a_page_and_ends_with_an_empty_one(http, info, bearer):
    pages = [
        (await http.get(f"{info.gologin_api_url}/browser/v2?page={page}", headers=bearer)).json()
        for page in (1, 2, 3, 4)
    ]
    rows = [len(page["profiles"]) for page in pages]
    assert rows[:2] == [30, 30]
    assert rows[3] == 0
    assert sum(rows) == pages[0]["allProfilesCount"] >= 65
    assert len({row["id"] for page in pages for row in page["profiles"]}) == sum(rows)


async def test_a_row_has_a_stray_space_sometimes_and_the_proxy_password_in_clear(http, info, bearer):
    answer = await http.get(f"{info.gologin_api_url}/browser/v2?page=1", headers=bearer)
    rows = answer.json()["profiles"]
    assert [row["name"] for row in rows[:4]] == ["sandbox_001", "sandbox_002 ", "sandbox_003", " sandbox_004"]
    assert rows[0]["proxy"]["password"].startswith("proxy-password-")
    assert len(rows[0]["id"]) == 24


async def test_search_filters_by_name(http, info, bearer, profile: ProfileInfo):
    answer = await http.get(
        f"{info.gologin_api_url}/browser/v2", params={"search": profile.account.upper()}, headers=bearer
    )
    assert [row["id"] for row in answer.json()["profiles"]] == [profile.id]
    assert answer.json()["allProfilesCount"] == 1


async def test_profile_and_user_are_shown(http, info, bearer, profile: ProfileInfo):
    found = await http.get(f"{info.gologin_api_url}/browser/{profile.id}", headers=bearer)
    assert found.json()["name"] == profile.account
    assert (await http.get(f"{info.gologin_api_url}/user", headers=bearer)).status_code == 200


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [("/browser/v2", None, 401), ("/user", "Bearer wrong", 401), ("/browser/v2?page=0", "right", 400),
     ("/browser/000000000000000000000000", "right", 404)],
)  # fmt: skip
async def test_errors_have_gologins_shape(http: httpx.AsyncClient, info, bearer, path, token, status):
    headers = bearer if token == "right" else {"authorization": token} if token else {}
    answer = await http.get(f"{info.gologin_api_url}{path}", headers=headers)
    assert answer.status_code == answer.json()["statusCode"] == status
    assert answer.json().keys() == {"statusCode", "error", "message"}


async def test_a_429_revokes_the_token_for_good(http, info, bearer, admin: SandboxAdmin):
    await admin.change_settings(gologin_rate_limit=1)
    statuses = [
        (await http.get(f"{info.gologin_api_url}/user", headers=bearer)).status_code for _ in range(3)
    ]
    assert 429 in statuses
    await admin.change_settings(gologin_rate_limit=None)
    assert (await http.get(f"{info.gologin_api_url}/user", headers=bearer)).status_code == 401
    await admin.change_settings(gologin_token_revoked=False)
    assert (await http.get(f"{info.gologin_api_url}/user", headers=bearer)).status_code == 200


async def test_profiles_can_be_renamed_replaced_and_removed(http, info, bearer, admin: SandboxAdmin):
    first = await admin.add_profile("changing", "Old name ")
    assert (await admin.rename_profile("changing", "New name")).name == "New name"
    second = await admin.replace_profile("changing")
    assert second.id != first.id
    assert second.name == "New name"
    await admin.remove_profile("changing")
    for profile_id in (first.id, second.id):
        answer = await http.get(f"{info.gologin_api_url}/browser/{profile_id}", headers=bearer)
        assert answer.status_code == 404


async def test_sandbox_holds_forty_thousand_profiles(http):
    async with SandboxProcess(accounts=40_000) as sandbox:
        headers = {"authorization": f"Bearer {sandbox.info.gologin_api_token}"}
        last = await http.get(f"{sandbox.info.gologin_api_url}/browser/v2?page=1334", headers=headers)
        assert last.json()["allProfilesCount"] == 40_000
        assert last.json()["profiles"][-1]["name"] == "sandbox_40000"
