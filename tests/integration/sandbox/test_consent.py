import asyncio
import re
import shutil
from urllib.parse import parse_qs, urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONSENT_API = "/i/api/2/oauth2/consent"
BUTTON = (By.CSS_SELECTOR, '[data-testid="OAuth_Consent_Button"]')


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


@pytest.mark.parametrize(
    "wrong",
    [
        {"response_type": "token"},
        {"client_id": "unknown"},
        {"redirect_uri": "http://127.0.0.1/elsewhere"},
        {"scope": "tweet.write"},
        {"scope": ""},
        {"state": "s" * 501},
        {"state": None},
        {"code_challenge": "short"},
        {"code_challenge_method": "s256"},
        {"code_challenge_method": "plain"},
    ],
    ids=str,
)
async def test_a_wrong_authorize_url_shows_the_error_page(http, admin, profile, authorize_url, wrong):
    cookies = await admin.sign_in(profile.account)
    header = {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    page = await http.get(authorize_url("AIOTT1", **wrong), headers=header)
    assert page.status_code == 200
    assert 'data-testid="OAuth_Consent_Error_Detail"' in page.text


async def test_page_for_a_signed_out_browser_asks_to_log_in(http, authorize_url):
    page = await http.get(authorize_url("AIOTT1"))
    assert 'data-testid="OAuth_Consent_Log_In_Button"' in page.text


async def test_the_redirect_carries_code_and_state(info, admin: SandboxAdmin, profile, authorize_url):
    redirect = await admin.give_consent(authorize_url("AIOTT1", state="a b&c"), profile.account)
    assert redirect.startswith(f"{info.apps['AIOTT1'].redirect_uri}?")
    assert query_of(redirect).keys() == {"state", "code"}
    assert query_of(redirect)["state"] == "a b&c"


async def test_a_decline_carries_error_and_state(admin: SandboxAdmin, profile, authorize_url):
    redirect = await admin.give_consent(authorize_url("AIOTT1"), profile.account, decision="decline")
    assert query_of(redirect) == {"error": "access_denied", "state": "state-1"}


async def test_a_page_can_be_answered_once_and_only_by_its_own_account(
    http, info, admin: SandboxAdmin, profile, authorize_url
):
    def as_cookie(cookies: dict[str, str]) -> dict[str, str]:
        return {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}

    own = as_cookie(await admin.sign_in(profile.account))
    foreign = as_cookie(await admin.sign_in("sandbox_001"))
    page = await http.get(authorize_url("AIOTT1"), headers=own)
    found = re.search(r'data-ticket="([^"]+)"', page.text)
    assert found
    body = {"ticket": found[1], "decision": "authorize"}
    statuses = [
        (await http.post(f"{info.provider_url}{CONSENT_API}", json=body, headers=header)).status_code
        for header in ({}, foreign, own, own)
    ]
    assert statuses == [403, 403, 200, 403]


async def test_page_works_in_a_real_browser(
    http, info, admin: SandboxAdmin, profile: ProfileInfo, authorize_url
):
    """Disabled until the data arrive, then a click, then the redirect: to an address where nothing listens."""
    await admin.change_settings(
        consent_delay_ms=[2000, 2000]
    )  # a busy machine needs a second for the first look
    started = await http.post(
        f"{info.gologin_local_url}/browser/start-profile", json={"profileId": profile.id, "sync": True}
    )
    address = urlsplit(started.json()["wsUrl"]).netloc
    try:
        seen = await asyncio.to_thread(_authorize_in_browser, address, authorize_url("AIOTT1"))
    finally:
        await http.post(f"{info.gologin_local_url}/browser/stop-profile", json={"profileId": profile.id})
    assert seen["enabled at first"] is False
    assert f"@{profile.account}" in seen["user cell"]
    assert seen["url"].startswith(f"{info.apps['AIOTT1'].redirect_uri}?state=state-1&code=")


def _authorize_in_browser(address: str, url: str) -> dict:
    options = webdriver.ChromeOptions()
    options.debugger_address = address
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.get(url)
        button = driver.find_element(*BUTTON)
        seen = {"enabled at first": button.is_enabled()}
        WebDriverWait(driver, 15, 0.02).until(lambda _: button.is_enabled())
        seen["user cell"] = driver.find_element(By.CSS_SELECTOR, '[data-testid="UserCell"]').text
        button.click()
        WebDriverWait(driver, 15, 0.02).until(lambda _: "code=" in driver.current_url)
        return seen | {"url": driver.current_url}
    finally:
        driver.quit()
