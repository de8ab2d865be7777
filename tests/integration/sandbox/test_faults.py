import asyncio
import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from sandbox.faults import Endpoint

pytestmark = pytest.mark.asyncio(loop_scope="session")


def is_json(answer: httpx.Response) -> bool:
    try:
        answer.json()
    except ValueError:
        return False
    return True


@pytest.fixture
def calls(http: httpx.AsyncClient, info: SandboxInfo, profile: ProfileInfo):
    """One way to reach each endpoint, as few arguments as possible."""
    bearer = {"authorization": f"Bearer {info.gologin_api_token}"}
    local = {"profileId": profile.id, "sync": False}
    cloud, desktop, provider = info.gologin_api_url, info.gologin_local_url, info.provider_url
    plainbook = info.plainbook_url
    return {
        Endpoint.GOLOGIN_LIST: lambda: http.get(f"{cloud}/browser/v2", headers=bearer),
        Endpoint.GOLOGIN_PROFILE: lambda: http.get(f"{cloud}/browser/{profile.id}", headers=bearer),
        Endpoint.GOLOGIN_USER: lambda: http.get(f"{cloud}/user", headers=bearer),
        Endpoint.LOCAL_START: lambda: http.post(f"{desktop}/browser/start-profile", json=local),
        Endpoint.LOCAL_STOP: lambda: http.post(f"{desktop}/browser/stop-profile", json=local),
        Endpoint.ADSPOWER_STATUS: lambda: http.get(f"{info.adspower_url}/status"),
        Endpoint.ADSPOWER_LIST: lambda: http.get(f"{info.adspower_url}/api/v1/user/list"),
        Endpoint.ADSPOWER_START: lambda: http.get(f"{info.adspower_url}/api/v1/browser/start"),
        Endpoint.ADSPOWER_STOP: lambda: http.get(f"{info.adspower_url}/api/v1/browser/stop"),
        Endpoint.AUTHORIZE: lambda: http.get(f"{provider}/i/oauth2/authorize"),
        Endpoint.CONSENT_DATA: lambda: http.get(f"{provider}/i/api/2/oauth2/consent?ticket=x"),
        Endpoint.CONSENT: lambda: http.post(f"{provider}/i/api/2/oauth2/consent", json={}),
        Endpoint.TOKEN: lambda: http.post(f"{provider}/2/oauth2/token"),
        Endpoint.REVOKE: lambda: http.post(f"{provider}/2/oauth2/revoke"),
        Endpoint.ME: lambda: http.get(f"{provider}/2/users/me"),
        Endpoint.OAUTH1_REQUEST_TOKEN: lambda: http.post(f"{provider}/oauth/request_token"),
        Endpoint.OAUTH1_AUTHORIZE: lambda: http.get(f"{provider}/oauth/authorize"),
        Endpoint.OAUTH1_CONSENT: lambda: http.post(f"{provider}/oauth/authorize"),
        Endpoint.OAUTH1_ACCESS_TOKEN: lambda: http.post(f"{provider}/oauth/access_token"),
        Endpoint.OAUTH1_REVOKE: lambda: http.post(f"{provider}/1.1/oauth/invalidate_token"),
        Endpoint.PLAINBOOK_AUTHORIZE: lambda: http.get(f"{plainbook}/authorize"),
        Endpoint.PLAINBOOK_CONSENT: lambda: http.post(f"{plainbook}/consent"),
        Endpoint.PLAINBOOK_TOKEN: lambda: http.post(f"{plainbook}/token"),
        Endpoint.PLAINBOOK_REVOKE: lambda: http.post(f"{plainbook}/revoke"),
        Endpoint.PLAINBOOK_ME: lambda: http.get(f"{plainbook}/me"),
    }


@pytest.mark.parametrize("endpoint", list(Endpoint))
async def test_every_endpoint_has_faults_and_they_end(calls, admin: SandboxAdmin, endpoint: Endpoint):
    call = calls[endpoint]
    await admin.set_fault(endpoint, "status", status=503, body="down", times=1)
    broken = await call()
    assert (broken.status_code, broken.text) == (503, "down")
    assert (await call()).status_code != 503
    assert await admin.faults() == []
    last = (await admin.requests(limit=2, endpoint=endpoint))[0]
    assert (last.status, last.fault) == (503, "status")


GENERAL = {
    "status": ({}, lambda a: a.status_code == 500 and a.json()["statusCode"] == 500),
    "status with body": ({"status": 403, "body": {"message": "no"}}, lambda a: a.json() == {"message": "no"}),
    "echo": ({}, lambda a: a.status_code == 400 and a.json()["message"].startswith("Bearer ")),
    "html": ({}, lambda a: a.status_code == 502 and "text/html" in a.headers["content-type"]),
    "html_1015": ({}, lambda a: a.status_code == 429 and a.text == "error code: 1015"),
    "truncated_json": ({}, lambda a: a.status_code == 200 and a.text.startswith("{") and not is_json(a)),
    "empty_body": ({}, lambda a: a.status_code == 200 and not a.content),
    "rate_limited": ({}, lambda a: a.status_code == 429 and a.json()["statusCode"] == 429),
}


@pytest.mark.parametrize("kind", GENERAL)
async def test_general_faults_answer_as_described(calls, admin: SandboxAdmin, profile, kind):
    details, holds = GENERAL[kind]
    await admin.set_fault("gologin.profile", kind.split(" ")[0], account=profile.account, **details)
    assert holds(await calls[Endpoint.GOLOGIN_PROFILE]())


@pytest.mark.parametrize("kind", ["drop", "drop_after"])
async def test_dropped_connection_is_seen_by_the_client(calls, admin: SandboxAdmin, profile, kind):
    await admin.set_fault("gologin.profile", kind, account=profile.account, times=1)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await calls[Endpoint.GOLOGIN_PROFILE]()
    assert (await calls[Endpoint.GOLOGIN_PROFILE]()).status_code == 200


@pytest.mark.parametrize("kind", ["hang", "hang_after"])
async def test_a_hang_lasts_as_long_as_the_client(http, info, admin: SandboxAdmin, profile, kind):
    await admin.set_fault("gologin.profile", kind, account=profile.account)
    headers = {"authorization": f"Bearer {info.gologin_api_token}"}
    with pytest.raises(httpx.ReadTimeout):
        await http.get(f"{info.gologin_api_url}/browser/{profile.id}", headers=headers, timeout=0.2)


async def test_a_delay_comes_before_another_fault(calls, admin: SandboxAdmin, profile):
    await admin.set_fault("gologin.profile", "delay", account=profile.account, seconds=0.2)
    await admin.set_fault("gologin.profile", "status", account=profile.account, status=500)
    started = time.monotonic()
    assert (await calls[Endpoint.GOLOGIN_PROFILE]()).status_code == 500
    assert time.monotonic() - started >= 0.2


async def test_a_fault_meets_only_its_account(calls, admin: SandboxAdmin, profile):
    await admin.set_fault("gologin.profile", "status", account="somebody_else")
    assert (await calls[Endpoint.GOLOGIN_PROFILE]()).status_code == 200
    await admin.clear_faults(account=profile.account)
    assert len(await admin.faults()) == 1


async def test_the_providers_rate_limit_has_its_headers(calls, admin: SandboxAdmin):
    await admin.set_fault("provider.me", "rate_limited", seconds=30)
    answer = await calls[Endpoint.ME]()
    assert answer.status_code == 429
    assert 0 <= int(answer.headers["x-rate-limit-reset"]) - time.time() <= 31
    assert answer.headers["x-rate-limit-remaining"] == "0"


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"endpoint": "provider.me", "kind": "signed_out"}, "wrong_account"),
        ({"endpoint": "provider.nothing", "kind": "hang"}, "provider.authorize"),
        ({"endpoint": "provider.me", "kind": "hang", "acount": "x"}, "acount"),
        ({"endpoint": "provider.me", "kind": "hang", "times": 0}, "times"),
    ],
)
async def test_a_fault_that_does_not_exist_is_refused(http, info, admin: SandboxAdmin, spec, word):
    answer = await http.post(f"{info.admin_url}/faults", json=spec)
    assert answer.status_code == 422
    assert word in answer.text
    assert await admin.faults() == []


PAGES = {
    "signed_out": 'data-testid="OAuth_Consent_Log_In_Button"',
    "signed_out_redirect": "Log in",
    "locked": "Your account has been locked",
    "human_check": "verify you are human",
    "error_page": 'data-testid="OAuth_Consent_Error_Detail"',
}
PATHS = {"signed_out_redirect": "/i/flow/login", "locked": "/account/access"}


@pytest.mark.parametrize("kind", PAGES)
async def test_faults_show_pages_in_place_of_consent(info, admin: SandboxAdmin, profile, authorize_url, kind):
    await admin.set_fault("provider.authorize", kind, account=profile.account)
    cookies = await admin.sign_in(profile.account)
    async with httpx.AsyncClient(cookies=cookies, follow_redirects=True, trust_env=False) as browser:
        page = await browser.get(authorize_url("AIOTT1"))
    assert page.status_code == 200
    assert PAGES[kind] in page.text
    assert page.url.path == PATHS.get(kind, "/i/oauth2/authorize")


async def redirect_query(admin: SandboxAdmin, url: str, account: str) -> dict[str, str]:
    redirect = await admin.give_consent(url, account)
    return {name: values[0] for name, values in parse_qs(urlsplit(redirect).query).items()}


async def test_fault_declines_although_authorize_was_pressed(admin: SandboxAdmin, profile, authorize_url):
    await admin.set_fault("provider.authorize", "declined", account=profile.account)
    answer = await redirect_query(admin, authorize_url("AIOTT1"), profile.account)
    assert answer == {"error": "access_denied", "state": "state-1"}


async def test_fault_answers_with_a_wrong_state(admin: SandboxAdmin, profile, authorize_url):
    await admin.set_fault("provider.authorize", "wrong_state", account=profile.account)
    answer = await redirect_query(admin, authorize_url("AIOTT1"), profile.account)
    assert answer["code"]
    assert answer["state"] != "state-1"


async def exchange(http: httpx.AsyncClient, info: SandboxInfo, code: str) -> dict:
    app = info.apps["AIOTT1"]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": app.redirect_uri}
    answer = await http.post(
        f"{info.provider_url}/2/oauth2/token",
        data=form | {"code_verifier": "v" * 64},
        auth=(app.client_id, app.client_secret or ""),
    )
    return answer.json()


@pytest.mark.parametrize(
    ("scope", "granted"), [(None, "tweet.read users.read"), ("users.read", "users.read")]
)
async def test_fault_grants_a_smaller_scope(
    http, info, admin: SandboxAdmin, profile, authorize_url, scope, granted
):
    await admin.set_fault("provider.authorize", "smaller_scope", account=profile.account, scope=scope)
    answer = await redirect_query(admin, authorize_url("AIOTT1"), profile.account)
    assert (await exchange(http, info, answer["code"]))["scope"] == granted


@pytest.mark.parametrize("endpoint", ["provider.authorize", "provider.me"])
async def test_fault_signs_in_a_wrong_account(
    http, info, admin: SandboxAdmin, profile, authorize_url, endpoint
):
    await admin.set_fault(endpoint, "wrong_account", account=profile.account)
    answer = await redirect_query(admin, authorize_url("AIOTT1"), profile.account)
    token = (await exchange(http, info, answer["code"]))["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    me = await http.get(f"{info.provider_url}/2/users/me", headers=headers)
    assert me.json()["data"]["username"] not in ("", profile.account)


async def test_a_token_fault_finds_its_account_by_code_and_token(
    http, info, admin: SandboxAdmin, profile, authorize_url
):
    await admin.set_fault("provider.token", "status", account=profile.account, status=400)
    answer = await redirect_query(admin, authorize_url("AIOTT1"), profile.account)
    other = await redirect_query(admin, authorize_url("AIOTT1"), "sandbox_007")
    refused = await exchange(http, info, answer["code"])
    assert refused["error_description"] == "Value passed for the token was invalid."
    assert (await exchange(http, info, other["code"]))["access_token"]


async def test_a_lost_answer_still_rotates_the_refresh_token(
    http, info, admin: SandboxAdmin, profile, authorize_url
):
    answer = await redirect_query(admin, authorize_url("AIOTT1"), profile.account)
    token = (await exchange(http, info, answer["code"]))["refresh_token"]
    app = info.apps["AIOTT1"]

    async def refresh() -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": token}
        auth = (app.client_id, app.client_secret or "")
        return await http.post(f"{info.provider_url}/2/oauth2/token", data=form, auth=auth)

    await admin.set_fault("provider.token", "drop_after", account=profile.account, times=1)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await refresh()
    assert (await refresh()).status_code == 400


async def test_the_callback_hangs_by_fault_and_by_app(info, admin: SandboxAdmin, profile, authorize_url):
    redirects = [
        await admin.give_consent(authorize_url(app), profile.account)
        for app in ("AIOTT2", "AIOTT3", "AIOTT1")
    ]
    async with httpx.AsyncClient(
        cookies=await admin.sign_in(profile.account), trust_env=False, timeout=0.3
    ) as browser:
        assert (await browser.get(redirects[0])).status_code == 200
        await admin.set_fault("provider.authorize", "callback_hang", account=profile.account)
        for redirect in redirects[:2]:
            with pytest.raises(httpx.ReadTimeout):
                await browser.get(redirect)
        with pytest.raises(httpx.ConnectError):
            await browser.get(redirects[2])


async def test_requests_are_counted_by_endpoint_and_account(calls, admin: SandboxAdmin, profile):
    before = await admin.stats()
    await asyncio.gather(*(calls[Endpoint.GOLOGIN_PROFILE]() for _ in range(5)))
    after = await admin.stats()
    assert after.by_endpoint["gologin.profile"] - before.by_endpoint.get("gologin.profile", 0) == 5
    assert after.by_account[profile.account] == 5
    records = await admin.requests(account=profile.account)
    assert [(record.method, record.status) for record in records] == [("GET", 200)] * 5
