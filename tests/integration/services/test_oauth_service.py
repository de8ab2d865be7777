"""From the authorize URL to the revoked token, at X and at a provider that only a file describes."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from app.clients.oauth.oauth2 import OAuthProviderClient
from app.config import OAuthApp
from app.services.browser.consent_tab import parse_callback
from app.services.interfaces import TokenSet
from app.services.oauth.provider import OAuthProvider
from app.services.oauth.provider_file import load_providers
from app.services.oauth.rate_limits import ProviderRateLimits
from app.services.oauth_service import OAuthService
from app.utils.exceptions import InvalidClientException, InvalidGrantException, TwitterAPIException
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.logs import LogLines
from tests.fixtures.plainbook import consent, providers_file, signed_in
from tests.fixtures.settings import MakeSettings

NEVER = SecretStr("never-issued")


@pytest.fixture
def providers(make_settings: MakeSettings, info: SandboxInfo, tmp_path: Path) -> dict[str, OAuthProvider]:
    urls = {"x_web_url": info.provider_url, "x_api_url": info.provider_url}
    return load_providers(make_settings(providers_file=providers_file(info, tmp_path), **urls))


@pytest.fixture
def service(http: httpx.AsyncClient, info: SandboxInfo, providers: dict[str, OAuthProvider]) -> OAuthService:
    plain = OAuthApp(**info.plainbook_app.model_dump(), provider="plainbook")
    apps = {
        "AIOTT1": OAuthApp(**info.apps["AIOTT1"].model_dump()),
        "PLAIN1": plain.model_copy(update={"scopes": ()}),
        "WRONG1": plain.model_copy(update={"client_secret": SecretStr("wrong")}),
        "PUBLIC1": plain.model_copy(update={"client_secret": None}),
    }
    return OAuthService(
        apps=apps,
        providers=providers,
        client=OAuthProviderClient(http=http, timeout=10),
        budgets=ProviderRateLimits(apps=apps),
    )


async def authorized(service: OAuthService, admin: SandboxAdmin, app: str, account: str) -> TokenSet:
    request = await service.generate_auth_url(app)
    if app == "AIOTT1":
        callback = await admin.give_consent(request.url, account)
    else:
        async with await signed_in(admin, account) as browser:
            callback = (await consent(browser, request.url, account)).headers["location"]
    code = parse_callback(callback, request, account)
    return await service.exchange_code_for_tokens(app, code=code, authorization=request)


@pytest.mark.parametrize(("app", "rotates"), [("AIOTT1", True), ("PLAIN1", False)])
async def test_tokens_live_from_exchange_to_revocation(
    service: OAuthService, admin: SandboxAdmin, profile: ProfileInfo, app: str, rotates: bool
):
    first = await authorized(service, admin, app, profile.account)
    assert first.scopes == service.app(app).scopes
    assert first.refresh_token is not None
    user = await service.verify_credentials(app, first.access_token)
    assert (user.username, user.id.isdecimal()) == (profile.account, True)

    second = await service.refresh_access_token(app, first.refresh_token)
    assert second.access_token != first.access_token
    assert second.refresh_token is not None
    assert (second.refresh_token != first.refresh_token) is rotates

    await service.revoke_token(app, second.refresh_token)
    with pytest.raises(TwitterAPIException, match=r"API error \(401\)"):
        await service.verify_credentials(app, second.access_token)
    with pytest.raises(InvalidGrantException):
        await service.refresh_access_token(app, second.refresh_token)


async def test_a_refresh_token_without_a_successor_is_kept(
    service: OAuthService, admin: SandboxAdmin, log_lines: LogLines
):
    """RFC 6749, section 6; also where the provider was said to rotate its refresh tokens."""
    body = {"access_token": "a", "token_type": "bearer", "expires_in": 1}
    await admin.set_fault("provider.token", "status", status=200, body=body, times=1)
    assert (await service.refresh_access_token("AIOTT1", NEVER)).refresh_token == NEVER
    (line,) = [line for line in log_lines() if line["event"] == "token.no_successor"]
    assert line["api_app"] == "AIOTT1"


async def test_a_form_is_a_token_answer(service: OAuthService, admin: SandboxAdmin):
    """As GitHub answers, whatever was asked for."""
    form = "\ufeffaccess_token=a%2Bb&refresh_token=r&expires_in=60&scope=x%2Cy&token_type=bearer"
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    await admin.set_fault("plainbook.token", "status", status=200, body=form, headers=headers, times=1)
    tokens = await service.refresh_access_token("PLAIN1", NEVER)
    assert (tokens.access_token, tokens.refresh_token) == (SecretStr("a+b"), SecretStr("r"))
    assert (tokens.expires_in, tokens.scopes) == (60, ("x", "y"))


async def test_error_in_a_form_is_raised(service: OAuthService, admin: SandboxAdmin):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    form = "error=invalid_grant&error_description=Too+old"
    await admin.set_fault("plainbook.token", "status", status=200, body=form, headers=headers, times=1)
    with pytest.raises(InvalidGrantException, match="Too old"):
        await service.refresh_access_token("PLAIN1", NEVER)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"token_type": "mac"}, "token_type: mac came"),
        ({"access_token": None}, "access_token: nothing came"),
    ],
)
async def test_the_tokens_of_an_answer_that_cannot_be_used_are_revoked(
    service: OAuthService,
    admin: SandboxAdmin,
    profile: ProfileInfo,
    changes: dict[str, object],
    problem: str,
):
    await admin.set_fault("provider.token", "alter", body=changes, times=1, account=profile.account)
    with pytest.raises(TwitterAPIException, match=problem) as caught:
        await authorized(service, admin, "AIOTT1", profile.account)
    assert caught.value.may_have_acted
    assert not [grant for grant in await admin.grants(profile.account) if grant.usable]


async def test_an_error_beside_tokens_costs_no_tokens(
    service: OAuthService, admin: SandboxAdmin, profile: ProfileInfo
):
    await admin.set_fault("provider.token", "alter", body={"error": "odd"}, times=1, account=profile.account)
    tokens = await authorized(service, admin, "AIOTT1", profile.account)
    assert (await service.verify_credentials("AIOTT1", tokens.access_token)).username == profile.account


@pytest.mark.parametrize(("app", "name"), [("AIOTT1", "Twitter"), ("PLAIN1", "Plainbook")])
async def test_an_error_names_its_provider(service: OAuthService, admin: SandboxAdmin, app: str, name: str):
    with pytest.raises(InvalidGrantException, match=rf"^{name} API error \(400\): "):
        await service.refresh_access_token(app, NEVER)
    endpoint = "provider.token" if app == "AIOTT1" else "plainbook.token"
    await admin.set_fault(endpoint, "status", status=503, times=1)
    with pytest.raises(TwitterAPIException, match=rf"^{name} API error \(503\): ") as caught:
        await service.refresh_access_token(app, NEVER)
    assert caught.value.retryable


@pytest.mark.parametrize("app", ["WRONG1", "PUBLIC1"])
async def test_a_wrong_secret_in_the_body_is_the_apps_fault(service: OAuthService, app: str):
    with pytest.raises(InvalidClientException, match="Plainbook"):
        await service.refresh_access_token(app, NEVER)


async def test_the_secret_goes_where_the_provider_wants_it(
    http: httpx.AsyncClient, service: OAuthService, providers: dict[str, OAuthProvider]
):
    by_header = replace(providers["plainbook"], client_auth="basic")
    other = OAuthService(
        apps={"PLAIN1": service.app("PLAIN1")},
        providers={"plainbook": by_header},
        client=OAuthProviderClient(http=http, timeout=10),
        budgets=ProviderRateLimits(apps=["PLAIN1"]),
    )
    with pytest.raises(InvalidClientException):
        await other.refresh_access_token("PLAIN1", NEVER)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("invalid_grant", InvalidGrantException),
        ("invalid_client", InvalidClientException),
        ("bad_verification_code", InvalidGrantException),
        ("bad_refresh_token", InvalidGrantException),
        ("incorrect_client_credentials", InvalidClientException),
        ("unknown_word", TwitterAPIException),
    ],
)
async def test_error_under_http_200_is_raised(
    service: OAuthService, admin: SandboxAdmin, code: str, expected: type[Exception]
):
    await admin.set_fault("plainbook.token", "status", status=200, body={"error": code}, times=1)
    with pytest.raises(TwitterAPIException, match=code) as caught:
        await service.refresh_access_token("PLAIN1", NEVER)
    assert caught.type is expected
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('{"user": {"login": "a.b", "uid": 7}}', ("a.b", "7")),
        ('{"user": {"login": "A", "uid": "u-1", "more": []}}', ("a", "u-1")),
        ('{"user": {"login": "", "uid": 7}}', None),
        ('{"user": {"login": "a", "uid": true}}', None),
        ('{"user": {"login": null, "uid": 7}}', None),
        ('{"user": {"login": {"x": "a"}, "uid": 7}}', None),
        ('{"user": [{"login": "a", "uid": 7}]}', None),
        ('{"user": {"login": "a", "uid": "' + "7" * 256 + '"}}', None),
        ("[]", None),
        ("not json", None),
    ],
)
async def test_who_am_i_is_read_by_its_path(
    service: OAuthService, admin: SandboxAdmin, body: str, found: tuple[str, str] | None
):
    await admin.set_fault("plainbook.me", "status", status=200, body=body, times=1)
    if found is None:
        with pytest.raises(TwitterAPIException, match=r"Plainbook .* not what was expected"):
            await service.verify_credentials("PLAIN1", NEVER)
    else:
        user = await service.verify_credentials("PLAIN1", NEVER)
        assert (user.username, user.id) == found


async def test_a_path_may_go_through_a_list(
    http: httpx.AsyncClient, admin: SandboxAdmin, providers: dict[str, OAuthProvider]
):
    api = replace(providers["plainbook"], username_path="accounts.1.mail", user_id_path="accounts.1.id")
    client = OAuthProviderClient(http=http, timeout=10)
    body = '{"accounts": [{}, {"mail": "a@b.example", "id": 0}]}'
    await admin.set_fault("plainbook.me", "status", status=200, body=body, times=1)
    assert (await client.me(api, "token")).username == "a@b.example"
    await admin.set_fault("plainbook.me", "status", status=200, body='{"accounts": [{}]}', times=1)
    with pytest.raises(TwitterAPIException):
        await client.me(api, "token")


async def test_revocation_without_an_endpoint_sends_nothing(
    http: httpx.AsyncClient,
    service: OAuthService,
    providers: dict[str, OAuthProvider],
    admin: SandboxAdmin,
    log_lines: LogLines,
):
    await admin.clear_stats()
    other = OAuthService(
        apps={"PLAIN1": service.app("PLAIN1")},
        providers={"plainbook": replace(providers["plainbook"], revoke_url="")},
        client=OAuthProviderClient(http=http, timeout=10),
        budgets=ProviderRateLimits(apps=["PLAIN1"]),
    )
    await other.revoke_token("PLAIN1", SecretStr("clear-token"))
    assert await admin.requests() == []
    (line,) = [line for line in log_lines() if line["event"] == "token.not_revocable"]
    assert (line["api_app"], line["provider"]) == ("PLAIN1", "Plainbook")
    assert "clear-token" not in str(line)
